"""Which states a filesystem may leave on disk when the power goes, given what was done and what was synced.

Three models. All know that an fsync of a directory makes its names durable, and an fsync of a file its bytes
and its length; what was not synced is decided state by state:

*journalled* (ext4 data=ordered, xfs, btrfs)
    Names persist in the order in which they were changed, over the whole volume: a state has a prefix of all
    changes, and an fsync takes with it what came before it (of a file: before it got its name). Data is not
    ordered with names: a file that has its name may have none, some or all of its 4 KiB pages, in any order.
    A new page that is missing inside the file reads as zeros, an old one has its old content, and the length
    reaches to the last page that is there.

*weak* (what POSIX promises, and no more)
    Each directory persists by itself, so that a file's rename between two may have reached one of them only:
    it has both names, or none. (A directory that moves is in one place: its ``..`` moves with it, and no
    filesystem writes that in parts.) An fsync of a file says nothing of names. Sectors of 512 bytes persist on their own, in any order, so that
    pages tear, and the length is any that the file has had since its last fsync, whatever is inside.

*unordered*
    The weak one, and each name persists by itself as well: a rename within one directory may be there in parts.

Where the choices multiply beyond ``limit``, the corners are taken (nothing, everything, every one missing,
every one alone, every moment in time) and the rest is drawn by a seed.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, TypeVar

from tests.proof.recording import Names, Recording, Sync, Truncate, Write, change

Model = Literal["journalled", "weak", "unordered"]
T = TypeVar("T")
_UNIT = {"journalled": 4096, "weak": 512, "unordered": 512}
ROOT = 0


@dataclass(frozen=True)
class State:
    """What is on disk. ``moment``: so many operations had been done when the power went."""

    moment: int
    names: tuple[tuple[str, int], ...]
    """(path, inode), directories too, parents first."""
    contents: dict[int, bytes]
    """Of each file that has a name."""

    def key(self) -> bytes:
        digest = blake2b(digest_size=16)
        for path, inode in self.names:
            content = self.contents.get(inode)
            digest.update(f"{path}\0{inode}\0".encode())
            digest.update(b"/" if content is None else blake2b(content, digest_size=16).digest())
        return digest.digest()


@dataclass(frozen=True)
class _Record:
    """Changes of names that persist together. ``number`` of the operation."""

    number: int
    changes: tuple[tuple[int, str, int | None], ...]


class Filesystem:
    """All legal states of one recording under one model."""

    def __init__(
        self, recording: Recording, model: Model, *, seed: int = 0, limit: int = 24
    ) -> None:
        self.recording = recording
        self.model = model
        self.limit = limit
        self._seed = seed
        self._unit = _UNIT[model]
        self._records = [
            _Record(number, operation.changes)
            for number, operation in enumerate(recording.operations)
            if isinstance(operation, Names)
        ]
        self._born = {
            inode: record.number
            for record in reversed(self._records)
            for _, _, inode in record.changes
            if inode is not None
        }
        """The operation that gave an inode its first name of this run."""
        self._moves = {
            record.number
            for record in self._records
            if len(record.changes) > 1 and record.changes[0][2] in recording.after.directories
        }
        self._contents: dict[tuple[int, int, int], list[bytes]] = {}
        self.sampled = 0
        """At how many places not all were taken."""

    def moments(self) -> range:
        return range(len(self.recording.operations) + 1)

    def states(self, moment: int) -> Iterator[State]:
        """All states that may be found when the power goes after so many operations; some come twice."""
        chance = random.Random(f"{self._seed} {self.model} {moment}")
        for names in self._names(moment, chance):
            present = [inode for _, inode in names if inode in self.recording.after.files]
            files = sorted(set(present))
            choices = [self._of_file(inode, moment) for inode in files]
            for chosen in self._some(choices, chance):
                yield State(moment, names, dict(zip(files, chosen, strict=True)))

    # --- names --------------------------------------------------------------------------------------------

    def _names(self, moment: int, chance: random.Random) -> Iterator[tuple[tuple[str, int], ...]]:
        seen = set()
        groups = self._groups(moment)
        ranges = [range(least, len(group) + 1) for group, least in groups]
        for lengths in self._some(ranges, chance):
            if not self._moved_whole(groups, lengths):
                continue
            directories = {
                inode: dict(names) for inode, names in self.recording.before.directories.items()
            }
            for (group, _), length in zip(groups, lengths, strict=True):
                for record in group[:length]:
                    for directory, name, inode in record.changes:
                        names = directories.setdefault(directory, {})
                        if inode is None:
                            names.pop(name, None)
                        else:
                            names[name] = inode
            found = tuple(self._walk(directories))
            if found not in seen:
                seen.add(found)
                yield found

    def _moved_whole(
        self, groups: list[tuple[list[_Record], int]], lengths: tuple[int, ...]
    ) -> bool:
        """Whether every directory that moved is in one place."""
        seen: dict[int, bool] = {}
        for (group, _), length in zip(groups, lengths, strict=True):
            for position, record in enumerate(group):
                moved = record.number in self._moves
                if moved and seen.setdefault(record.number, position < length) != (
                    position < length
                ):
                    return False
        return True

    def _walk(
        self, directories: dict[int, dict[str, int]], inode: int = ROOT, prefix: str = ""
    ) -> Iterator[tuple[str, int]]:
        for name, child in sorted(directories.get(inode, {}).items()):
            yield prefix + name, child
            if child in self.recording.after.directories:
                yield from self._walk(directories, child, f"{prefix}{name}/")

    def _groups(self, moment: int) -> list[tuple[list[_Record], int]]:
        """Records that persist in order among themselves, and how many of them are on disk for certain."""
        records = [record for record in self._records if record.number < moment]
        synced = self._synced(moment)
        if self.model == "journalled":
            # All before the last one that an fsync has waited for.
            least = max(
                (
                    position
                    for position, record in enumerate(records, 1)
                    if any(self._waits_for(record, *sync) for sync in synced.items())
                ),
                default=0,
            )
            return [(records, least)]
        grouped: dict[tuple[int, str], list[_Record]] = {}
        for record in records:
            apart: dict[tuple[int, str], list[tuple[int, str, int | None]]] = {}
            for directory, name, inode in record.changes:
                key = directory, "" if self.model == "weak" else name
                apart.setdefault(key, []).append((directory, name, inode))
            for key, parts in apart.items():
                grouped.setdefault(key, []).append(_Record(record.number, tuple(parts)))
        return [
            (group, sum(record.number < synced.get(group[0].changes[0][0], 0) for record in group))
            for group in grouped.values()
        ]

    def _waits_for(self, record: _Record, inode: int, begun: int) -> bool:
        """Whether an fsync of ``inode`` that began then takes this record of the journal with it."""
        if record.number >= begun:
            return False
        if inode in self.recording.after.files:
            return self._born.get(inode) == record.number
        return any(directory == inode for directory, _, _ in record.changes)

    def _synced(self, moment: int) -> dict[int, int]:
        """For each inode: operations before this one are on disk, as far as they are its own."""
        synced: dict[int, int] = {}
        for operation in self.recording.operations[:moment]:
            if isinstance(operation, Sync):
                synced[operation.inode] = max(synced.get(operation.inode, 0), operation.begun)
        return synced

    # --- bytes --------------------------------------------------------------------------------------------

    def _of_file(self, inode: int, moment: int) -> Sequence[bytes]:
        """The contents that the file may have, at the power's going after ``moment`` operations."""
        done = [
            (number, operation)
            for number, operation in enumerate(self.recording.operations[:moment])
            if isinstance(operation, Write | Truncate) and operation.file == inode
        ]
        durable = self._synced(moment).get(inode, 0)
        settled = sum(number < durable for number, _ in done)
        key = inode, settled, len(done)
        if key not in self._contents:
            data = bytearray(self.recording.before.files.get(inode, b""))
            for _, operation in done[:settled]:
                change(data, operation)
            history = [bytes(data)]
            for _, operation in done[settled:]:
                change(data, operation)
                history.append(bytes(data))
            chance = random.Random(f"{self._seed} {self.model} {key}")
            self._contents[key] = list(dict.fromkeys(self._written(history, chance)))
        return self._contents[key]

    def _written(self, history: list[bytes], chance: random.Random) -> Iterator[bytes]:
        """Contents between the one that is on disk (the first) and the one that was written last."""
        if len(history) == 1:
            yield history[0]
            return
        unit = self._unit
        length = max(map(len, history))
        units = range(0, length, unit)
        versions = [
            list(
                dict.fromkeys(moment[start : start + unit].ljust(unit, b"\0") for moment in history)
            )
            for start in units
        ]
        sizes = sorted({len(moment) for moment in history}, reverse=True)
        for chosen in self._some(versions, chance):
            whole = b"".join(chosen)
            if self.model != "journalled":
                yield from (whole[:size] for size in sizes)
                continue
            # The length reaches to the last new page that is there, or is an old one.
            for size in sizes:
                there = [
                    start + unit
                    for start, content, known in zip(units, chosen, versions, strict=True)
                    if start >= len(history[0]) and content != known[0]
                ]
                reach = min(size, max([len(history[0]), *there]))
                yield whole[: reach if size >= len(history[0]) else size]

    # --- choices ------------------------------------------------------------------------------------------

    def _some(
        self, choices: Sequence[Sequence[T]], chance: random.Random
    ) -> Iterator[tuple[T, ...]]:
        """All combinations, or the corners and a draw of the rest: the first of each is "nothing persisted"."""
        total = math.prod(map(len, choices))
        if total <= self.limit:
            yield from itertools.product(*choices)
            return
        self.sampled += 1
        first = tuple(choice[0] for choice in choices)
        last = tuple(choice[-1] for choice in choices)
        corners = [first, last]
        several = [position for position, choice in enumerate(choices) if len(choice) > 1]
        for position in chance.sample(several, min(len(several), self.limit // 4)):
            corners.append((*last[:position], first[position], *last[position + 1 :]))
            corners.append((*first[:position], last[position], *first[position + 1 :]))
            corners.append((*last[:position], *first[position:]))
        yield from corners
        for _ in range(max(4, self.limit - len(corners))):
            yield tuple(chance.choice(choice) for choice in choices)
