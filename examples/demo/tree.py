"""The demo's input: an index of a real file tree.

Reads, and changes nothing; not even times of access, where one may ask for that. A file's content is looked at
only if its mode lets everybody do so.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Records = list[tuple[str, Record]]

ENTRIES, DIRECTORIES = "entries", "directories"

_NOT_FILES = frozenset({"dev", "lost+found", "proc", "run", "sys", "tmp"})
_CONTENT_BYTES = 1024
#: A disk that has to seek for each file shall not make the demo wait; later files have no digest.
_CONTENT_SECONDS = 12.0


@dataclass
class Shard:
    """What one database holds, in the order in which the app writes it: records by table."""

    tables: dict[str, Records] = field(default_factory=lambda: {ENTRIES: [], DIRECTORIES: []})

    @property
    def rows(self) -> int:
        return sum(len(records) for records in self.tables.values())

    def children(self, directory: str) -> Records:
        """The entries of a directory, in the order of their names' bytes."""
        found = [one for one in self.tables[ENTRIES] if os.path.dirname(one[0]) == directory]
        return sorted(found, key=lambda one: one[0].encode())


@dataclass
class Index:
    """An index, cut into shards by directory, so that a directory's entries lie together."""

    shards: list[Shard]
    entries: int = 0
    files: int = 0
    bytes: int = 0
    digests: int = 0
    left_out: int = 0


def read(roots: Sequence[Path], wanted: int, shards: int) -> Index:
    """Walk ``roots`` in turn until there are ``wanted`` entries; the directory under way is still finished."""
    index = Index([Shard() for _ in range(shards)])
    until = time.monotonic() + _CONTENT_SECONDS
    for root in roots:
        pending = [os.fspath(root)]
        device = os.lstat(root).st_dev
        while pending and index.entries < wanted:
            pending += _read_directory(index, pending.pop(), device, until)
    return index


def default_roots() -> list[Path]:
    """/usr, then everything else on its filesystem that holds files."""
    usr = Path("/usr")
    device = usr.lstat().st_dev
    others = [
        one
        for one in sorted(Path("/").iterdir())
        if one.name not in _NOT_FILES
        and stat.S_ISDIR(one.lstat().st_mode)
        and one.lstat().st_dev == device
        and one != usr
    ]
    return [usr, *others]


def _read_directory(index: Index, path: str, device: int, until: float) -> list[str]:
    """Add a directory's entries; returns those to walk into."""
    shard = index.shards[zlib.crc32(path.encode()) % len(index.shards)]
    below, count, size = [], 0, 0
    try:
        with _opened(path, os.O_DIRECTORY) as directory, os.scandir(directory) as entries:
            for entry in entries:
                full = os.path.join(path, entry.name)
                try:
                    record = _record(entry, directory, content=time.monotonic() < until)
                    full.encode()
                except (OSError, UnicodeError):  # gone meanwhile, or no text
                    index.left_out += 1
                    continue
                shard.tables[ENTRIES].append((full, record))
                count, size = count + 1, size + record["size"]
                index.digests += record["digest"] is not None
                index.files += record["kind"] == "file"
                found = entry.stat(follow_symlinks=False)
                if record["kind"] == "directory" and found.st_dev == device:
                    below.append(full)
    except OSError:  # not ours to read
        index.left_out += 1
        return []
    shard.tables[DIRECTORIES].append((path, {"entries": count, "bytes": size}))
    index.entries += count
    index.bytes += size
    return below


def _record(entry: os.DirEntry[str], directory: int, *, content: bool) -> Record:
    """What the app keeps of one entry. Raises OSError, UnicodeError."""
    found = entry.stat(follow_symlinks=False)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}.get(
        stat.S_IFMT(found.st_mode), "other"
    )
    digest = None
    if content and kind == "file" and found.st_mode & stat.S_IROTH:
        with _opened(entry.name, os.O_NONBLOCK, directory) as file:
            digest = hashlib.blake2b(os.read(file, _CONTENT_BYTES), digest_size=16).digest()
    record: Record = {
        "kind": kind,
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "owner": [found.st_uid, found.st_gid],
        "links": found.st_nlink,
        "modified": found.st_mtime,
        "changed_ns": found.st_ctime_ns,
        "digest": digest,
    }
    if kind == "link":
        target = os.readlink(entry.name, dir_fd=directory)
        target.encode()
        record["target"] = target
    return record


@contextmanager
def _opened(path: str, flags: int, directory: int | None = None) -> Iterator[int]:
    """A descriptor for reading that leaves the time of the last access alone, where we may ask for that."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_NOATIME, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        descriptor = os.open(path, flags, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
