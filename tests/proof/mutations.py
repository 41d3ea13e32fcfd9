"""The mutation gate: the protocol broken on purpose, one step at a time, and the test that must see it.

    python -m tests.proof.mutations [WORDS]     all mutations, or those whose names contain a word

Each mutation is one exact replacement in a copy of the store's source. The copy is put first on the path of a
pytest run over the tests that should catch it; a run that passes is a survivor, and the gate fails. So does a text
that is not there exactly once: the list cannot rot unseen. The same tests pass over a copy that is not mutated.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.proof.report import Report

ROOT = Path(__file__).resolve().parents[2]
_STORE = ROOT / "store" / "format_store"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_WORKERS = 2
#: A mutation may make a test wait for ever.
_TEST_SECONDS = 60


@dataclass(frozen=True)
class Mutation:
    """``old`` stands once in ``file`` (below ``store/format_store``) and becomes ``new``; one of ``tests`` fails then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """``caught_by``: the test that failed; empty for a survivor. ``trouble``: the run itself did not work."""

    mutation: Mutation
    caught_by: str
    seconds: float
    trouble: str = ""

    @property
    def caught(self) -> bool:
        return bool(self.caught_by) and not self.trouble

    def __str__(self) -> str:
        how = self.trouble or (f"caught by {self.caught_by}" if self.caught_by else "SURVIVED")
        return f"{self.mutation.name}: {how} ({self.seconds:.1f} s)"


def mutated(source: str, mutation: Mutation) -> str:
    """The source of ``mutation.file`` with the replacement made."""
    count = source.count(mutation.old)
    assert count == 1, f"{mutation.name}: its text stands {count} times in {mutation.file}"
    assert mutation.old != mutation.new, mutation.name
    return source.replace(mutation.old, mutation.new)


def unmade(mutation: Mutation) -> str | None:
    """Why the mutation cannot be made, in words."""
    try:
        compile(mutated((_STORE / mutation.file).read_text(), mutation), mutation.file, "exec")
    except (AssertionError, SyntaxError, OSError) as error:
        return str(error)
    return None


@contextmanager
def copy_of_the_store(mutation: Mutation | None) -> Iterator[Path]:
    """A directory with a copy of the store, and room for the tests' files."""
    # A test that has failed may have left a process that still makes files.
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as directory:
        copy = Path(directory) / "store" / _STORE.name
        shutil.copytree(_STORE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation is not None:
            file = copy / mutation.file
            file.write_text(mutated(file.read_text(), mutation))
        yield Path(directory)


def run_tests(directory: Path, tests: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run tests over the copy in ``directory``, up to the first that fails. Each checks that it is that copy."""
    path = os.pathsep.join([str(directory / "store"), str(ROOT / "devtools"), str(ROOT)])
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "--no-header",
            "-p", "no:cacheprovider", "-p", "tests.proof.mutated_store",
            f"--timeout={_TEST_SECONDS}", f"--basetemp={directory / 'tmp'}", *tests,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "MUTATED_STORE": str(directory / "store")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def judge(mutation: Mutation) -> Verdict:
    """Make the mutation, run its tests, and tell which of them caught it."""
    begun = time.perf_counter()
    with copy_of_the_store(mutation) as directory:
        done = run_tests(directory, mutation.tests)
    seconds = time.perf_counter() - begun
    if done.returncode == 0:
        return Verdict(mutation, "", seconds)
    if (
        done.returncode < 0
    ):  # the very process of the tests was killed, which is what the mutation does to ours
        return Verdict(mutation, f"{mutation.tests[0]} (signal {-done.returncode})", seconds)
    failed = _FAILED.search(done.stdout)
    if done.returncode != 1 or failed is None:
        trouble = f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-600:]}"
        return Verdict(mutation, "", seconds, trouble)
    return Verdict(mutation, failed[1], seconds)


def judged(mutations: Sequence[Mutation], report: Report) -> list[Verdict]:
    """All verdicts, each told as it comes."""
    verdicts = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for number, verdict in enumerate(pool.map(judge, mutations), 1):
            report.progress(f"mutation {number}/{len(mutations)} {verdict}")
            verdicts.append(verdict)
    return verdicts


def passes_unmutated(mutations: Iterable[Mutation]) -> str:
    """Run the tests of all of them over a copy that is as it should be; what fails, in words."""
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    with copy_of_the_store(None) as directory:
        done = run_tests(directory, tests)
    return "" if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-600:]


def gate(mutations: Sequence[Mutation], report: Report) -> list[Verdict]:
    """Judge them and add a row to the report; returns the survivors and those that could not be judged."""
    begun = time.perf_counter()
    wrong = passes_unmutated(mutations)
    if wrong:
        report.progress(f"the tests fail over the store as it is:\n{wrong}")
    verdicts = judged(mutations, report)
    survivors = [verdict for verdict in verdicts if not verdict.caught]
    seconds = time.perf_counter() - begun
    note = ", ".join(verdict.mutation.name for verdict in survivors)
    report.add(
        "mutations",
        "the protocol broken on purpose",
        len(verdicts),
        len(survivors) + bool(wrong),
        seconds,
        note,
    )
    return survivors


def everything() -> list[Mutation]:
    """All mutations, in the order of the protocol."""
    from tests.proof import mutants_content, mutants_order, mutants_protocol

    found = [*mutants_order.MUTATIONS, *mutants_protocol.MUTATIONS, *mutants_content.MUTATIONS]
    assert len({mutation.name for mutation in found}) == len(found)
    return found


def long(report: Report) -> None:
    """All mutations."""
    gate(everything(), report)


def main() -> int:
    words = sys.argv[1:]
    chosen = [
        mutation for mutation in everything()
        if not words or any(word in mutation.name for word in words)
    ]  # fmt: skip
    return 1 if gate(chosen, Report()) else 0


if __name__ == "__main__":
    sys.exit(main())
