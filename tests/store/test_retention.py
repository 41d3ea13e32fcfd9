"""Backups: kept as long as was asked for, deleted under a lease, and never when somebody wrote to them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from format_store import (
    PLAIN_SQLITEDICT,
    Backup,
    Format,
    Observer,
    Retention,
    clock,
    convert,
    errors,
    inspect,
    prune_backups,
    recover,
)
from tests.support.databases import execute, read_table, records_on_disk, sample, write_plain
from tests.support.openers import opened
from tests.support.refusals import HIERARCHICAL
from tests.support.trees import tree, unchanged

RECORDS = sample(30)
START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
HOUR = 3600.0


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def text(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    stopped = Time()
    monkeypatch.setattr(clock, "now", stopped.text)
    return stopped


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


class Deletions(Observer):
    def __init__(self) -> None:
        self.deleted: list[str] = []

    def backup_deleted(self, backup: Backup) -> None:
        self.deleted.append(backup.conversion_id)


def backup_of(database: Path) -> Path:
    (backup,) = inspect(database).backups
    return Path(backup.path)


def test_a_backup_is_kept(database: Path, time: Time) -> None:
    """``retain_for`` keeps the old file, byte for byte, with a manifest that says what it is and until when."""
    before = database.read_bytes()
    result = convert(database, HIERARCHICAL, retention=Retention(HOUR))
    state = database.with_name(".orders.db.storageformat")
    directory = state / "backups" / str(result.conversion_id)
    assert sorted(entry.name for entry in directory.iterdir()) == ["manifest.json", "preimage.db"]
    assert (directory / "preimage.db").read_bytes() == before
    manifest = json.loads((directory / "manifest.json").read_bytes())
    assert manifest["conversionID"] == result.conversion_id
    assert manifest["retainUntil"] == "2026-11-23T11:00:00Z"
    assert manifest["createdAt"] == time.text()
    assert result.backup is not None
    assert inspect(database).backups == (result.backup,)
    assert result.backup.retain_until == "2026-11-23T11:00:00Z"
    assert (result.backup.pinned, result.backup.size) == (False, len(before))
    assert list((state / "work").iterdir()) == []
    assert database.stat().st_nlink == 1


@pytest.mark.usefixtures("time")
def test_a_backup_does_not_follow_the_application(database: Path) -> None:
    """What the application writes afterwards is in its database only."""
    convert(database, PLAIN_SQLITEDICT, retention=Retention(HOUR))
    write_plain(database, [("/later", 1)])
    assert read_table(backup_of(database), {}) == RECORDS


def test_without_retention_nothing_is_kept(database: Path) -> None:
    """By default the old file goes as soon as the new one is in place and proven."""
    assert convert(database, HIERARCHICAL).backup is None
    assert inspect(database).backups == ()
    assert prune_backups(database) is None


def test_pruning(database: Path, time: Time) -> None:
    """Before its time a backup stays, and the seconds until then are told; after it, it goes."""
    result = convert(database, HIERARCHICAL, retention=Retention(HOUR))
    deletions = Deletions()
    with unchanged(database.parent):
        assert prune_backups(database, observer=deletions) == HOUR
    time.pass_by(HOUR - 1)
    with unchanged(database.parent):
        assert prune_backups(database, observer=deletions) == 1.0
    assert deletions.deleted == []
    time.pass_by(1)
    assert prune_backups(database, observer=deletions) is None
    assert deletions.deleted == [result.conversion_id]
    assert inspect(database).backups == ()
    assert list((database.with_name(".orders.db.storageformat") / "backups").iterdir()) == []
    assert records_on_disk(database) == RECORDS


def test_each_backup_has_its_own_time(database: Path, time: Time) -> None:
    """Of several backups those go whose time is over; the next one's is told."""
    first = convert(database, HIERARCHICAL, retention=Retention(HOUR))
    second = convert(database, PLAIN_SQLITEDICT, retention=Retention(3 * HOUR))
    assert {backup.conversion_id for backup in inspect(database).backups} == {
        first.conversion_id,
        second.conversion_id,
    }
    time.pass_by(2 * HOUR)
    assert prune_backups(database) == HOUR
    assert [backup.conversion_id for backup in inspect(database).backups] == [second.conversion_id]


def test_pinned(database: Path, time: Time) -> None:
    """A pinned backup has no end, however much time passes."""
    convert(database, HIERARCHICAL, retention=Retention(HOUR, pinned=True))
    time.pass_by(10_000 * HOUR)
    with unchanged(database.parent):
        assert prune_backups(database) is None
    (backup,) = inspect(database).backups
    assert backup.pinned
    assert backup.retain_until is None


def test_a_backup_that_is_in_use(database: Path, time: Time) -> None:
    """Somebody has it open, and might be writing: it stays, and goes when it is closed."""
    convert(database, HIERARCHICAL, retention=Retention(HOUR))
    time.pass_by(HOUR)
    with opened(backup_of(database)), unchanged(database.parent):
        with pytest.raises(errors.InUse) as caught:
            prune_backups(database)
        assert caught.value.hint
    assert prune_backups(database) is None
    assert inspect(database).backups == ()


def test_stray_writes_into_a_backup(database: Path, time: Time) -> None:
    """A late opener's commit is nowhere else: the backup is kept, every time it is looked at."""
    convert(database, HIERARCHICAL, retention=Retention(HOUR))
    write_plain(backup_of(database), [("/stray", 1)])
    time.pass_by(HOUR)
    for _ in range(2):
        with unchanged(database.parent), pytest.raises(errors.StrayWrites) as caught:
            prune_backups(database)
        assert caught.value.exit_code == 4
        assert str(backup_of(database)) in str(caught.value)
    assert read_table(backup_of(database), {}) == [*RECORDS, ("/stray", 1)]


def test_one_backup_in_the_way_does_not_keep_the_others(database: Path, time: Time) -> None:
    """A backup that must stay is told, after those whose time is over have gone."""
    first = convert(database, HIERARCHICAL, retention=Retention(HOUR))
    write_plain(backup_of(database), [("/stray", 1)])
    convert(database, PLAIN_SQLITEDICT, retention=Retention(HOUR))
    time.pass_by(HOUR)
    with pytest.raises(errors.StrayWrites):
        prune_backups(database)
    assert [backup.conversion_id for backup in inspect(database).backups] == [first.conversion_id]


@pytest.mark.parametrize("harm", ["missing", "no marker", "damaged"])
def test_no_backup_goes_while_the_database_is_not_well(
    database: Path, time: Time, harm: str
) -> None:
    """Existence proves nothing: the database is looked at first, and what is the matter with it is told."""
    convert(database, HIERARCHICAL, retention=Retention(HOUR))
    time.pass_by(HOUR)
    if harm == "missing":
        database.unlink()
    elif harm == "no marker":
        execute(database, "DROP VIEW _storageformat")
    else:
        data = bytearray(database.read_bytes())
        data[2 * 4096 : 3 * 4096] = b"\xa5" * 4096
        database.write_bytes(data)
    before = tree(database.with_name(".orders.db.storageformat"))
    told = errors.StorageError if harm == "missing" else errors.PrimaryUnsound
    with pytest.raises(told):
        prune_backups(database)
    assert tree(database.with_name(".orders.db.storageformat")) == before


def test_pruning_waits_for_nobody(database: Path, time: Time) -> None:
    """While a conversion holds the lock nothing is deleted: Locked."""
    from format_store import Failpoints

    convert(database, HIERARCHICAL, retention=Retention(HOUR))
    time.pass_by(HOUR)
    caught: list[str] = []

    def prune() -> None:
        with pytest.raises(errors.Locked):
            prune_backups(database)
        caught.append("locked")

    convert(database, Format.sqlitedict(), failpoints=Failpoints({"build.after-staging": prune}))
    assert caught == ["locked"]


@pytest.mark.usefixtures("time")
def test_an_application_that_is_running_does_not_keep_its_backups(
    database: Path, time: Time
) -> None:
    """Backups are pruned beside a running application: only the backup itself must not be open."""
    convert(database, HIERARCHICAL, retention=Retention(HOUR))
    time.pass_by(HOUR)
    with opened(database):
        assert prune_backups(database) is None
    assert inspect(database).backups == ()


@pytest.mark.usefixtures("time")
def test_recovery_leaves_backups_alone(database: Path) -> None:
    """A retained backup is no pending work."""
    convert(database, HIERARCHICAL, retention=Retention(HOUR))
    with unchanged(database.parent, besides={".orders.db.storageformat/lock"}):
        assert recover(database).recoveries == ()
    assert len(inspect(database).backups) == 1
