"""What a person does with backups: list, verify, pin, unpin, delete, restore; and what is refused."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from format_store import (
    PLAIN_SQLITEDICT,
    Backup,
    Observer,
    Outcome,
    Retention,
    clock,
    convert,
    delete_backup,
    errors,
    history,
    inspect,
    list_backups,
    pin_backup,
    prune_backups,
    restore_backup,
    unpin_backup,
)
from tests.support.databases import (
    execute,
    marker_of,
    read_table,
    records_on_disk,
    write_plain,
)
from tests.support.openers import opened
from tests.support.restorations import BEFORE, HOUR, LATER, TARGET, Converted, converted
from tests.support.trees import unchanged

NOBODY = "20200101T000000Z-00000000"
LOCK = {".orders.db.storageformat/lock"}


@pytest.fixture
def made(tmp_path: Path) -> Converted:
    return converted(tmp_path / "orders.db")


def only(made: Converted) -> Backup:
    (backup,) = list_backups(made.path)
    return backup


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2 * 4096 : 3 * 4096] = b"\xa5" * 4096
    path.write_bytes(data)


# --- list -------------------------------------------------------------------------------------------------


def test_what_a_backup_tells(made: Converted) -> None:
    """Its id, size, rows, the formats from and to, until when; whether it is sound, only when asked."""
    with unchanged(made.path.parent):
        backup = only(made)
    assert backup.conversion_id == made.backup
    assert (backup.source_format, backup.target_format) == (PLAIN_SQLITEDICT, TARGET)
    assert (backup.size, backup.rows, backup.pinned) == (len(made.old), len(BEFORE), False)
    assert backup.retain_until is not None
    assert backup.sound is None
    with unchanged(made.path.parent):
        (verified,) = list_backups(made.path, verify=True)
    assert verified.sound is True


def test_several_backups(made: Converted) -> None:
    """Each conversion's backup stays with a manifest of its own."""
    convert(made.path, PLAIN_SQLITEDICT, retention=Retention(2 * HOUR))
    convert(made.path, TARGET, retention=Retention(pinned=True))
    found = list_backups(made.path, verify=True)
    assert len(found) == 3
    assert all(backup.sound for backup in found)
    told = [(backup.source_format, backup.rows, backup.pinned) for backup in found]
    assert (PLAIN_SQLITEDICT, 41, True) in told
    assert (TARGET, 41, False) in told


def test_a_backup_that_was_written_to_is_not_sound(made: Converted) -> None:
    """One byte is enough; nothing else is concluded from it."""
    execute(made.preimage, "PRAGMA user_version = 7")
    with unchanged(made.path.parent):
        (backup,) = list_backups(made.path, verify=True)
    assert backup.sound is False


def test_verifying_a_backup_in_use(made: Converted) -> None:
    """What somebody may be writing to right now is not judged."""
    with opened(made.preimage), pytest.raises(errors.InUse):
        list_backups(made.path, verify=True)


def test_a_manifest_that_cannot_be_read(made: Converted) -> None:
    """It is listed, as pinned and not sound; nothing is done to it, and that says why."""
    made.preimage.with_name("manifest.json").write_text("{")
    (backup,) = list_backups(made.path, verify=True)
    assert (backup.pinned, backup.sound) == (True, False)
    assert "manifest" in backup.note
    assert backup.to_dict()["sourceFormat"] is None
    with unchanged(made.path.parent, besides=LOCK):
        for act in (pin_backup, unpin_backup, delete_backup, restore_backup):
            with pytest.raises(errors.UnreadableManifest):
                act(made.path, made.backup)
    assert prune_backups(made.path) is None
    assert made.preimage.read_bytes() == made.old


@pytest.mark.parametrize("act", [pin_backup, unpin_backup, delete_backup, restore_backup])
def test_no_such_backup(
    made: Converted, tmp_path: Path, act: Callable[[Path, str], object]
) -> None:
    """An id that is none: exit code 2, nothing touched; beside no database not even a directory is made."""
    for path, identity in (
        (made.path, NOBODY),
        (made.path, "../../orders.db"),
        (tmp_path / "typo.db", made.backup),
    ):
        with unchanged(tmp_path, besides=LOCK), pytest.raises(errors.NoSuchBackup) as caught:
            act(path, identity)
        assert caught.value.exit_code == 2
        assert identity in str(caught.value)
        assert "backups list" in caught.value.hint


# --- pin and unpin ----------------------------------------------------------------------------------------


def test_pin_and_unpin(made: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned it has no end. Unpinned, its conversion's retainFor counts from that moment."""
    assert pin_backup(made.path, made.backup) == only(made)
    assert (only(made).pinned, only(made).retain_until) == (True, None)
    assert prune_backups(made.path) is None
    pin_backup(made.path, made.backup)
    monkeypatch.setattr(clock, "now", lambda: "2031-01-01T00:00:00Z")
    assert prune_backups(made.path) is None
    assert unpin_backup(made.path, made.backup).retain_until == "2031-01-01T01:00:00Z"
    assert prune_backups(made.path) == HOUR
    # Not pinned: its time goes on as it was.
    monkeypatch.setattr(clock, "now", lambda: "2031-01-01T00:30:00Z")
    assert unpin_backup(made.path, made.backup).retain_until == "2031-01-01T01:00:00Z"
    monkeypatch.setattr(clock, "now", lambda: "2031-01-01T01:00:00Z")
    assert prune_backups(made.path) is None
    assert list_backups(made.path) == ()


def test_unpin_for_as_long_as_one_likes(made: Converted) -> None:
    """``retain_for`` overrules the manifest; what is no time is refused."""
    pin_backup(made.path, made.backup)
    until = unpin_backup(made.path, made.backup, retain_for=86400).retain_until
    assert until is not None
    assert (
        86300 < clock.parse(until) - clock.parse(clock.now()) <= timedelta(days=1).total_seconds()
    )
    pin_backup(made.path, made.backup)
    for nonsense in (-1.0, float("nan"), float("inf")):
        with unchanged(made.path.parent), pytest.raises(errors.UsageError):
            unpin_backup(made.path, made.backup, retain_for=nonsense)


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_manifest_is_changed_wholly_or_not(
    made: Converted, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The disk fails while a manifest is rewritten: the old one is there, complete."""
    before = made.preimage.with_name("manifest.json").read_bytes()

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(errors.OutOfSpace):
            pin_backup(made.path, made.backup)
    assert made.preimage.with_name("manifest.json").read_bytes() == before
    assert pin_backup(made.path, made.backup).pinned


# --- delete -----------------------------------------------------------------------------------------------


class Deletions(Observer):
    def __init__(self) -> None:
        self.deleted: list[str] = []

    def backup_deleted(self, backup: Backup) -> None:
        self.deleted.append(backup.conversion_id)


def test_delete(made: Converted) -> None:
    """A person may delete before its time, beside a running application; observers are told."""
    told = Deletions()
    with opened(made.path):
        delete_backup(made.path, made.backup, observer=told)
    assert told.deleted == [made.backup]
    assert list_backups(made.path) == ()
    assert not made.preimage.parent.exists()
    assert records_on_disk(made.path) == [*BEFORE, *LATER]


def test_a_pinned_backup_is_unpinned_first(made: Converted) -> None:
    """Refused as long as it is pinned, with the command that unpins it."""
    pin_backup(made.path, made.backup)
    with unchanged(made.path.parent), pytest.raises(errors.BackupPinned) as caught:
        delete_backup(made.path, made.backup)
    assert caught.value.exit_code == 3
    assert f"backups unpin {made.path} {made.backup}" in caught.value.hint
    unpin_backup(made.path, made.backup)
    delete_backup(made.path, made.backup)


@pytest.mark.parametrize(
    "harm",
    [
        "missing",
        "no marker and empty",
        "a page",
        "a value",
        "another database's header",
        "truncated",
    ],
)
def test_not_while_the_database_is_not_well(made: Converted, harm: str) -> None:
    """The backup may be the only good copy: every row of the database is decoded first."""
    if harm == "missing":
        made.path.unlink()
    elif harm == "no marker and empty":
        execute(made.path, "DROP VIEW _storageformat", "DELETE FROM unnamed")
    elif harm == "a page":
        damage(made.path)
    elif harm == "a value":
        execute(made.path, "UPDATE unnamed SET value = CAST(x'28b52ffd00' AS BLOB) WHERE rowid = 7")
    elif harm == "truncated":
        os.truncate(made.path, 0)
    else:
        made.path.write_bytes(b"\x00" * 8192)
    with unchanged(made.path.parent), pytest.raises(errors.NeedsAttention) as caught:
        delete_backup(made.path, made.backup)
    assert caught.value.exit_code == 4
    assert made.preimage.read_bytes() == made.old


def test_not_while_it_is_in_use(made: Converted) -> None:
    """Somebody has the backup open: it stays, and goes when that one closes it."""
    with (
        opened(made.preimage),
        unchanged(made.path.parent),
        pytest.raises(errors.InUse),
    ):
        delete_backup(made.path, made.backup)
    delete_backup(made.path, made.backup)


def test_not_after_somebody_wrote_to_it(made: Converted) -> None:
    """What was written to it is nowhere else."""
    write_plain(made.preimage, [("/stray", 1)])
    with unchanged(made.path.parent), pytest.raises(errors.StrayWrites):
        delete_backup(made.path, made.backup)
    assert read_table(made.preimage, {}) == [*BEFORE, ("/stray", 1)]


def test_not_while_a_conversion_is_under_way(made: Converted) -> None:
    """Nobody changes backups while the lock is another's."""
    from format_store import Failpoints

    seen: list[str] = []

    def try_all() -> None:
        for act in (pin_backup, unpin_backup, delete_backup, restore_backup):
            with pytest.raises(errors.Locked):
                act(made.path, made.backup)
        with pytest.raises(errors.Locked):
            list_backups(made.path, verify=True)
        seen.append("locked")

    convert(made.path, PLAIN_SQLITEDICT, failpoints=Failpoints({"build.after-staging": try_all}))
    assert seen == ["locked"]


# --- restore ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_restore(tmp_path: Path, journal_mode: str) -> None:
    """The database is the backup, byte for byte, not linked to it; what it was is a pinned backup."""
    made = converted(tmp_path / "orders.db", journal_mode=journal_mode)
    os.chmod(made.path, 0o640)
    result = restore_backup(made.path, made.backup)
    assert result.outcome is Outcome.RESTORED
    assert made.path.read_bytes() == made.old
    assert made.path.stat().st_mode & 0o777 == 0o640
    assert made.path.stat().st_nlink == made.preimage.stat().st_nlink == 1
    assert marker_of(made.path) is None
    assert records_on_disk(made.path) == BEFORE
    assert result.backup is not None
    kept = result.backup
    assert (kept.pinned, kept.source_format, kept.target_format) == (True, TARGET, PLAIN_SQLITEDICT)
    assert made.backup in kept.note
    assert read_table(Path(kept.path), TARGET.to_spec()["sqlitedict"]) == [*BEFORE, *LATER]
    assert len(list_backups(made.path)) == 2
    entry = history.read(made.path).entries[-1]
    assert (entry["kind"], entry["restores"]) == ("restoration", made.backup)
    assert history.read(made.path).totals["conversions.succeeded"] == 1
    # The application writes to its database only.
    write_plain(made.path, [("/newest", 1)])
    assert made.preimage.read_bytes() == made.old


def test_a_restoration_is_taken_back(made: Converted) -> None:
    """By restoring what it kept; and that one too."""
    before = made.path.read_bytes()
    first = restore_backup(made.path, made.backup)
    assert first.backup is not None
    second = restore_backup(made.path, first.backup.conversion_id)
    assert made.path.read_bytes() == before
    assert second.backup is not None
    third = restore_backup(made.path, second.backup.conversion_id)
    assert made.path.read_bytes() == made.old
    # Of an unmarked database nobody has said what it is in: that is told as it is.
    assert second.backup.source_format is None
    assert third.target is None
    assert len(list_backups(made.path, verify=True)) == 4


def test_restoring_what_is_there(made: Converted) -> None:
    """The database is the backup already: nothing is done, and nothing kept."""
    restore_backup(made.path, made.backup)
    with unchanged(made.path.parent):
        assert restore_backup(made.path, made.backup).outcome is Outcome.UNCHANGED


def test_backups_of_a_restored_database_can_be_deleted(made: Converted) -> None:
    """It has no marker, so its rows are looked at in the formats that the backup's manifest tells."""
    kept = restore_backup(made.path, made.backup).backup
    assert kept is not None
    unpin_backup(made.path, kept.conversion_id)
    delete_backup(made.path, kept.conversion_id)
    delete_backup(made.path, made.backup)
    assert list_backups(made.path) == ()
    assert records_on_disk(made.path) == BEFORE


@pytest.mark.parametrize("harm", ["missing", "a page", "the schema", "no database", "empty"])
def test_restoring_over_a_damaged_database(made: Converted, harm: str) -> None:
    """That is what one restores for; the damaged file is kept as it lies."""
    if harm == "missing":
        made.path.unlink()
    elif harm == "a page":
        damage(made.path)
    elif harm == "the schema":
        data = bytearray(made.path.read_bytes())
        data[100:4096] = b"\xa5" * 3996
        made.path.write_bytes(data)
    elif harm == "no database":
        made.path.write_bytes(b"\x01" * 8192)
    else:
        os.truncate(made.path, 0)
    bad = made.path.read_bytes() if harm != "missing" else b""
    result = restore_backup(made.path, made.backup)
    assert records_on_disk(made.path) == BEFORE
    assert made.path.read_bytes() == made.old
    assert result.backup is not None
    assert Path(result.backup.path).read_bytes() == bad


def test_a_lost_databases_journal_stops_a_restoration(made: Converted) -> None:
    """Beside the restored file SQLite would replay it."""
    made.path.unlink()
    made.path.with_name("orders.db-wal").write_bytes(b"frames")
    with unchanged(made.path.parent), pytest.raises(errors.InUse, match=r"orders\.db-wal"):
        restore_backup(made.path, made.backup)


def test_a_backup_that_is_not_sound_is_not_restored(made: Converted) -> None:
    """Its bytes are not those of its manifest: the database stays, and no work is left."""
    damage(made.preimage)
    besides = {".orders.db.storageformat/work"}
    with (
        unchanged(made.path.parent, besides=besides),
        pytest.raises(errors.BackupUnsound) as caught,
    ):
        restore_backup(made.path, made.backup)
    assert caught.value.exit_code == 3
    assert records_on_disk(made.path) == [*BEFORE, *LATER]


def test_not_while_the_database_is_open(made: Converted) -> None:
    """An application that has it open would go on writing to the old file."""
    with opened(made.path), unchanged(made.path.parent), pytest.raises(errors.InUse):
        restore_backup(made.path, made.backup)
    restore_backup(made.path, made.backup)


def test_not_from_a_backup_in_use(made: Converted) -> None:
    """What somebody may be writing to is not copied; the failure leaves nothing behind."""
    besides = {".orders.db.storageformat/work", ".orders.db.storageformat/history.jsonl"}
    with (
        opened(made.preimage),
        unchanged(made.path.parent, besides=besides),
        pytest.raises(errors.InUse),
    ):
        restore_backup(made.path, made.backup)


def test_not_a_file_with_a_second_name(made: Converted, tmp_path: Path) -> None:
    """The other name would keep the old content."""
    os.link(made.path, tmp_path / "second.db")
    with unchanged(tmp_path), pytest.raises(errors.ExtraHardLinks):
        restore_backup(made.path, made.backup)


def test_a_conversion_follows_a_restoration(made: Converted) -> None:
    """A restored database is converted like any other, and what is kept stays kept."""
    restore_backup(made.path, made.backup)
    convert(made.path, TARGET)
    assert records_on_disk(made.path) == BEFORE
    assert len(list_backups(made.path, verify=True)) == 2


def test_a_hot_journal_is_worked_off_first(made: Converted) -> None:
    """What a killed writer had not committed is in neither; what it had is in what is kept."""
    script = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size=1')\n"
        "c.execute('BEGIN')\n"
        "c.execute('CREATE TABLE more AS SELECT zeroblob(90000)')\n"
        "c.execute('DELETE FROM unnamed')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(made.path)], check=False)
    assert done.returncode == -9
    assert made.path.with_name("orders.db-journal").exists()
    kept = restore_backup(made.path, made.backup).backup
    assert made.path.read_bytes() == made.old
    assert kept is not None
    assert read_table(Path(kept.path), TARGET.to_spec()["sqlitedict"]) == [*BEFORE, *LATER]


def test_a_write_ahead_log_is_written_back_first(tmp_path: Path) -> None:
    """What is only in the log of the database that is replaced is in the backup that is kept."""
    made = converted(tmp_path / "orders.db", journal_mode="WAL")
    script = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('PRAGMA user_version = 77')\n"
        "c.commit()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(made.path)], check=False)
    assert made.path.with_name("orders.db-wal").stat().st_size > 0
    kept = restore_backup(made.path, made.backup).backup
    assert kept is not None
    with closing(sqlite3.connect(kept.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (77,)
    assert made.path.read_bytes() == made.old


def test_the_manifest_of_a_restoration(made: Converted) -> None:
    """It says what it restored; an inspection lists it."""
    kept = restore_backup(made.path, made.backup).backup
    assert kept is not None
    manifest = json.loads(Path(kept.path).with_name("manifest.json").read_bytes())
    assert (manifest["manifestVersion"], manifest["restores"]) == (2, made.backup)
    assert kept in inspect(made.path).backups
