"""What a real run did to a volume, call by call, as strace saw it.

Only what changes a volume is kept: names, bytes, lengths, and what was synced. The replay of it is compared
with the real volume at the end (``Volume.require_same``), so that no call can have been overlooked; shared
writable mappings, which strace cannot see into, are refused but for SQLite's ``-shm``, which holds nothing
that outlives a crash.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "access", "chmod", "clone", "clone3", "close", "copy_file_range", "creat", "dup", "dup2", "dup3",
    "execve", "fallocate", "fchmod", "fdatasync", "fork", "fsync", "ftruncate", "ioctl", "link",
    "linkat", "lseek", "mkdir", "mkdirat", "mmap", "msync", "open", "openat", "openat2", "pwrite64",
    "pwritev", "pwritev2", "rename", "renameat", "renameat2", "rmdir", "sendfile", "splice",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "truncate", "unlink", "unlinkat",
    "vfork", "write", "writev",
)  # fmt: skip
_LINE = re.compile(r"^(\d+) +([a-z0-9_]+)\((.*)\) += (-?\d+)(.*)$")
_BEGUN = re.compile(r"^(\d+) +([a-z0-9_]+)\((.*) <unfinished \.\.\.>$")
_ENDED = re.compile(r"^(\d+) +<\.\.\. ([a-z0-9_]+) resumed>(.*)$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True)
class Names:
    """One change of names, atomic where the filesystem is: (directory, name, inode or None) each."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True)
class Sync:
    """fsync or fdatasync of a file or directory: what was done before operation number ``begun`` is on disk."""

    inode: int
    begun: int


Operation = Names | Write | Truncate | Sync


@dataclass
class Volume:
    """Directories and files as the running system sees them. Inode 0 is the root."""

    directories: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytearray] = field(default_factory=dict)
    #: st_ino and time of modification of what was looked at on a real filesystem.
    numbers: dict[int, int] = field(default_factory=dict)
    times: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    fresh: int = 1

    @classmethod
    def of(cls, root: Path) -> Volume:
        found = cls()
        seen: dict[int, int] = {}

        def look(directory: int, path: Path) -> None:
            for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
                facts = entry.stat(follow_symlinks=False)
                if facts.st_ino not in seen:
                    seen[facts.st_ino] = found.new(directory=entry.is_dir())
                    found._note(seen[facts.st_ino], Path(entry.path), facts)
                    if entry.is_dir():
                        look(seen[facts.st_ino], Path(entry.path))
                found.directories[directory][entry.name] = seen[facts.st_ino]

        look(0, root)
        return found

    def _note(self, inode: int, path: Path, facts: os.stat_result) -> None:
        self.numbers[inode] = facts.st_ino
        if inode in self.files:
            self.files[inode][:] = path.read_bytes()
            self.times[inode] = bytes(self.files[inode]), facts.st_mtime_ns

    def new(self, *, directory: bool) -> int:
        inode, self.fresh = self.fresh, self.fresh + 1
        if directory:
            self.directories[inode] = {}
        else:
            self.files[inode] = bytearray()
        return inode

    def copy(self) -> Volume:
        return Volume(
            {inode: dict(names) for inode, names in self.directories.items()},
            {inode: bytearray(data) for inode, data in self.files.items()},
            dict(self.numbers),
            dict(self.times),
            self.fresh,
        )

    def find(self, parts: Sequence[str]) -> int | None:
        inode: int | None = 0
        for part in parts:
            inode = self.directories[inode].get(part) if inode in self.directories else None
        return inode

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Names):
            for directory, name, inode in operation.changes:
                if inode is None:
                    del self.directories[directory][name]
                else:
                    self.directories[directory][name] = inode
        elif not isinstance(operation, Sync):
            change(self.files[operation.file], operation)

    def walk(self, inode: int = 0, prefix: str = "") -> Iterator[tuple[str, int]]:
        for name, child in sorted(self.directories[inode].items()):
            yield prefix + name, child
            if child in self.directories:
                yield from self.walk(child, f"{prefix}{name}/")

    def require_same(self, root: Path) -> None:
        """The replay has led where the real run did; takes over real inode numbers and times."""
        real = Volume.of(root)
        mine, theirs = dict(self.walk()), dict(real.walk())
        assert mine.keys() == theirs.keys(), (mine.keys() ^ theirs.keys(), "a call was overlooked")
        links: dict[int, int] = {}
        for name, inode in mine.items():
            assert links.setdefault(inode, theirs[name]) == theirs[name], f"{name}: another file"
            self.numbers[inode] = real.numbers[theirs[name]]
            if inode in self.files:
                if not name.endswith("-shm"):
                    assert self.files[inode] == real.files[theirs[name]], f"{name}: other bytes"
                self.times[inode] = real.times[theirs[name]]


def change(data: bytearray, operation: Write | Truncate) -> None:
    """Apply it to a file's content."""
    if isinstance(operation, Truncate):
        del data[operation.size :]
        data.extend(bytes(operation.size - len(data)))
        return
    data.extend(bytes(max(0, operation.offset - len(data))))
    data[operation.offset : operation.offset + len(operation.data)] = operation.data


@dataclass
class Recording:
    """``before``: the volume as the run found it; ``after``: as it left it."""

    before: Volume
    operations: list[Operation]
    after: Volume


def trace(command: Sequence[str], log: Path) -> subprocess.CompletedProcess[str]:
    """Run a command under strace, its threads and children too."""
    return subprocess.run(
        [
            "strace", "-f", "-qq", "-xx", "-y", "-s", str(1 << 26), "-o", str(log), "-e",
            "trace=" + ",".join(f"?{name}" for name in CALLS), "-e", "signal=none", *command,
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Call:
    task: str
    name: str
    arguments: str
    result: int
    rest: str
    """What stands behind the result: the descriptor's path, or the error."""
    begun: int
    """The line at which it began."""
    ended: int

    def strings(self) -> list[str]:
        return [_text(found) for found in _STRING.findall(self.arguments)]

    def data(self) -> bytes:
        match = _STRING.search(self.arguments)
        assert match is not None, self
        assert not self.arguments[match.end() :].startswith("..."), "cut off by strace"
        return bytes.fromhex(match[1].replace("\\x", ""))[: self.result]

    def descriptors(self) -> list[tuple[str, str]]:
        """(number, path) of each in the arguments; quoted bytes are no descriptors."""
        return [
            (number, _text(path))
            for number, path in _DESCRIPTOR.findall(_STRING.sub('""', self.arguments))
        ]

    def number(self, position: int) -> int:
        """An argument that is a number, counted from the end (-1)."""
        return int(_STRING.sub('""', self.arguments).split(", ")[position])


def _text(hexadecimal: str) -> str:
    return os.fsdecode(bytes.fromhex(hexadecimal.replace("\\x", "")))


def calls(lines: Iterable[str]) -> list[Call]:
    """Whole calls in the order of their ends, of the traced program's own threads and of its children."""
    begun: dict[str, tuple[int, str]] = {}
    found = []
    for number, line in enumerate(lines):
        start, text = number, line.rstrip("\n")
        if match := _BEGUN.match(text):
            begun[match[1]] = number, f"{match[1]} {match[2]}({match[3]}"
            continue
        if match := _ENDED.match(text):
            start, first = begun.pop(match[1])
            text = first + match[3]
        if match := _LINE.match(text):
            found.append(Call(match[1], match[2], match[3], int(match[4]), match[5], start, number))
    return found


def threads(found: Sequence[Call]) -> set[str]:
    """The tasks of the first process."""
    ours = {found[0].task}
    for call in found:
        if call.name.startswith("clone") and call.task in ours and "CLONE_THREAD" in call.arguments:
            ours.add(str(call.result))
    return ours


def marked(found: Sequence[Call], mark: str) -> int:
    """The position of the call that announces ``mark``."""
    return next(
        position for position, call in enumerate(found)
        if call.name == "access" and mark in call.strings()
    )  # fmt: skip
