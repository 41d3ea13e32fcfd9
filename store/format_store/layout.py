"""Where everything lies that belongs to one database.

/data/orders.db                               the primary: never missing, replaced by one rename
/data/.orders.db.storageformat/               the state directory, on the same filesystem
    lock                                      never moves, never deleted
    work/<id>/staging.db                      the converted database before the swap
    work/<id>/preimage.db                     the old file's second name
    work/<id>/restored.db                     the pre-image once more, on its way to a lost database's place
    work/<id>/manifest.json                   what the conversion consists of
    backups/<id>/                             a work directory whose pre-image is retained
    rehearsal/                                a throw-away copy that a rehearsal converts; removed by every run
    quarantine/<id>/                          bad files and stray writes; never deleted by us
    history.jsonl                             the last conversions and recoveries, with totals
    desired.json                              the sidecar's: the last StorageFormat seen
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

STATE_SUFFIX = ".storageformat"
#: What SQLite may leave beside a database file (https://www.sqlite.org/tempfiles.html).
SIBLING_SUFFIXES = ("-wal", "-shm", "-journal")

_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")


def is_conversion_id(text: str) -> bool:
    """Whether it has the form of ``clock.new_conversion_id``'s, and so may name a directory."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True)
class WorkDirectory:
    """One conversion's directory, under ``work/`` or ``backups/``."""

    path: Path

    @property
    def conversion_id(self) -> str:
        return self.path.name

    @property
    def staging(self) -> Path:
        return self.path / "staging.db"

    @property
    def preimage(self) -> Path:
        return self.path / "preimage.db"

    @property
    def restored(self) -> Path:
        """The pre-image under another name, on its way to the place of a lost database."""
        return self.path / "restored.db"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"


@dataclass(frozen=True)
class Layout:
    """The paths of one database. ``primary`` is absolute; nothing here follows a symbolic link."""

    primary: Path

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Layout:
        # abspath, not resolve: a symbolic link must be seen (and refused), not silently followed.
        return cls(Path(os.path.abspath(path)))

    @property
    def parent(self) -> Path:
        return self.primary.parent

    @property
    def state(self) -> Path:
        return self.parent / f".{self.primary.name}{STATE_SUFFIX}"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def work(self) -> Path:
        return self.state / "work"

    @property
    def backups(self) -> Path:
        return self.state / "backups"

    @property
    def rehearsal(self) -> Path:
        return self.state / "rehearsal"

    @property
    def quarantine(self) -> Path:
        return self.state / "quarantine"

    @property
    def history(self) -> Path:
        return self.state / "history.jsonl"

    def siblings(self) -> list[Path]:
        """The files that SQLite may leave beside the primary, whether they exist or not."""
        return [Path(f"{self.primary}{suffix}") for suffix in SIBLING_SUFFIXES]

    def work_directory(self, conversion_id: str) -> WorkDirectory:
        return WorkDirectory(self.work / conversion_id)

    def pending(self) -> list[WorkDirectory]:
        """Work that an earlier run left, oldest first. Raises OSError but for 'does not exist'."""
        return _listed(self.work)

    def retained(self) -> list[WorkDirectory]:
        """Backups that are kept, oldest first."""
        return _listed(self.backups)


def _listed(directory: Path) -> list[WorkDirectory]:
    """Raises NotADirectoryError where a link or something else stands for a directory of ours.

    Followed, a planted link would let us delete what lies behind it.
    """
    try:
        _require_directory(directory)
        names = sorted(name for name in os.listdir(directory) if _ID.fullmatch(name))
    except FileNotFoundError:
        return []
    for name in names:
        _require_directory(directory / name)
    return [WorkDirectory(directory / name) for name in names]


def _require_directory(path: Path) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "is no directory of this tool's making", str(path))
