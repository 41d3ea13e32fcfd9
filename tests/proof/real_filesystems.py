"""Power cuts on the kernel's own filesystems: what they write to a block device is recorded, and cut off anywhere.

A conversion, restoration, recovery … runs on ext4, xfs or btrfs, on a device that notes every write and every flush.
What had been flushed is on the disk; of what was written since, any of it may be, whole or by sectors. Each such
disk is built, the kernel mounts it (and replays its journal), the store recovers, and an oracle compares.

Whether something is missing shows only if the filesystem has committed what came later. Therefore each run is
recorded again beside a neighbour who syncs a file of its own before every change that the run makes, and beside one
who does nothing else.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from format_store import recover
from tests.proof.block_devices import (
    BLOCK,
    BY_NAME,
    KINDS,
    Blocks,
    CannotMount,
    Kind,
    apply,
    mounted,
    put,
    run_apart,
)
from tests.proof.crash_states import fingerprint, judge, require_history
from tests.proof.recorded_device import Entry
from tests.proof.recorded_runs import NEIGHBOURS, SCENARIO, Recording, Request, Workshop, workshop
from tests.proof.report import Report
from tests.proof.scenarios import Prepared
from tests.support import preloaded

SEED = 20261127
SECTOR = 512
#: States of a recording in the long form, drawn from the few hundred or two thousand that there are.
MOST = 200
#: Drawn subsets of an epoch's writes, and as many with torn ones.
DRAWS = 8


@dataclass
class Found:
    """``lost`` and ``refused`` (by the kernel: not mounted) in words."""

    request: Request
    writes: int = 0
    flushes: int = 0
    tried: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def play(requests: Sequence[Request]) -> list[Found]:
    """In a process of its own that has loaded everything."""
    said = run_apart(__name__, json.dumps([asdict(request) for request in requests]))
    return [
        Found(Request(**line.pop("request")), **line) for line in map(json.loads, said.splitlines())
    ]


def long(report: Report) -> None:
    for kind in KINDS:
        for neighbour in NEIGHBOURS:
            begun = time.monotonic()
            found = play([Request(kind.name, name, neighbour, most=MOST) for name in SCENARIO])
            for one in found:
                for line in [*one.lost, *one.refused]:
                    report.progress(f"{kind.name}: {one.request.scenario}: {line}")
            outcomes = sum((Counter(one.outcomes) for one in found), Counter[str]())
            refused = sum(len(one.refused) for one in found)
            report.add(
                "filesystems", f"{kind.name}, syncs beside it: {neighbour}",
                sum(one.tried for one in found), sum(len(one.lost) for one in found),
                time.monotonic() - begun,
                ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
                + f"; {sum(one.writes for one in found)} writes, {sum(one.flushes for one in found)} flushes"
                + (f"; {refused} could not be mounted" if refused else ""),
            )  # fmt: skip


# --- states ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Everything before entry ``flushed``, and of what came since those of ``written``; some torn, by a seed.

    ``told``: success may have been reported when the power went.
    """

    flushed: int
    written: tuple[int, ...]
    torn: int | None
    told: bool


def epochs(entries: Sequence[Entry], begun: int) -> Iterator[tuple[int, int]]:
    """From after one flush up to the next, from that on in which entry ``begun`` is."""
    start = 0
    for number, entry in enumerate(entries):
        if entry.kind == "flush":
            if number >= begun:
                yield start, number
            start = number + 1
    yield start, len(entries)


def states(recording: Recording, generator: random.Random) -> list[State]:
    """Of each epoch: nothing, all, every prefix, each write alone or missing, and draws."""
    found = {}
    for start, end in epochs(recording.entries, recording.begun):
        writes = [n for n in range(start, end) if recording.entries[n].kind == "write"]
        told = end >= recording.done
        chosen = [writes[:count] for count in range(len(writes) + 1)]
        for one in writes:
            chosen += [[one], [other for other in writes if other != one]]
        drawn = [
            [one for one in writes if generator.random() < share]
            for share in (generator.random() for _ in range(2 * DRAWS))
        ]
        for written in [*chosen, *drawn[DRAWS:]]:
            found[State(start, tuple(written), None, told)] = True
        for written in [writes, *drawn[:DRAWS]] if writes else []:
            found[State(start, tuple(written), generator.randrange(1 << 32), told)] = True
    return list(found)


def disks(
    recording: Recording, chosen: Iterable[State], kind: Kind
) -> Iterator[tuple[State, Blocks]]:
    flushed, position = dict(recording.base), 0
    for state in sorted(chosen, key=lambda state: state.flushed):
        for entry in recording.entries[position : state.flushed]:
            apply(flushed, entry.offset, entry.data)
        position = state.flushed
        blocks = dict(flushed)
        for number in state.written:
            apply(blocks, recording.entries[number].offset, recording.entries[number].data)
        if state.torn is not None:
            _tear(blocks, flushed, kind, random.Random(state.torn))
        yield state, blocks


def _tear(blocks: Blocks, before: Blocks, kind: Kind, generator: random.Random) -> None:
    """Of some of the blocks that differ, only some sectors have come to the disk: up to one, from one, or any."""
    for at in sorted(at for at in blocks if blocks[at] is not before.get(at)):
        how = generator.choice(("whole", "begin", "end", "any"))
        if how == "whole" or at in kind.superblocks:
            continue
        cut = generator.randrange(BLOCK // SECTOR)
        parts = []
        for number in range(BLOCK // SECTOR):
            come = {"begin": number < cut, "end": number >= cut, "any": generator.random() < 0.5}[
                how
            ]
            source = blocks[at] if come else before.get(at, bytes(BLOCK))
            parts.append(source[number * SECTOR : (number + 1) * SECTOR])
        blocks[at] = b"".join(parts)


# --- checking -------------------------------------------------------------------------------------------------


class Checker:
    """Recovers what is on disks of one recording, and judges it; what is the same is judged once."""

    def __init__(self, workshop: Workshop, prepared: Prepared, history: bytes) -> None:
        self._workshop = workshop
        self._prepared = prepared
        self._history = history
        self._judged: dict[bytes, str] = {}

    def check(self, blocks: Blocks) -> str:
        """``old`` or ``new``, or what is wrong; raises CannotMount."""
        put(self._workshop.image, blocks)
        with mounted(self._workshop.kind, self._workshop.image, self._workshop.mount):
            try:
                return self._recovered()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            gc.collect()  # what the error's frames held open would keep the filesystem mounted
        return said

    def _recovered(self) -> str:
        path = self._workshop.path
        recover(path)
        require_history(path, self._history)
        key = fingerprint(path.parent)
        if key not in self._judged:
            self._judged[key] = judge(path, self._prepared.outcome)
        return self._judged[key]


def examine(workshop: Workshop, request: Request) -> Found:
    prepared, history = workshop.prepare(SCENARIO[request.scenario])
    recording = workshop.record(prepared, request)
    assert recording.ended[0][0] == 0, recording.ended
    recording.require_whole(workshop.image)
    kinds = Counter(entry.kind for entry in recording.entries)
    found = Found(request, kinds["write"], kinds["flush"])
    checker = Checker(workshop, prepared, history)
    generator = random.Random(SEED)
    chosen = states(recording, generator)
    if len(chosen) > request.most:
        chosen = generator.sample(chosen, request.most)
    seen = set()
    for state, blocks in disks(recording, chosen, workshop.kind):
        if found.lost and request.broken is not None:
            break  # that is all there was to show
        key = hash((frozenset(blocks.items()), state.told))
        if key in seen:
            continue
        seen.add(key)
        found.tried += 1
        where = f"after entry {state.flushed}, with {state.written}, torn by {state.torn}"
        try:
            said = checker.check(blocks)
        except CannotMount as error:
            found.refused.append(f"{where}: {error}")
            continue
        if said not in {"old", "new"}:
            found.lost.append(f"{where}: {said}")
        elif state.told and said != prepared.result:
            found.lost.append(f"{where}: it had been reported as {prepared.result}, and is {said}")
        else:
            found.outcomes[said] = found.outcomes.get(said, 0) + 1
    return found


def main(requests: str) -> None:
    preloaded.everything()
    for request in (Request(**one) for one in json.loads(requests)):
        with workshop(BY_NAME[request.kind]) as made:
            print(json.dumps(asdict(examine(made, request))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
