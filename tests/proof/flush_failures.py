"""Disks that fail once: each flush, and each write, of a run refused with EIO, on the kernel's own filesystems.

What had been written since the flush before may be gone then, whatever later flushes say: an fsync that succeeds
after one that failed proves nothing. The disk is well again afterwards. With all of those writes, with none, and with
some, after an unmounting and after a power cut, the store recovers, and what the failing run had said must be true.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from tests.proof.block_devices import (
    BY_NAME,
    KINDS,
    Blocks,
    CannotMount,
    apply,
    blocks_of,
    put,
    run_apart,
)
from tests.proof.real_filesystems import SEED, Checker
from tests.proof.recorded_runs import SCENARIO, Recording, Request, Workshop, workshop
from tests.proof.report import Report
from tests.support import preloaded

SCENARIOS = (
    "conversion of many records",
    "conversion of a WAL file",
    "sqlite conversion",
    "restoration",
    "undo",
)
NEVER_SYNCED = "conversion of what was never synced"
_ANSWERS = {
    "0",
    "1 StorageError",
    "1 SourceNotSynced",
    "3 ReadOnly",
    "4 OutcomeUnknown",
    "75 CleanUpPending",
}
#: Drawn subsets of what a failing flush has taken.
DRAWS = 3


@dataclass(frozen=True)
class Case:
    """``what``: ``flush`` or ``write``; ``first``, ``step``: which of them fail, one in each run; ``broken``: as a request's.

    ``times``: how often it is run, before what the kernel remembers is gone.
    """

    kind: str
    scenario: str
    what: str
    first: int = 1
    step: int = 1
    times: int = 1
    broken: str | None = None


@dataclass
class Found:
    """``said``: the exit codes and reasons of failing runs; ``tried``: disks; ``lost`` and ``refused`` in words."""

    case: Case
    runs: int = 0
    tried: int = 0
    said: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def play(cases: Sequence[Case]) -> list[Found]:
    said = run_apart(__name__, json.dumps([asdict(case) for case in cases]))
    return [Found(Case(**line.pop("case")), **line) for line in map(json.loads, said.splitlines())]


def long(report: Report) -> None:
    for kind in KINDS:
        for what in ("flush", "write"):
            begun = time.monotonic()
            cases = [Case(kind.name, name, what) for name in SCENARIOS]
            again = [Case(kind.name, name, what, times=2) for name in (SCENARIOS[0], NEVER_SYNCED)]
            found = play([*cases, *again])
            for one in found:
                for line in [*one.lost, *one.refused]:
                    report.progress(f"{kind.name}: {one.case.scenario}: {line}")
            said = sum((Counter(one.said) for one in found), Counter[str]())
            refused = sum(len(one.refused) for one in found)
            report.add(
                "flush failures", f"{kind.name}, a {what} fails in {sum(one.runs for one in found)} runs",
                sum(one.tried for one in found), sum(len(one.lost) for one in found), time.monotonic() - begun,
                ", ".join(f"{count} {name}" for name, count in said.most_common())
                + (f"; {refused} could not be mounted" if refused else ""),
            )  # fmt: skip


# --- in the namespace -----------------------------------------------------------------------------------------


def disks(recording: Recording, generator: random.Random) -> Iterator[tuple[str, Blocks]]:
    """What may be there once the disk is well, in words and blocks."""
    entries = recording.entries
    failed = [number for number, entry in enumerate(entries) if entry.kind == "failed"]
    gone: list[int] = []
    for number in failed:
        flushed = max(
            (n for n in range(number) if entries[n].kind == "flush"), default=-1
        )  # fmt: skip
        gone += [n for n in range(flushed + 1, number) if entries[n].kind == "write"]
    losses = [[], gone] + [[n for n in gone if generator.random() < 0.5] for _ in range(DRAWS)]
    cut = max((n for n in range(recording.done) if entries[n].kind == "flush"), default=-1) + 1
    for lost, (how, end) in itertools.product(losses, (("", len(entries)), (", power cut", cut))):
        blocks = dict(recording.base)
        for number, entry in enumerate(entries[:end]):
            if number not in lost:
                apply(blocks, entry.offset, entry.data)
        yield f"without {lost} of {gone}{how}", blocks


def examine(workshop: Workshop, case: Case) -> Found:
    found = Found(case)
    prepared, history = workshop.prepare(SCENARIO[case.scenario])
    base = blocks_of(workshop.image)
    checker = Checker(workshop, prepared, history)
    generator = random.Random(SEED)
    for number in itertools.count(case.first, case.step):
        if found.lost and case.broken is not None:
            return found  # that is all there was to show
        put(workshop.image, base)
        request = Request(case.kind, case.scenario, broken=case.broken)
        recording = workshop.record(prepared, request, f"{case.what} {number}", case.times)
        said = [f"{code} {answer.get('reason', '')}".strip() for code, answer in recording.ended]
        if not recording.failed:
            assert said[0] == "0"
            return found
        found.runs += 1
        words = ", then ".join(said)
        found.said[words] = found.said.get(words, 0) + 1
        promised = _promised(said)
        if SCENARIO[case.scenario].unsynced and said[-1] != "0":
            continue  # what was never synced may be gone without this store
        seen = set()
        for how, blocks in disks(recording, generator):
            key = hash(frozenset(blocks.items()))
            if key in seen:
                continue
            seen.add(key)
            found.tried += 1
            where = f"{case.what} {number} fails, it says {words}; {how}"
            try:
                outcome = checker.check(blocks)
            except CannotMount as error:
                found.refused.append(f"{where}: {error}")
                continue
            if outcome not in promised:
                found.lost.append(f"{where}: {outcome}")
    raise AssertionError


def _promised(said: Sequence[str]) -> set[str]:
    """What may be there after such answers: done is done, and what is unknown stays so until a run knows."""
    if not set(said) <= _ANSWERS:
        return set()
    if any(one in {"0", "75 CleanUpPending"} for one in said):
        return {"new"}
    return {"old", "new"} if "4 OutcomeUnknown" in said else {"old"}


def main(cases: str) -> None:
    preloaded.everything()
    for case in (Case(**one) for one in json.loads(cases)):
        with workshop(BY_NAME[case.kind]) as made:
            print(json.dumps(asdict(examine(made, case))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
