"""What may be found once recovery has run: wholly the old or wholly the new, told without the store's code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from format_store import (
    Format,
    convert,
    delete_backup,
    list_backups,
    prune_backups,
    restore_backup,
    undo,
)
from tests.support.databases import (
    Records,
    format_on_disk,
    leftovers,
    marker_of,
    read_table,
    records_on_disk,
)
from tests.support.restorations import BEFORE, LATER, TARGET, Converted
from tests.support.sqlite_files import everything


class Outcome(Protocol):
    def judge(self, path: Path) -> str:
        """``old`` or ``new``; AssertionError for anything else."""

    def finish(self, path: Path) -> None:
        """Do what was interrupted, in whichever of the two states it is."""


def backups_of(path: Path) -> list[Path]:
    """The retained backups' files."""
    return sorted((path.parent / f".{path.name}.storageformat").glob("backups/*/preimage.db"))


def require_clear(path: Path, *, backups: int = 0) -> None:
    """Nothing is left beside the database but so many whole backups."""
    state = path.parent / f".{path.name}.storageformat"
    kept = [directory for directory in state.glob("backups/*") if any(directory.iterdir())]
    assert len(kept) == backups, kept
    for directory in kept:
        assert {file.name for file in directory.iterdir()} == {"preimage.db", "manifest.json"}
    # Where a rename within a directory may reach the disk in parts, an old name of the history may come back;
    # whoever writes to the history next removes it.
    left = [name for name in leftovers(path) if name != ".history.jsonl.new"]
    assert [name for name in left if not name.startswith(("backups/", "quarantine/"))] == []


def _records_of_copy(file: Path, parameters: dict[str, Any]) -> Records:
    """Opening it in place would leave a ``-wal`` beside a backup in that journal mode."""
    copy = Path(shutil.copy(file, file.parent.parent.parent / "copy.db"))
    try:
        return read_table(copy, parameters)
    finally:
        copy.unlink()


@dataclass
class Conversion:
    """Records of one table, from ``source`` to ``target``; ``kept``: a backup is, once it is done."""

    records: Records
    target: dict[str, Any]
    source: dict[str, Any] = field(default_factory=dict)
    kept: bool = False

    def judge(self, path: Path) -> str:
        parameters = format_on_disk(path)
        where = "old" if parameters == self.source else "new"
        if where == "new":
            assert parameters == Format.from_spec(self.target).to_spec()["sqlitedict"]
        assert records_on_disk(path) == self.records
        kept = self.kept and where == "new"
        require_clear(path, backups=int(kept))
        for file in backups_of(path):
            assert _records_of_copy(file, self.source) == self.records
        return where

    def finish(self, path: Path) -> None:
        convert(path, Format.from_spec(self.target))
        if self.kept and not backups_of(path):
            # It was the old one, and this was a conversion without a backup.
            self.kept = False
            try:
                assert self.judge(path) == "new"
            finally:
                self.kept = True
        else:
            assert self.judge(path) == "new"


@dataclass
class Migrated:
    """A file of every kind of object with sqlitedict's table in it, and two migrations."""

    records: Records
    target: dict[str, Any]
    before: dict[str, Any]
    others: Callable[[Path], dict[str, Any]]

    def judge(self, path: Path) -> str:
        where = "new" if marker_of(path) else "old"
        found = everything(path)
        assert ("table two" in found) == (where == "new")
        assert found.get("table two", ["(1, 2)"]) == ["(1, 2)"]
        assert self.others(path) == self.before
        assert records_on_disk(path) == self.records
        require_clear(path)
        return where

    def finish(self, path: Path) -> None:
        convert(path, Format.from_spec(self.target))
        assert self.judge(path) == "new"


@dataclass
class Restoration:
    """A backup put back; what was there becomes a backup. The restored backup stays in either case."""

    made: Converted

    def judge(self, path: Path) -> str:
        assert self._preimage(path).read_bytes() == self.made.old
        others = [file for file in backups_of(path) if file.parent.name != self.made.backup]
        if path.read_bytes() == self.made.old:
            (other,) = others
            assert (
                _records_of_copy(other, TARGET.to_spec()["sqlitedict"]) == [*BEFORE, *LATER]
            )  # fmt: skip
            require_clear(path, backups=2)
            return "new"
        assert records_on_disk(path) == [*BEFORE, *LATER]
        assert others == []
        require_clear(path, backups=1)
        return "old"

    def finish(self, path: Path) -> None:
        restore_backup(path, self.made.backup)
        assert self.judge(path) == "new"
        assert all(backup.sound for backup in list_backups(path, verify=True))

    def _preimage(self, path: Path) -> Path:
        return path.parent / self.made.preimage.relative_to(self.made.path.parent)


@dataclass
class Reinstatement(Restoration):
    """A backup put in the place of a database that is gone: before, nothing is there, or an empty file."""

    def judge(self, path: Path) -> str:
        assert self._preimage(path).read_bytes() == self.made.old
        others = [file for file in backups_of(path) if file.parent.name != self.made.backup]
        if path.exists() and path.stat().st_size:
            assert path.read_bytes() == self.made.old
            assert [other.read_bytes() for other in others] == [b""]
            require_clear(path, backups=2)
            return "new"
        assert others == []
        require_clear(path, backups=1)
        return "old"


@dataclass
class Regained:
    """The pre-image put in the place of a database that is gone or unreadable, by the recovery itself.

    ``bad``: what was there, which stays in quarantine.
    """

    records: Records
    target: dict[str, Any]
    bad: bytes | None = None

    def judge(self, path: Path) -> str:
        assert format_on_disk(path) == {}
        self._require_whole(path)
        return "new"

    def finish(self, path: Path) -> None:
        convert(path, Format.from_spec(self.target))
        assert format_on_disk(path) == Format.from_spec(self.target).to_spec()["sqlitedict"]
        self._require_whole(path)

    def _require_whole(self, path: Path) -> None:
        assert records_on_disk(path) == self.records
        require_clear(path)
        kept = list(path.parent.glob(f".{path.name}.storageformat/quarantine/*/*"))
        # A copy's first name may come back beside the last one, as the history's may. Nothing there is deleted.
        named = [file for file in kept if file.name != f".{path.name}.new"]
        assert [file.read_bytes() for file in named] == ([] if self.bad is None else [self.bad])


@dataclass
class Reversal(Restoration):
    """A conversion taken back with what was written since; the backup stays."""

    def judge(self, path: Path) -> str:
        assert records_on_disk(path) == [*BEFORE, *LATER]
        assert self._preimage(path).read_bytes() == self.made.old
        require_clear(path, backups=1)
        target = TARGET.to_spec()["sqlitedict"]
        found = format_on_disk(path)
        if found != target:
            assert found == Format.sqlitedict().to_spec()["sqlitedict"]
        return "old" if found == target else "new"

    def finish(self, path: Path) -> None:
        if self.judge(path) == "old":
            undo(path)
        assert self.judge(path) == "new"


@dataclass
class Deletion(Restoration):
    """A backup deleted by a person, or by its time: whole or gone, and the database as it was."""

    def judge(self, path: Path) -> str:
        assert records_on_disk(path) == [*BEFORE, *LATER]
        preimage = self._preimage(path)
        if not preimage.exists():
            # What is left of it is nobody's data, and goes with the next pruning.
            return "new"
        assert preimage.read_bytes() == self.made.old
        require_clear(path, backups=1)
        return "old"

    def finish(self, path: Path) -> None:
        if self.judge(path) == "old":
            delete_backup(path, self.made.backup)
        prune_backups(path)
        assert self.judge(path) == "new"
        require_clear(path)
