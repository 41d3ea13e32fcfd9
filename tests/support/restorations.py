"""A database that was converted and written to since, with the backup of the conversion beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from format_store import Format, Retention, convert, inspect, list_backups, open_store, recover
from tests.support.databases import Records, read_table, records_on_disk, sample, write_plain

BEFORE = sample(40)
LATER: Records = [("/later", {"written": "since"})]
TARGET = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
HOUR = 3600.0


@dataclass(frozen=True)
class Converted:
    """``old``: the file's bytes before the conversion, which are the backup's."""

    path: Path
    backup: str
    old: bytes

    @property
    def state(self) -> Path:
        return self.path.with_name(f".{self.path.name}.storageformat")

    @property
    def preimage(self) -> Path:
        return self.state / "backups" / self.backup / "preimage.db"


def converted(path: Path, *, journal_mode: str = "DELETE") -> Converted:
    """Plain records, converted with a backup for an hour; then one more record."""
    write_plain(path, BEFORE, journal_mode=journal_mode)
    old = path.read_bytes()
    result = convert(path, TARGET, retention=Retention(HOUR))
    with open_store(path) as store:
        for key, value in LATER:
            store[key] = value
        store.commit()
    assert result.backup is not None
    return Converted(path, result.backup.conversion_id, old)


def require_restored_or_not(made: Converted) -> str:
    """Recover; the database is wholly the backup or wholly what it was, and the other one is there too.

    Returns which: ``old`` (as it was before the restoration) or ``new`` (the backup).
    """
    recover(made.path)
    assert inspect(made.path).pending == ()
    assert list((made.state / "work").glob("*")) == []
    assert made.path.stat().st_nlink == 1
    before = made.path.read_bytes()
    assert recover(made.path).recoveries == ()
    assert made.path.read_bytes() == before
    # The backup itself is as it was, whatever happened.
    assert made.preimage.read_bytes() == made.old
    others = [
        backup for backup in list_backups(made.path, verify=True)
        if backup.conversion_id != made.backup
    ]  # fmt: skip
    if before != made.old:
        assert records_on_disk(made.path) == [*BEFORE, *LATER]
        assert others == []
        return "old"
    assert records_on_disk(made.path) == BEFORE
    (kept,) = others
    assert kept.pinned
    assert kept.sound
    assert read_table(Path(kept.path), TARGET.to_spec()["sqlitedict"]) == [*BEFORE, *LATER]
    return "new"
