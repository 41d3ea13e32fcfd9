"""Hostile input of every kind: files, values, state directories, paths that are swapped, SQL that tries to get out.

Whatever is found, a call is refused or fails with an error of the store's, and not a byte of the database has
changed; or it is done, and the database holds what it held, as an oracle read it before. Nothing in a file is ever run,
nothing outside the state directory is touched, no case takes more than a minute or more memory than it may.

A case is made from its number, and so can be made again: ``python -m tests.proof.hostile NUMBER NUMBER+1``. They run in
forked processes, so that a crash of the interpreter, or a case that does not end, is a finding, too.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.proof import hostile_files, hostile_sql, hostile_state, hostile_values, planted
from tests.proof.hostile_case import RECORDS, Case
from tests.proof.report import Report
from tests.support.databases import write_plain
from tests.support.interpreter import environment
from tests.support.kept_workers import kept_workers
from tests.support.sqlite_files import EVERY_KIND, write_sql

ROOT: Final = Path(__file__).parents[2]
_BATCH: Final = 100
#: A case takes some 10 ms. One that takes this long hangs.
_PATIENCE_SECONDS: Final = 60
#: The application's own tables beside sqlitedict's: enough for what most damage is about.
SMALL: Final = """
CREATE TABLE log (id INTEGER PRIMARY KEY, line TEXT, size REAL, raw BLOB);
INSERT INTO log (line, size, raw) VALUES ('abc', 1, x'00'), ('ABC', 1.5, NULL), (NULL, -0.0, 'text');
CREATE TABLE far (word TEXT);
INSERT INTO far (rowid, word) VALUES (-3, 'b'), (0, 'c'), (9223372036854775807, 'last');
CREATE INDEX by_line ON log (line, size DESC) WHERE line IS NOT NULL;
CREATE VIEW lines AS SELECT line FROM log;
"""
#: Of a hundred cases so many are of each family.
FAMILIES: Final[dict[Callable[[Case], tuple[str, str]], int]] = {
    hostile_files.judge: 56,
    hostile_values.judge: 15,
    hostile_state.judge: 9,
    planted.judge: 8,
    planted.judge_race: 5,
    hostile_sql.judge: 7,
}
_WHEEL: Final = [family for family, share in FAMILIES.items() for _ in range(share)]


def _batch(
    numbers: range, pristine: dict[str, Path], folder: Path
) -> Iterator[tuple[int, str, str]]:
    for number in numbers:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            # 37 and 100 have no common divisor: all families in turn, and each again after a hundred.
            family = _WHEEL[number * 37 % len(_WHEEL)]
            case = Case(random.Random(number), pristine, Path(name))
            signal.alarm(_PATIENCE_SECONDS)
            try:
                done, wrong = family(case)
                if case.canary.exists():
                    wrong = f"something was run: {wrong}"
            except Exception as error:
                done, wrong = family.__module__, f"{type(error).__name__}: {error}"
            finally:
                signal.alarm(0)
        yield number, done, wrong


def play(numbers: range, *, processes: int = 1) -> tuple[Counter[str], list[str]]:
    """Try these cases; what they came to, and what was not as promised.

    In processes of their own: this one may have threads, whose locks a fork would take along.
    """
    bounds = [numbers.start + len(numbers) * part // processes for part in range(processes + 1)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.proof.hostile", str(first), str(last)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for first, last in pairwise(bounds)
    ]
    said: Counter[str] = Counter()
    lost: list[str] = []
    for process in running:
        out, _ = process.communicate()
        if process.returncode not in (0, 1):
            raise AssertionError(out)
        some, wrong = json.loads(out.splitlines()[-1])
        said += Counter(some)
        lost += wrong
    return said, lost


def _play(numbers: range) -> tuple[Counter[str], list[str]]:
    said: Counter[str] = Counter()
    lost = []
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        pristine = {
            "small": write_sql(folder / "small.db", SMALL),
            "every kind": write_sql(folder / "every-kind.db", EVERY_KIND),
        }
        for path in pristine.values():
            write_plain(path, RECORDS)
        hostile_values.bombs()  # made once, and not in each child
        first = numbers.start
        while first < numbers.stop:
            for number, what, wrong in _forked(range(first, numbers.stop), pristine, folder):
                first = number + 1
                said[what] += 1
                if wrong:
                    lost.append(f"case {number}: {what}: {wrong}")
    return said, lost


def _forked(
    numbers: range, pristine: dict[str, Path], folder: Path
) -> Iterator[tuple[int, str, str]]:
    """The next so many, in a child; one that the child dies of is a finding."""
    batch = numbers[:_BATCH]
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with open(writing, "w", encoding="utf-8") as told, kept_workers():
            for case in _batch(batch, pristine, folder):
                told.write(json.dumps(case) + "\n")
                told.flush()
        os._exit(0)
    os.close(writing)
    following = batch.start
    with open(reading, encoding="utf-8") as pipe:
        for line in pipe:
            number, what, wrong = json.loads(line)
            yield number, what, wrong
            following = number + 1
    _, status = os.waitpid(pid, 0)
    if following < batch.stop:
        yield following, "", f"the process ended with {os.waitstatus_to_exitcode(status)}"


def long(report: Report) -> None:
    """A hundred and twenty thousand cases, on all processors."""
    begun = time.monotonic()
    said, lost = play(range(120_000), processes=len(os.sched_getaffinity(0)))
    for line in lost:
        report.progress(line)
    kinds = Counter(what.rpartition(": ")[2] for what in said.elements())
    report.add(
        "hostile", "damaged, hostile and planted input", said.total(), len(lost), time.monotonic() - begun,
        ", ".join(f"{count:,} {what}" for what, count in kinds.most_common()),
    )  # fmt: skip


def main(numbers: range) -> int:
    said, lost = _play(numbers)
    print(json.dumps([said, lost]))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(range(int(sys.argv[1]), int(sys.argv[2]))))
