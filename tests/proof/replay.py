"""From system calls to what they did to a volume: the descriptors' side of a recording."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.proof.recording import (
    Call,
    Names,
    Operation,
    Recording,
    Sync,
    Truncate,
    Volume,
    Write,
)

#: Calls that change nothing that is on a disk, or promise nothing about it.
HARMLESS = frozenset({
    "access", "chmod", "clone", "clone3", "execve", "fchmod", "fork", "ioctl", "sync_file_range",
    "vfork",
})  # fmt: skip


@dataclass
class Descriptor:
    inode: int | None
    """None: a file without a name (O_TMPFILE) or something that is on no volume."""
    position: int = 0
    append: bool = False


class Replay:
    """Applies calls to a volume and keeps what they come to."""

    def __init__(self, root: Path, before: Volume, ours: set[str]) -> None:
        self.root = os.fspath(root)
        self.before = before.copy()
        self.volume = before.copy()
        self.operations: list[Operation] = []
        self.open: dict[str, Descriptor] = {}
        self._ours = ours
        self._ends: list[int] = []
        """The line at which each operation ended: an fsync that began before it does not cover it."""

    def run(self, found: Sequence[Call]) -> None:
        for call in found:
            if call.result < 0 or call.name in HARMLESS or not self._concerns(call):
                continue
            if call.task not in self._ours:
                # A child before its execve closes what it inherited; it must not touch the volume.
                assert call.name == "close", f"a child process does {call}"
                continue
            handler = getattr(self, f"_{call.name}", None)
            assert handler is not None, f"unknown to the model: {call}"
            handler(call)

    def recording(self) -> Recording:
        """Call it when the real volume is as the run left it. Raises AssertionError if it is another one."""
        self.volume.require_same(Path(self.root))
        return Recording(self.before, self.operations, self.volume)

    def _concerns(self, call: Call) -> bool:
        texts = [path for _, path in call.descriptors()]
        if call.name not in {"write", "pwrite64", "writev", "pwritev"}:
            texts += call.strings()
        if call.name in {"sync", "syncfs"}:
            return True
        return any(text == self.root or text.startswith(f"{self.root}/") for text in texts)

    def _parts(self, path: str) -> list[str]:
        assert path.startswith(self.root), path
        relative = posixpath.normpath(path)[len(self.root) + 1 :]
        return relative.split("/") if relative else []

    def _slot(self, path: str) -> tuple[int, str, int | None]:
        *parents, name = self._parts(path)
        directory = self.volume.find(parents)
        assert directory is not None, path
        return directory, name, self.volume.directories[directory].get(name)

    def _do(self, call: Call, operation: Operation) -> None:
        self.volume.apply(operation)
        self.operations.append(operation)
        self._ends.append(call.ended)

    def _of(self, call: Call, position: int = 0) -> Descriptor:
        number, path = call.descriptors()[position]
        found = self.open[number]
        if found.inode is not None and "(deleted)" not in call.arguments + call.rest:
            # What strace says the descriptor leads to is what it leads to here.
            assert self.volume.find(self._parts(path)) == found.inode, call
        return found

    # --- descriptors --------------------------------------------------------------------------------------

    def _openat(self, call: Call) -> None:
        flags = call.arguments
        path = call.strings()[0]
        number = str(call.result)
        if "O_TMPFILE" in flags:
            self.open[number] = Descriptor(None)
            return
        if not posixpath.isabs(path):
            path = posixpath.join(call.descriptors()[0][1], path)
        if not self._parts(path):
            self.open[number] = Descriptor(0)
            return
        directory, name, inode = self._slot(path)
        if inode is None:
            assert "O_CREAT" in flags, call
            inode = self.volume.new(directory=False)
            self._do(call, Names(((directory, name, inode),)))
        elif "O_TRUNC" in flags and self.volume.files[inode]:
            self._do(call, Truncate(inode, 0))
        self.open[number] = Descriptor(inode, append="O_APPEND" in flags)

    _open = _openat

    def _close(self, call: Call) -> None:
        self.open.pop(call.descriptors()[0][0], None)

    def _lseek(self, call: Call) -> None:
        self._of(call).position = call.result

    def _mmap(self, call: Call) -> None:
        if "MAP_SHARED" in call.arguments and "PROT_WRITE" in call.arguments:
            assert call.descriptors()[0][1].endswith("-shm"), f"bytes that nobody saw: {call}"

    # --- bytes --------------------------------------------------------------------------------------------

    def _write(self, call: Call) -> None:
        found = self._of(call)
        if found.inode is None:
            return
        if found.append:
            found.position = len(self.volume.files[found.inode])
        self._do(call, Write(found.inode, found.position, call.data()))
        found.position += call.result

    def _pwrite64(self, call: Call) -> None:
        found = self._of(call)
        if found.inode is not None:
            self._do(call, Write(found.inode, call.number(-1), call.data()))

    def _ftruncate(self, call: Call) -> None:
        found = self._of(call)
        if found.inode is not None:
            self._do(call, Truncate(found.inode, call.number(-1)))

    def _truncate(self, call: Call) -> None:
        _, _, inode = self._slot(call.strings()[0])
        assert inode is not None
        self._do(call, Truncate(inode, call.number(-1)))

    def _copy_file_range(self, call: Call) -> None:
        source, target = self._of(call, 0), self._of(call, 1)
        if not call.result:
            return
        assert source.inode is not None
        assert target.inode is not None
        start = call.arguments.split(", ")[1]
        offset = source.position if start == "NULL" else int(start.strip("[]").split(" ")[0])
        data = bytes(self.volume.files[source.inode][offset : offset + call.result])
        assert len(data) == call.result
        assert call.arguments.split(", ")[3] == "NULL", call
        self._do(call, Write(target.inode, target.position, data))
        target.position += call.result

    def _fsync(self, call: Call) -> None:
        found = self._of(call)
        if found.inode is None:
            return
        begun = sum(ended < call.begun for ended in self._ends)
        self._do(call, Sync(found.inode, begun))

    _fdatasync = _fsync

    # --- names --------------------------------------------------------------------------------------------

    def _mkdir(self, call: Call) -> None:
        directory, name, _ = self._slot(call.strings()[0])
        self._do(call, Names(((directory, name, self.volume.new(directory=True)),)))

    def _link(self, call: Call) -> None:
        source, target = call.strings()
        _, _, inode = self._slot(source)
        directory, name, there = self._slot(target)
        assert inode is not None
        assert there is None
        self._do(call, Names(((directory, name, inode),)))

    _linkat = _link

    def _rename(self, call: Call) -> None:
        source, target = call.strings()
        old, old_name, inode = self._slot(source)
        new, new_name, there = self._slot(target)
        assert inode is not None
        assert "RENAME_EXCHANGE" not in call.arguments
        if there != inode:
            self._do(call, Names(((new, new_name, inode), (old, old_name, None))))

    _renameat = _rename
    _renameat2 = _rename

    def _unlink(self, call: Call) -> None:
        path = call.strings()[0]
        if not posixpath.isabs(path):
            path = posixpath.join(call.descriptors()[0][1], path)
        directory, name, _ = self._slot(path)
        self._do(call, Names(((directory, name, None),)))

    _unlinkat = _unlink
    _rmdir = _unlink
