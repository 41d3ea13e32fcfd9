"""What a power cut would leave of a run, if a filesystem kept no more than it was asked to, and the rules for it.

``Disk`` sees every fsync, rename, link and unlink of this process. It knows for each file the content, and for each
directory the names, that were there at the last fsync: all else may be gone. Before each step that cannot be
taken back it requires that what the step relies on is durable. Kills do not show a missing fsync, this does.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from format_store.layout import Layout, WorkDirectory

_Token = tuple[object, ...]
#: Made without a word, and never needed after a power cut.
_PRUNED = frozenset({"lock"})


class Disk:
    """Raises AssertionError from within the operation that comes too early; ``broken`` keeps what was said."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout.of(path)
        self.broken: list[str] = []
        self._first = os.lstat(path).st_ino if path.exists() else 0
        self._content: dict[int, _Token] = {}
        self._names: dict[int, dict[str, int]] = {}
        for directory in [self.layout.parent, *self._directories(self.layout.state)]:
            self._names[os.lstat(directory).st_ino] = _listing(directory)

    # --- what is durable --------------------------------------------------------------------------------

    def synced(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        place = Path(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(found.st_mode):
            self._before_names_go(found.st_ino, _listing(place))
            self._names[found.st_ino] = _listing(place)
        else:
            self._content[found.st_ino] = _token(place)

    def has_content(self, path: Path) -> bool:
        return self._content.get(os.lstat(path).st_ino) == _token(path)

    def has_name(self, path: Path) -> bool:
        """The name leads, or does not lead, to what it leads to now."""
        names = self._names.get(os.lstat(path.parent).st_ino, {})
        return names.get(path.name) == (os.lstat(path).st_ino if path.exists() else None)

    def has_names(self, directory: Path) -> bool:
        return self._names.get(os.lstat(directory).st_ino) == _listing(directory)

    def _before_names_go(self, directory: int, names: dict[str, int]) -> None:
        """A file that has moved has its new name durably before it loses the old one."""
        others = {
            inode
            for other, found in self._names.items()
            if other != directory
            for inode in found.values()
        }
        existing = {
            inode
            for place in [self.layout.parent, *self._directories(self.layout.state)]
            for inode in _listing(place).values()
        }
        for name, inode in self._names.get(directory, {}).items():
            if inode in existing and inode not in {*names.values(), *others}:
                self._require(False, f"another name of {name}")

    # --- the rules --------------------------------------------------------------------------------------

    def before_rename(self, source: Path, target: Path) -> None:
        layout = self.layout
        if layout.quarantine in target.parents:
            return  # bad files and stray writes: kept as they are
        if source.is_dir():
            self._require(self.has_names(source), f"the names in {source.name}")
            for file in source.iterdir():
                self._require(self.has_content(file), f"the content of {file.name}")
            self._require(self.has_name(layout.primary), "the primary's name")
            return
        self._require(self.has_content(source), f"the content of {source.name}")
        if target == layout.primary:
            self._before_the_swap(source)
        if target.name == "manifest.json":
            self._before_a_manifest(source, WorkDirectory(target.parent))

    def before_link(self, source: Path, target: Path) -> None:
        if target == self.layout.primary:
            self._require(self.has_content(source), f"the content of {source.name}")
            self._before_the_swap(source)

    def _before_the_swap(self, source: Path) -> None:
        layout, work = self.layout, WorkDirectory(source.parent)
        for sibling in layout.siblings():
            self._require(self.has_name(sibling), f"that {sibling.name} is gone")
        if source == work.staging:
            for name in (layout.state, layout.work, work.path, work.manifest, work.preimage):
                self._require(self.has_name(name), f"the name of {name.name}")
            for file in (work.manifest, work.preimage):
                self._require(self.has_content(file), f"the content of {file.name}")
        for directory in self._directories(layout.quarantine):
            self._require(self.has_names(directory), "what is in quarantine")

    def _before_a_manifest(self, source: Path, work: WorkDirectory) -> None:
        self._require(self.has_name(self.layout.primary), "the primary's name")
        ready = json.loads(source.read_bytes())["phase"] == "ready"
        if ready and work.staging.exists() and not work.preimage.exists():
            self._require(self.has_content(work.staging), "the content of staging.db")
            self._require(self.has_name(work.staging), "the name of staging.db")

    def before_unlink(self, path: Path) -> None:
        layout = self.layout
        if layout.work not in path.parents or path.name.startswith(".") or not path.exists():
            return
        self._require(self.has_name(layout.primary), "the primary's name")
        work = WorkDirectory(path.parent)
        if path == work.preimage:
            self._require(self.has_name(work.staging), "that staging.db has gone from there")
        if path == work.manifest:
            names = self._names.get(os.lstat(work.path).st_ino, {})
            self._require(set(names) <= {path.name}, f"that only the manifest is left ({names})")

    def deleted(self, preimage: str) -> None:
        """Somebody is told that a pre-image is deleted."""
        work = Path(preimage).parent
        self._require(not work.exists() or self.has_name(Path(preimage)), "that it is deleted")

    def require_all(self) -> None:
        """Whatever has been done is durable: somebody is about to be told so."""
        for name in (self.layout.primary, self.layout.state):
            self._require(self.has_name(name), f"the name of {name.name}")
        for directory in [self.layout.parent, *self._directories(self.layout.state)]:
            # A journal that settling has removed may come back beside its own file: it has ended.
            if directory != self.layout.parent:
                self._require(self.has_names(directory), f"the names in {directory.name}")
            for file in directory.iterdir():
                if not file.is_file() or file.name in _PRUNED:
                    continue
                # What an application wrote, and nobody replaced, is its own to make durable.
                if os.lstat(file).st_ino != self._first:
                    self._require(self.has_content(file), f"the content of {file.name}")

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)
            raise AssertionError(f"not durable: {what}")

    def _directories(self, top: Path) -> list[Path]:
        return [Path(name) for name, _, _ in os.walk(top)]


def _listing(directory: Path) -> dict[str, int]:
    return {
        name: os.lstat(directory / name).st_ino
        for name in os.listdir(directory)
        if name not in _PRUNED
    }


def _token(path: Path) -> _Token:
    """Content, owner, mode and attributes. A file that is open here is read through that descriptor.

    Another ``open`` would break a lease on it, and its close would drop SQLite's locks.
    """
    found = os.stat(path)
    digest = hashlib.sha256(_read(path, found)).hexdigest()
    attributes = tuple(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))
    return digest, found.st_mode, found.st_uid, found.st_gid, attributes


def _read(path: Path, found: os.stat_result) -> bytes:
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if not os.path.samestat(os.fstat(descriptor), found):
                continue
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY:
                return os.pread(descriptor, found.st_size, 0)
        except OSError:
            continue  # the one that listed the directory
    return path.read_bytes()


@contextmanager
def recorded(disk: Disk) -> Iterator[None]:
    """Let ``disk`` see what this process asks the kernel for."""

    def instead(name: str, tell: Callable[..., None], *, after: bool = False) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if not after:
                tell(*arguments)
            result = real(*arguments, **options)
            if after:
                tell(*arguments)
            return result

        patch.setattr(os, name, call)

    with pytest.MonkeyPatch.context() as patch:
        instead("fsync", disk.synced, after=True)
        instead("rename", lambda one, other: disk.before_rename(Path(one), Path(other)))
        instead("link", lambda one, other: disk.before_link(Path(one), Path(other)))
        instead("unlink", lambda path: disk.before_unlink(Path(path)))
        yield
    assert disk.broken == []
