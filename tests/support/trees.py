"""What a directory holds, down to bytes and times, so that "nothing was touched" can be asserted."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One name. ``content`` of a regular file, or a link's target; its time of modification goes with it."""

    kind: int
    mode: int
    owner: tuple[int, int]
    links: int
    content: bytes | str | None
    mtime_ns: int | None


def tree(directory: Path) -> dict[str, Entry]:
    """Everything below ``directory`` by relative name. Opens nothing but regular files."""
    found = {}
    for parent, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            path = Path(parent, name)
            found[str(path.relative_to(directory))] = _entry(path)
    return found


def _entry(path: Path) -> Entry:
    facts = os.lstat(path)
    content: bytes | str | None = None
    mtime_ns = None
    links = 1
    if stat.S_ISREG(facts.st_mode):
        content, mtime_ns, links = path.read_bytes(), facts.st_mtime_ns, facts.st_nlink
    elif stat.S_ISLNK(facts.st_mode):
        content = os.readlink(path)
    kind, mode = stat.S_IFMT(facts.st_mode), stat.S_IMODE(facts.st_mode)
    return Entry(kind, mode, (facts.st_uid, facts.st_gid), links, content, mtime_ns)


@contextmanager
def unchanged(directory: Path, *, besides: Collection[str] = ()) -> Iterator[None]:
    """While the body runs nothing changes below ``directory``, except these relative names."""
    before = tree(directory)
    yield
    after = tree(directory)
    changed = {
        name: (before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name not in besides
    }
    assert changed == {}
