"""Nothing is trusted before it is durable: the order of fsyncs and renames, in every run that changes a volume."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Backup,
    Failpoints,
    Format,
    Observer,
    Retention,
    convert,
    delete_backup,
    durable,
    errors,
    lease,
    list_backups,
    plan,
    prune_backups,
    recover,
    restore_backup,
    unpin_backup,
)
from tests.proof.order import Disk, recorded
from tests.support.databases import leftovers, records_on_disk, sample, write_plain

RECORDS = sample(8)
DICT = Format.sqlitedict(key_encoding="hierarchical")
FILE = Format.from_spec(
    {"sqlite": {"pageSize": 1024, "migrations": [{"number": 1, "sql": "CREATE TABLE one (a)"}]}}
)
HOUR = 3600.0
ENGINES = pytest.mark.parametrize("target", [DICT, FILE], ids=["sqlitedict", "sqlite"])
LINKS = pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])


class Crash(BaseException):
    """The process is gone: nothing of ours runs any more."""


class Deletions(Observer):
    """What is told as deleted is deleted durably."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def backup_deleted(self, backup: Backup) -> None:
        self.disk.deleted(backup.path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with an ended journal beside it, which settling removes."""
    file = tmp_path / "orders.db"
    write_plain(file, RECORDS, journal_mode="PERSIST")
    file.chmod(0o640)
    return file


@pytest.fixture
def disk(path: Path) -> Iterator[Disk]:
    seen = Disk(path)
    with recorded(seen):
        yield seen


def without_links(monkeypatch: pytest.MonkeyPatch, *, links: bool) -> None:
    if not links:
        monkeypatch.setattr(durable, "link", lambda *_: False)


def crash_at(path: Path, name: str, target: Format = DICT, **options: Any) -> None:
    def crash() -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("format_store.ending.give_up", lambda *_: None)
        with pytest.raises(Crash):
            convert(path, target, failpoints=Failpoints({name: crash}), **options)


@ENGINES
@LINKS
@pytest.mark.parametrize("retain", [0.0, HOUR], ids=["deleted", "kept"])
def test_conversion(
    path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    target: Format,
    retain: float,
    *,
    links: bool,
) -> None:
    """Before each step what it relies on is durable; at the end everything is, and nothing unneeded is there."""
    without_links(monkeypatch, links=links)
    convert(path, target, retention=Retention(retain), observer=Deletions(disk))
    disk.require_all()
    assert records_on_disk(path) if target is DICT else True
    assert len(list_backups(path)) == (retain > 0)


@ENGINES
@pytest.mark.parametrize(
    "name",
    [
        "prepare.after-directory", "verify.after-ready", "swap.after-preimage", "swap.after-rename",
        "cleanup.before-delete-preimage", "cleanup.after-delete-preimage", "cleanup.before-clear",
    ],
)  # fmt: skip
@LINKS
def test_recovery(
    path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    target: Format,
    *,
    links: bool,
) -> None:
    """What the killed run left unconfirmed the recovery confirms before it deletes anything."""
    without_links(monkeypatch, links=links)
    crash_at(path, name, target)
    recover(path, observer=Deletions(disk))
    disk.require_all()


@pytest.mark.usefixtures("disk")
def test_recovery_of_a_database_that_was_written_to(path: Path) -> None:
    """The rename that a killed run made is durable before its pre-image is kept as a backup."""
    crash_at(path, "swap.after-rename")
    os.utime(path)
    with open(
        path, "r+b"
    ) as file:  # a change that SQLite does not mind: the version of who wrote last
        file.seek(96)
        file.write(b"\x00\x00\x00\x01")
    recover(path)
    (backup,) = list_backups(path)
    assert backup.pinned


@pytest.mark.parametrize("harm", ["missing", "unreadable"])
@LINKS
def test_restored_from_the_preimage(
    path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, *, links: bool
) -> None:
    """On a volume of which nothing is known to be durable, what is put back is made so, and the bad file kept."""
    crash_at(path, "swap.after-rename")
    path.unlink()
    path.with_name("orders.db-wal").write_bytes(b"stale")
    if harm == "unreadable":
        path.write_bytes(b"\x00" * 8192)
    without_links(monkeypatch, links=links)
    disk = Disk(path)
    with recorded(disk):
        recover(path)
    assert records_on_disk(path) == RECORDS
    assert not path.with_name("orders.db-wal").exists()
    bad = list(path.parent.glob(".orders.db.storageformat/quarantine/*/orders.db"))
    assert len(bad) == (harm == "unreadable")


def test_stray_writes(path: Path, disk: Disk) -> None:
    """What a late opener wrote into the old file lies in quarantine durably."""
    crash_at(path, "swap.after-rename")
    (preimage,) = path.parent.glob(".orders.db.storageformat/work/*/preimage.db")
    with open(preimage, "ab") as file:
        file.write(b"stray")
    with pytest.raises(errors.StrayWrites):
        recover(path)
    for name in ("quarantine", "work", "."):
        assert disk.has_names(path.with_name(".orders.db.storageformat") / name)
    (kept,) = path.parent.glob(".orders.db.storageformat/quarantine/*")
    assert disk.has_names(kept)


@pytest.mark.parametrize("after", ["swap.after-rename", "swap.after-fsync"])
def test_stepping_back(path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """Somebody waits for the old file: it is back under its name, durably, before the new one goes."""
    inode = path.stat().st_ino
    passed: list[str] = []
    real = lease.WriteLease.held

    def held(self: lease.WriteLease) -> bool:
        return real(self) and not (passed and self.stat().st_ino == inode)

    monkeypatch.setattr(lease.WriteLease, "held", held)

    def now() -> None:
        passed.append(after)

    def ended() -> None:
        passed.clear()  # they have closed it again

    with pytest.raises(errors.InUse, match="old file is in place again"):
        convert(path, DICT, failpoints=Failpoints({after: now, "step-back.after-rename": ended}))
    assert path.stat().st_ino == inode
    assert disk.has_name(path)
    assert records_on_disk(path) == RECORDS
    assert leftovers(path) == []


def test_stepping_back_beside_stray_writes(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files were opened: that the old one is in place is durable before it is told."""
    inode = path.stat().st_ino
    passed: list[bool] = []
    monkeypatch.setattr(lease.WriteLease, "held", lambda _: not passed)
    with pytest.raises(errors.StrayWrites, match="while the swap was taken back"):
        convert(
            path, DICT, failpoints=Failpoints({"swap.after-fsync": lambda: passed.append(True)})
        )
    assert path.stat().st_ino == inode
    assert disk.has_name(path)
    (kept,) = path.parent.glob(".orders.db.storageformat/quarantine/*")
    assert disk.has_names(kept)
    assert disk.has_name(kept / "staging.db")


def test_killed_while_stepping_back(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file's return is durable before the recovery clears up."""
    inode = path.stat().st_ino
    synced: list[bool] = []
    monkeypatch.setattr(
        lease.WriteLease, "held", lambda self: not (synced and self.stat().st_ino == inode)
    )
    real = durable.fsync_directory

    def sync(directory: Path) -> None:
        real(directory)
        if directory.parent.name == "work" and path.stat().st_ino != inode:
            synced.append(True)  # they come once the swap is durable

    monkeypatch.setattr(durable, "fsync_directory", sync)
    crash_at(path, "step-back.after-rename")
    monkeypatch.undo()
    recover(path)
    assert path.stat().st_ino == inode
    assert disk.has_name(path)


@pytest.mark.parametrize("harm", [None, "missing"])
@LINKS
def test_restoration(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, harm: str | None, *, links: bool
) -> None:
    """A backup is put back, and what was there kept, by the same rules."""
    without_links(monkeypatch, links=links)
    backup = convert(path, DICT, retention=Retention(HOUR)).backup
    assert backup is not None
    path.chmod(0o660)  # the application has another user now
    if harm:
        path.unlink()
        durable.fsync_directory(path.parent)
    restore_backup(path, backup.conversion_id)
    disk.require_all()
    assert records_on_disk(path) == RECORDS


def test_deletions(path: Path, disk: Disk) -> None:
    """A backup that a person or the time deletes is gone durably when that is told."""
    old = Format.sqlitedict()
    first = convert(path, DICT, retention=Retention(HOUR)).backup
    second = convert(path, old, retention=Retention(HOUR)).backup
    convert(path, DICT)
    assert first is not None
    assert second is not None
    delete_backup(path, first.conversion_id, observer=Deletions(disk))
    unpin_backup(path, second.conversion_id)
    disk.require_all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("format_store.clock.now", lambda: "2100-01-01T00:00:00Z")
        prune_backups(path, observer=Deletions(disk))
    disk.require_all()
    assert list_backups(path) == ()


@pytest.mark.parametrize("place", ["parent", "work"])
def test_an_unconfirmed_swap(path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The fsync after the rename fails: both copies are kept, and nobody is told that it worked or failed."""
    inode = path.stat().st_ino
    real = durable.fsync_directory

    def fail(directory: Path) -> None:
        broken = directory == path.parent if place == "parent" else directory.parent.name == "work"
        if broken and path.stat().st_ino != inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(directory)

    monkeypatch.setattr(durable, "fsync_directory", fail)
    with pytest.raises(errors.OutcomeUnknown, match="did not confirm"):
        convert(path, DICT)
    (work,) = path.parent.glob(".orders.db.storageformat/work/*")
    assert (work / "preimage.db").exists()
    monkeypatch.undo()
    recover(path)
    assert records_on_disk(path) == RECORDS


def test_what_durable_promises(tmp_path: Path) -> None:
    """Each function of the durability module that says so has made everything durable when it returns."""
    top = tmp_path / "orders.db"
    top.write_bytes(b"old")
    source = tmp_path / "source"
    source.write_bytes(b"content")
    disk = Disk(top)
    with recorded(disk):
        durable.make_directory(tmp_path / "made")
        assert disk.has_name(tmp_path / "made")
        durable.write_file(tmp_path / "made" / "file", b"new")
        assert disk.has_name(tmp_path / "made" / "file")
        assert disk.has_content(tmp_path / "made" / "file")
        with open(source, "rb") as file:
            durable.copy_descriptor(file.fileno(), tmp_path / "made" / "copy")
        assert disk.has_name(tmp_path / "made" / "copy")
        assert disk.has_content(tmp_path / "made" / "copy")
        durable.fsync_file(source)
        assert disk.has_content(source)
        durable.remove_tree(tmp_path / "made")
        assert disk.has_name(tmp_path / "made")
        durable.make_directory(tmp_path / "again")
        # As a killed run leaves it: made, and not known to be durable.
        (tmp_path / "half").mkdir()
        durable.make_directory(tmp_path / "half")
        assert disk.has_name(tmp_path / "half")
        durable.remove_directory(tmp_path / "half")
        assert disk.has_name(tmp_path / "half")


def test_a_rehearsal_leaves_nothing(path: Path, disk: Disk) -> None:
    """The copy that a rehearsal made is gone durably."""
    assert plan(path, DICT, rehearse=True).refusal is None
    assert disk.has_names(path.with_name(".orders.db.storageformat"))
    shutil.rmtree(path.with_name(".orders.db.storageformat"))
