"""The windows that a design with backup, convert, restore leaves open; each test names one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Format,
    RecoveryOutcome,
    convert,
    durable,
    errors,
    history,
    inspect,
    recover,
    settle,
)
from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.crash.strace import command
from tests.support.databases import (
    decode_hierarchical,
    format_on_disk,
    leftovers,
    records_on_disk,
    sample,
    write_plain,
)

RECORDS = sample(40)
TARGET = Format.from_spec(HIERARCHICAL)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def kill_at(path: Path, name: str, *options: str) -> Path:
    """Convert until the failpoint, die there; returns the work directory that is left."""
    done = subprocess.run(
        command(["convert", str(path), "--failpoint", name, "kill", *options]),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    work = list((path.parent / f".{path.name}.storageformat" / "work").iterdir())
    assert len(work) == 1
    return work[0]


def only(path: Path) -> tuple[RecoveryOutcome, str]:
    (recovery,) = recover(path).recoveries
    return recovery.outcome, recovery.detail


def total(path: Path, name: str) -> int:
    return history.read(path).totals[name]


# --- the primary is the old file ------------------------------------------------------------------------


def test_crash_between_old_kept_and_new_in_place(database: Path) -> None:
    """The old file has its second name, the new one is not in place: discarded, and one name is left."""
    work = kill_at(database, "swap.after-preimage")
    assert os.stat(database).st_nlink == 2
    assert only(database)[0] is RecoveryOutcome.DISCARDED
    assert not work.exists()
    assert os.stat(database).st_nlink == 1
    assert records_on_disk(database) == RECORDS
    assert total(database, "recoveries.discarded") == 1


def test_writes_after_a_crash_before_the_swap_stay(database: Path) -> None:
    """What the application wrote into the old file while work was pending is there after recovery."""
    kill_at(database, "swap.after-preimage")
    write_plain(database, [("/late", {"size": 1})])
    assert only(database)[0] is RecoveryOutcome.DISCARDED
    assert records_on_disk(database) == [*RECORDS, ("/late", {"size": 1})]
    require_intact(database, [*RECORDS, ("/late", {"size": 1})], HIERARCHICAL)


def test_discarding_waits_for_whoever_has_the_file_open(database: Path) -> None:
    """The pre-image's name is dropped under a lease only: InUse while the file is open, then discarded."""
    work = kill_at(database, "swap.after-preimage")
    with open(database, "rb"), pytest.raises(errors.InUse):
        recover(database)
    assert (work / "preimage.db").exists()
    assert only(database)[0] is RecoveryOutcome.DISCARDED


def test_a_leaked_staging_copy_is_removed(database: Path) -> None:
    """A staging copy that an earlier run left, for whatever target, does not stay on the volume."""
    kill_at(database, "build.after-staging", "--to", '{"sqlitedict": {"valueCodec": "json"}}')
    assert any("staging.db" in name for name in leftovers(database))
    convert(database, TARGET)
    assert leftovers(database) == []
    assert total(database, "recoveries.discarded") == 1


# --- the primary is the new file ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["swap.after-rename", "swap.after-fsync", "cleanup.before-delete-preimage"]
)
def test_crash_before_the_backup_is_deleted(database: Path, name: str) -> None:
    """The new file is in place, byte for byte as verified: completed, and only then the pre-image goes."""
    work = kill_at(database, name)
    assert (work / "preimage.db").exists()
    assert only(database)[0] is RecoveryOutcome.COMPLETED
    assert not work.exists()
    assert records_on_disk(database) == RECORDS
    assert format_on_disk(database)["keyEncoding"] == "hierarchical"
    assert total(database, "conversions.succeeded") == 1
    assert total(database, "recoveries.completed") == 1


@pytest.mark.parametrize("name", ["cleanup.after-delete-preimage", "cleanup.before-clear"])
def test_crash_after_the_backup_is_deleted(database: Path, name: str) -> None:
    """Only clean-up is left: cleaned, and the conversion counts once."""
    kill_at(database, name)
    assert only(database)[0] is RecoveryOutcome.CLEANED
    assert total(database, "conversions.succeeded") == 1
    assert total(database, "backups.created") == 1


def test_backup_beside_a_primary_that_was_written_to(database: Path) -> None:
    """Written to after the swap and sound: completed, the writes stay, the pre-image is kept and listed."""
    kill_at(database, "swap.after-fsync")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM unnamed WHERE rowid = 1")
    outcome, detail = only(database)
    assert outcome is RecoveryOutcome.COMPLETED
    assert "kept" in detail
    assert records_on_disk(database) == RECORDS[1:]
    (backup,) = inspect(database).backups
    assert backup.pinned
    assert records_in(Path(backup.path)) == RECORDS


def records_in(path: Path) -> list[tuple[str, object]]:
    from tests.support.databases import read_table

    return read_table(path, {})


def test_backup_beside_a_damaged_primary(database: Path) -> None:
    """Damaged after the swap: nothing is restored or deleted by itself, both copies stay, exit code 4."""
    work = kill_at(database, "swap.after-fsync")
    damage(database)
    before = database.read_bytes()
    for _ in range(2):
        with pytest.raises(errors.PrimaryUnsound) as caught:
            recover(database)
        assert caught.value.exit_code == 4
        assert str(work / "preimage.db") in caught.value.hint
    assert database.read_bytes() == before
    assert records_in(work / "preimage.db") == RECORDS
    assert total(database, "recoveries.failed") == 1


def damage(path: Path) -> None:
    """Overwrite a page in the middle: SQLite still opens the file, integrity_check does not pass."""
    with open(path, "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * 4096)


def test_a_changed_value_does_not_pass_for_completed(database: Path) -> None:
    """A flipped byte that integrity_check cannot see is found by decoding every row."""
    kill_at(database, "swap.after-fsync")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE unnamed SET value = CAST(x'80049530000000' || x'2e' AS BLOB) WHERE rowid = 7"
        )
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with pytest.raises(errors.PrimaryUnsound, match="unnamed"):
        recover(database)


def test_a_late_opener_keeps_the_backup_alive(database: Path) -> None:
    """Somebody still has the old file open: the pre-image stays until the descriptor is closed."""
    with open(database, "rb") as old:
        # The opener came in the instant that no lease can cover: simulated by a kill right after the rename.
        os.link(database, database.with_name("opener"))
        os.unlink(database.with_name("opener"))
        old.read(1)
    work = kill_at(database, "swap.after-rename")
    with open(work / "preimage.db", "r+b"), pytest.raises(errors.InUse):
        recover(database)
    assert (work / "preimage.db").exists()
    assert only(database)[0] is RecoveryOutcome.COMPLETED


def test_stray_writes_into_the_old_file_are_not_thrown_away(database: Path) -> None:
    """A late opener's commit in the pre-image: the conversion completes, the file goes to quarantine."""
    work = kill_at(database, "swap.after-rename")
    write_plain(work / "preimage.db", [("/stray", 1)])
    with pytest.raises(errors.StrayWrites) as caught:
        recover(database)
    assert caught.value.exit_code == 4
    quarantined = (
        database.parent / ".orders.db.storageformat" / "quarantine" / work.name / "preimage.db"
    )
    assert str(quarantined) in caught.value.hint
    assert records_in(quarantined) == [*RECORDS, ("/stray", 1)]
    assert records_on_disk(database) == RECORDS
    assert recover(database).recoveries == ()


# --- the primary is missing, foreign or no database -----------------------------------------------------


def lose_primary(database: Path) -> None:
    database.unlink()


def truncate_primary(database: Path) -> None:
    # Another inode, empty: what a file looks like whose creation reached the disk and whose content did not.
    database.unlink()
    database.touch()


def overwrite_primary(database: Path) -> None:
    database.unlink()
    database.write_bytes(b"\x00" * 8192)


@pytest.mark.parametrize("harm", [lose_primary, truncate_primary, overwrite_primary])
@pytest.mark.parametrize("name", ["swap.after-preimage", "swap.after-fsync"])
def test_nothing_but_a_backup(database: Path, name: str, harm: Callable[[Path], None]) -> None:
    """The primary is gone or no database: the pre-image is restored, whatever was there is kept."""
    work = kill_at(database, name)
    harm(database)
    bad = database.read_bytes() if database.exists() else None
    assert only(database)[0] is RecoveryOutcome.RESTORED
    assert records_on_disk(database) == RECORDS
    assert os.stat(database).st_nlink == 1
    if bad is not None:
        quarantine = database.parent / ".orders.db.storageformat" / "quarantine" / work.name
        assert (quarantine / "orders.db").read_bytes() == bad
        shutil.rmtree(quarantine)
    require_intact(database, RECORDS, HIERARCHICAL)
    assert total(database, "recoveries.restored") == 1


def test_restored_without_the_bad_files_journal(database: Path) -> None:
    """A stale -wal beside the lost primary would be replayed over the restored one: it is moved away."""
    work = kill_at(database, "swap.after-fsync")
    database.unlink()
    database.with_name("orders.db-wal").write_bytes(b"stale")
    assert only(database)[0] is RecoveryOutcome.RESTORED
    assert not database.with_name("orders.db-wal").exists()
    quarantine = database.parent / ".orders.db.storageformat" / "quarantine" / work.name
    assert (quarantine / "orders.db-wal").read_bytes() == b"stale"
    assert records_on_disk(database) == RECORDS


def test_nothing_but_a_damaged_backup(database: Path) -> None:
    """The primary is gone and the pre-image is not as it was: nothing is touched, exit code 4."""
    work = kill_at(database, "swap.after-fsync")
    database.unlink()
    damage(work / "preimage.db")
    with pytest.raises(errors.PreimageLost):
        recover(database)
    assert not database.exists()
    assert (work / "preimage.db").exists()


def test_a_primary_that_somebody_replaced_stays(database: Path) -> None:
    """Another database at the path while work is pending: theirs stays, our pre-image is kept and listed."""
    kill_at(database, "swap.after-fsync")
    database.unlink()
    write_plain(database, [("/theirs", 1)])
    outcome, detail = only(database)
    assert (outcome, "replaced" in detail) == (RecoveryOutcome.DISCARDED, True)
    assert records_on_disk(database) == [("/theirs", 1)]
    (backup,) = inspect(database).backups
    assert records_in(Path(backup.path)) == RECORDS


def test_nothing_is_restored_when_nothing_is_pending(database: Path) -> None:
    """An application may empty its database, or remove it: with nothing pending nothing comes back."""
    from format_store import Retention

    convert(database, TARGET, retention=Retention(3600))
    assert len(inspect(database).backups) == 1
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM unnamed")
    assert recover(database).recoveries == ()
    assert records_on_disk(database) == []
    database.unlink()
    assert recover(database).recoveries == ()
    assert not database.exists()


# --- manifests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", '{"manifestVersion": 99}', "\x00" * 64])
def test_a_manifest_that_cannot_be_understood(database: Path, text: str) -> None:
    """A torn, foreign or newer manifest stops everything: nothing is changed, exit code 4."""
    work = kill_at(database, "swap.after-fsync")
    (work / "manifest.json").write_text(text)
    with pytest.raises(errors.UnreadableManifest) as caught:
        convert(database, TARGET)
    assert caught.value.exit_code == 4
    assert records_in(work / "preimage.db") == RECORDS
    assert records_on_disk(database) == RECORDS


def test_a_preimage_without_a_manifest_is_never_deleted(database: Path) -> None:
    """Nobody knows what it is the pre-image of: exit code 4, it stays, and nothing is told as discarded."""
    work = kill_at(database, "swap.after-fsync")
    (work / "manifest.json").unlink()
    with pytest.raises(errors.UnreadableManifest):
        recover(database)
    assert records_in(work / "preimage.db") == RECORDS
    assert history.read(database).totals["recoveries.discarded"] == 0


# --- other filesystems, other volumes -------------------------------------------------------------------


def test_without_hard_links_the_preimage_is_a_copy(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where link(2) is not supported the pre-image is a durable copy, and a conversion ends as ever."""
    monkeypatch.setattr(durable, "link", lambda *_: False)
    copied: list[Path] = []
    real = durable.copy_descriptor

    def copy(descriptor: int, target: Path, **options: Any) -> None:
        copied.append(target)
        real(descriptor, target, **options)

    monkeypatch.setattr(durable, "copy_descriptor", copy)
    convert(database, TARGET)
    assert [path.name for path in copied] == ["preimage.db"]
    assert records_on_disk(database) == RECORDS
    assert leftovers(database) == []


def test_a_restored_volume_copy_recovers(database: Path, tmp_path: Path) -> None:
    """A volume copied file by file while work was pending (no hard link any more) recovers, too."""
    kill_at(database, "swap.after-preimage")
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(database, copy / "orders.db")
    shutil.copytree(tmp_path / ".orders.db.storageformat", copy / ".orders.db.storageformat")
    assert os.stat(copy / "orders.db").st_nlink == 1
    require_intact(copy / "orders.db", RECORDS, HIERARCHICAL)


def test_recovery_in_a_wal_database(tmp_path: Path) -> None:
    """The same windows in a database in WAL mode; it stays one."""
    for name in ("swap.after-preimage", "swap.after-rename", "cleanup.before-clear"):
        path = tmp_path / name / "orders.db"
        path.parent.mkdir()
        write_plain(path, RECORDS, journal_mode="WAL")
        kill_at(path, name)
        require_intact(path, RECORDS, HIERARCHICAL)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            (key,) = connection.execute("SELECT key FROM unnamed WHERE rowid = 1").fetchone()
        assert decode_hierarchical(key) == RECORDS[0][0]


def test_settle_works_off_what_a_killed_application_left(tmp_path: Path) -> None:
    """A hot journal makes a database `busy`; settling rolls it back, as the application's next start would."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    leave_hot_journal(path)
    assert inspect(path).state == "busy"
    settle(path)
    assert inspect(path).state == "unmarked"
    assert records_on_disk(path) == RECORDS


def leave_hot_journal(path: Path) -> None:
    """Kill a writer after its pages went to the file and before its commit."""
    script = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size=1')\n"
        "c.execute('BEGIN')\n"
        'c.execute("UPDATE unnamed SET value = zeroblob(3000)")\n'
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    assert path.with_name(f"{path.name}-journal").stat().st_size > 512


def test_a_directory_that_is_a_symbolic_link(tmp_path: Path) -> None:
    """Images and volumes have symlinked directories: only the file itself and its state must be none."""
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to("real")
    path = tmp_path / "data" / "orders.db"
    write_plain(path, RECORDS)
    kill_at(path, "swap.after-rename")
    require_intact(path, RECORDS, HIERARCHICAL)
