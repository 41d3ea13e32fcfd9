"""Errors at every system call: of a conversion, a recovery, a way back; of each engine.

One case is one operation with one fault at one call. What must hold afterwards (``judge``) is asserted with an
oracle that reads the database without the store's code:

* it is wholly old or wholly new; after an error that says it is as it was, byte for byte so;
* exit code, message and hint say which;
* the next run finishes, every record is there, nothing is left over, and it is counted once.
"""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from format_store import errors, history, recover
from tests.proof.error_scenarios import Scenario, all_of_them
from tests.proof.injection import Ending, Place, Request, Zygote
from tests.proof.report import Report
from tests.support.databases import leftovers
from tests.support.kept_workers import kept_workers

ERRNOS = ("ENOSPC", "EIO", "EACCES", "EINTR", "EDQUOT", "EROFS")
#: The kernel took nothing: what a writer gets when there is no room, and no error yet.
SHORT_WRITES = frozenset({"write", "pwrite64", "pwritev", "pwritev2", "copy_file_range"})
KILL = "signal=KILL"
#: Calls that only look, which there are hundreds of: the long form meets each with one errno, by a seed.
LOOKING = frozenset({"newfstatat", "fcntl", "pread64", "getdents64", "lseek", "read", "access"})
#: Threads that an operation may start beside the first; a place of one that it does not start does not exist.
THREADS = 4
SEED = 20261127
#: Where files are made to end: in the middle of a sector, of a page, of a manifest; up to what all of them need.
FILE_SIZES = tuple(range(0, 100_000, 1237))

#: What a message or a hint may say, and what it then means.
AS_IT_WAS = re.compile(
    r"as it was|as they were|as this run found it|was not touched|[Nn]othing was (touched|changed|restored|deleted|replaced)"
    r"|left as it is|old format, complete|is, or is again|old file is in place|old database is in place"
)
IS_NEW = re.compile(r"new database is in place|is converted|the database is complete")


@dataclass(frozen=True)
class Case:
    """One fault at one place of one operation; ``again``: the recovery is killed there (if it gets there)."""

    scenario: Scenario
    place: Place
    fault: str
    again: Place | None = None

    def __str__(self) -> str:
        then = f", then a kill at {self.again}" if self.again else ""
        return f"{self.scenario.name}: {self.fault} at {self.place} ({self.place.text[:120]}){then}"


def faults(place: Place) -> list[str]:
    found = [f"error={name}" for name in ERRNOS]
    if place.name in SHORT_WRITES:
        found.append("retval=0")
    return found


def judge(scenario: Scenario, path: Path, ending: Ending, before: bytes | None) -> str:
    """Everything that must hold after ``ending``; returns how it ended, for counting. Raises AssertionError."""
    with tempfile.TemporaryDirectory(dir=path.parents[1]) as elsewhere:
        # Looking works off journals: not before the store has had to.
        copy = Path(shutil.copytree(path.parent, Path(elsewhere, "copy"))) / path.name
        state = scenario.state(copy)
    said = f"{ending.code} {ending.said}"
    if ending.code == 0:
        assert state == "new" or scenario.only_recovers, said
        assert beside(path) == [], said
        outcome = "done"
    elif ending.code == -9:
        outcome = "killed"
    else:
        outcome = judge_error(scenario, path, ending, state, before)
    if ending.code != 0:
        recover(path)
    if outcome not in ("killed", "OutcomeUnknown"):
        assert scenario.state(path) == ("old" if state == "lost" else state), said
    assert path.stat().st_nlink == 1
    assert recover(path).recoveries == ()
    scenario.finish(path)
    assert scenario.state(path) == "new"
    assert beside(path) == []
    assert path.stat().st_mode == scenario.mode
    assert history.read(path).totals["conversions.succeeded"] == scenario.conversions, said
    return outcome


def judge_error(
    scenario: Scenario, path: Path, ending: Ending, state: str, before: bytes | None
) -> str:
    """Exit code, message and hint of a refusal or failure: they agree with each other and with the disk."""
    said = f"{ending.code} {ending.said}"
    assert ending.code in (1, 3, 4, 75), said
    reason = ending.said["reason"]
    assert getattr(errors, reason).exit_code == ending.code, said
    text = f"{ending.said['message']} {ending.said['hint']}"
    old_said, new_said = AS_IT_WAS.search(text), IS_NEW.search(text)
    assert old_said or new_said, f"says nothing of the database: {said}"
    if reason == "OutcomeUnknown":
        return str(reason)
    if reason == "CleanUpPending" and scenario.before == "lost":
        assert state == "old", said
    elif reason == "CleanUpPending" or (new_said and not old_said):
        assert state == "new", said
    else:
        assert state == scenario.before, said
        # A backup stays beside a database that cannot be read: for that, a person is asked.
        keeps = reason == "PrimaryUnsound" and scenario.operation in ("delete", "prune")
        assert ending.code != 4 or keeps, said
        if before is not None:
            assert path.read_bytes() == before, said
    return str(reason)


def beside(path: Path) -> list[str]:
    """What lies where nothing may be left: in the database's directory, and in its state, but for backups."""
    state = f".{path.name}.storageformat"
    found = [name.name for name in path.parent.iterdir() if name.name not in (path.name, state)]
    return found + [
        name
        for name in leftovers(path)
        if not re.fullmatch(
            r"(backups/[^/.]+/(preimage\.db|manifest\.json)|quarantine/[^/.]+/orders\.db)", name
        )
    ]


@dataclass
class Tally:
    """What was tried, how it ended, and what did not hold."""

    tried: int = 0
    missed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


class Bench:
    """Runs cases, two at a time, each in a directory of its own below ``directory``."""

    def __init__(self, directory: Path, jobs: int = 2) -> None:
        self._directory = directory
        self._jobs = jobs
        self._free: SimpleQueue[Zygote] = SimpleQueue()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(kept_workers())
            for _ in range(self._jobs):
                self._free.put(stack.enter_context(Zygote()))
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def places(self, scenario: Scenario) -> list[Place]:
        """All of them, of every thread, but for the calls that only differ in what a run happens to do."""
        found = []
        for who in range(THREADS):
            with self._prepared(scenario) as (zygote, path, request, log):
                del path
                found += zygote.places(request, log, who=who)
        return found

    def run(self, cases: Sequence[Case], told: Callable[[int], None] = lambda _: None) -> Tally:
        tally = Tally()
        with ThreadPoolExecutor(self._jobs) as pool:
            for number, (case, outcome, problem) in enumerate(pool.map(self._try, cases)):
                told(number)
                tally.tried += 1
                tally.missed += outcome == "missed"
                tally.outcomes[outcome] += 1
                if problem:
                    tally.lost.append(f"{case}: {problem}")
        return tally

    def limit(self, scenario: Scenario, limit: str, sizes: Sequence[int]) -> Tally:
        """With so much of a resource: its name as in ``Request.limits``.

        ``FSIZE`` makes real short writes: of a file that may not grow further what fits is written, the rest is EFBIG.
        """
        return self.vary(scenario, [{"limits": ((limit, size),)} for size in sizes])

    def vary(self, scenario: Scenario, worlds: Sequence[Mapping[str, Any]]) -> Tally:
        """In each of these worlds: fields of ``Request``."""

        def attempt(world: Mapping[str, Any]) -> tuple[str, str]:
            with self._prepared(scenario) as (zygote, path, request, _):
                before = path.read_bytes() if scenario.rests and path.exists() else None
                ending = zygote.run(replace(request, **world))
                try:
                    return judge(scenario, path, ending, before), ""
                except (AssertionError, errors.StoreError) as error:
                    return "lost", f"{scenario.name} with {world}: {error}"

        tally = Tally()
        with ThreadPoolExecutor(self._jobs) as pool:
            for outcome, problem in pool.map(attempt, worlds):
                tally.tried += 1
                tally.outcomes[outcome] += 1
                tally.lost += [problem] if problem else []
        return tally

    def _try(self, case: Case) -> tuple[Case, str, str]:
        with self._prepared(case.scenario) as (zygote, path, request, log):
            before = path.read_bytes() if case.scenario.rests and path.exists() else None
            ending = zygote.inject(request, case.place, case.fault, log)
            if not ending.injected and ending.code != -9:
                return case, "missed", ""
            try:
                twice = False
                if case.again:
                    second = zygote.inject(case.scenario.recovery(path), case.again, KILL, log)
                    assert second.code in (0, -9), second
                    twice = second.code == -9
                outcome = judge(case.scenario, path, ending, before)
                return case, "killed twice" if twice else outcome, ""
            except (AssertionError, errors.StoreError) as error:
                return case, "lost", f"{type(error).__name__}: {error} after {ending}"

    @contextmanager
    def _prepared(self, scenario: Scenario) -> Iterator[tuple[Zygote, Path, Request, Path]]:
        zygote = self._free.get()
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        try:
            path = scenario.prepare(zygote, directory / "data")
            yield zygote, path, scenario.request(path), directory / "log"
        finally:
            shutil.rmtree(directory)
            self._free.put(zygote)


def chosen(places: Sequence[Place], generator: random.Random) -> list[tuple[Place, str]]:
    """Every errno at every call that changes, opens or closes something; one at each that only looks."""
    found = []
    for place in places:
        every = faults(place)
        if place.name in LOOKING:
            every = [generator.choice(every)]
        found += [(place, fault) for fault in every]
    return found


def cases(bench: Bench, scenarios: Sequence[Scenario], *, seed: int = SEED) -> Iterator[list[Case]]:
    """All cases of the long form, a scenario at a time; kills of recoveries among them."""
    for scenario in scenarios:
        generator = random.Random(f"{seed} {scenario.name}")
        places = bench.places(scenario)
        found = [Case(scenario, place, fault) for place, fault in chosen(places, generator)]
        if scenario.only_recovers:
            found += [Case(scenario, place, KILL) for place in places]
        yield found


def long(report: Report) -> None:
    """Every errno at every call of every operation; and a kill at every call of every recovery."""
    with tempfile.TemporaryDirectory() as name, Bench(Path(name)) as bench:
        for scenario in all_of_them(Path(name)):
            begun = time.monotonic()
            tally = bench.limit(scenario, "FSIZE", FILE_SIZES)
            for problem in tally.lost:
                report.progress(problem)
            report.add(
                "errors", f"short writes: {scenario.name}", tally.tried, len(tally.lost),
                time.monotonic() - begun,
            )  # fmt: skip
        # Scenarios of their own: the first ones' directories have the same names.
        again = Path(name, "again")
        again.mkdir()
        for found in cases(bench, all_of_them(again)):
            scenario = found[0].scenario
            begun = time.monotonic()

            def told(number: int, total: int = len(found), what: str = scenario.name) -> None:
                if number % 200 == 0:
                    report.progress(f"errors: {what}: {number} of {total}")

            tally = bench.run(found, told)
            for problem in tally.lost:
                report.progress(problem)
            report.add(
                "errors", scenario.name, tally.tried - tally.missed, len(tally.lost),
                time.monotonic() - begun, ", ".join(f"{name} {count}" for name, count in sorted(tally.outcomes.items())),
            )  # fmt: skip
