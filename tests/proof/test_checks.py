"""Checks of the protocol that nothing missed until the mutation gate left them out; each test names one."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Failpoints,
    Retention,
    backups,
    convert,
    durable,
    errors,
    lease,
    list_backups,
    lock,
    manifest,
    plan,
    prune_backups,
    recover,
    sqlitefile,
    swap,
)
from format_store.layout import Layout
from tests.crash.test_openers import Opener
from tests.proof.test_order import DICT, HOUR, RECORDS, crash_at
from tests.support.databases import execute, records_on_disk, write_plain
from tests.support.openers import can_write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "orders.db"
    write_plain(file, RECORDS)
    return file


def at(name: str, action: Callable[[], Any]) -> Failpoints:
    return Failpoints({name: action})


def work_of(path: Path) -> Any:
    (work,) = Layout.of(path).pending()
    return work


# --- leases and locks -----------------------------------------------------------------------------------


def test_a_copy_of_the_locks_descriptor(path: Path) -> None:
    """A child that another thread has forked, and that has not executed yet, keeps nobody out."""
    layout = Layout.of(path)
    with lock.exclusive(layout):
        (held,) = (
            int(name)
            for name in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{name}") == os.path.realpath(layout.lock)
        )
        copy = os.dup(held)
    try:
        with lock.exclusive(layout):
            assert path.exists()
    finally:
        os.close(copy)


def test_a_lease_that_was_broken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody waits for the file: a pre-image is not deleted, and a primary proves nothing."""
    crash_at(path, "swap.after-fsync")
    work = work_of(path)
    found = manifest.load(work)
    assert found is not None
    with (
        lease.take(work.preimage, operation="test") as held,
        lease.take(path, operation="test") as new,
    ):
        monkeypatch.setattr(lease.WriteLease, "held", lambda _: False)
        with pytest.raises(errors.InUse):
            backups.delete_preimage(
                work, found, held, backups.PrimaryProof(work.conversion_id, "test")
            )
        layout = Layout.of(path)
        assert backups.prove_digest(layout, work, new, found.staging_digest or "", "new") is None
    assert work.preimage.exists()


def test_recovery_without_leases(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pre-image's filesystem gives no lease, recovery does not delete it unasked."""
    crash_at(path, "swap.after-fsync")
    inode = work_of(path).preimage.stat().st_ino
    real = fcntl.fcntl

    def refuse(descriptor: int, command: int, *rest: Any) -> Any:
        if command == fcntl.F_SETLEASE and os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(errors.LeasesUnsupported):
        recover(path)
    assert work_of(path).preimage.exists()


def test_somebody_opens_the_unreadable_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened while it was replaced, the bad file is named to a person: what they write goes there."""
    crash_at(path, "swap.after-fsync")
    path.unlink()
    path.write_bytes(b"\x00" * 8192)
    bad = path.stat().st_ino
    monkeypatch.setattr(lease.WriteLease, "held", lambda self: self.stat().st_ino != bad)
    with pytest.raises(errors.StrayWrites, match="unreadable"):
        recover(path)
    assert records_on_disk(path) == RECORDS


def test_two_at_once(path: Path) -> None:
    """The lock is exclusive, between two of one process as well."""
    layout = Layout.of(path)
    with lock.exclusive(layout), pytest.raises(errors.Locked), lock.exclusive(layout):
        pass


def test_writers_wait(path: Path) -> None:
    """While the copy is made an application that writes finds the database locked."""
    # In a process of its own, because a close here would drop the lock that is asked for.
    found: list[bool] = []
    convert(path, DICT, failpoints=at("build.after-batch", lambda: found.append(can_write(path))))
    assert found == [False]
    assert threading.active_count() == 1


def test_written_to_before_the_lock(path: Path) -> None:
    """Written to between settling and the lock: nothing is copied."""
    with pytest.raises(errors.InUse, match="after it had been settled"):
        convert(
            path,
            DICT,
            failpoints=at("prepare.after-manifest", lambda: write_plain(path, [("/x", 1)])),
        )
    assert records_on_disk(path) == [*RECORDS, ("/x", 1)]


def test_written_to_as_the_lock_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the moment before the lock, too: the copy is not even begun."""
    armed: list[bool] = []
    real = sqlitefile.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        if armed:
            armed.clear()
            execute(path, "DELETE FROM unnamed WHERE rowid = 1")
        return real(*arguments, **options)

    monkeypatch.setattr(sqlitefile, "connect", connect)
    with pytest.raises(errors.InUse, match="after it had been settled"):
        convert(path, DICT, failpoints=at("prepare.after-manifest", lambda: armed.append(True)))
    assert records_on_disk(path) == RECORDS[1:]


def test_written_to_before_the_swap(path: Path) -> None:
    """Written to after the copy was verified: no swap."""
    with pytest.raises(errors.InUse, match="during the conversion"):
        convert(
            path, DICT, failpoints=at("verify.after-ready", lambda: write_plain(path, [("/x", 1)]))
        )
    assert records_on_disk(path) == [*RECORDS, ("/x", 1)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("verify.after", "after it had been made"),
        ("verify.after-ready", "after it had been verified"),
    ],
)
def test_the_staging_copy_changes(path: Path, name: str, told: str) -> None:
    """Written to after it was verified, the copy is discarded."""

    def change() -> None:
        execute(work_of(path).staging, "DELETE FROM unnamed WHERE rowid = 1")

    with pytest.raises(errors.Failed, match=told):
        convert(path, DICT, failpoints=at(name, change))
    assert records_on_disk(path) == RECORDS


@pytest.mark.parametrize("name", ["swap.before-preimage", "swap.before-rename"])
def test_the_staging_copy_is_replaced(path: Path, name: str) -> None:
    """What somebody put under the copy's name is not swapped in: the database stays as it is, and stays in its place."""
    before = path.read_bytes()

    def replaced() -> None:
        staging = work_of(path).staging
        staging.unlink()
        os.mkfifo(staging)

    with pytest.raises(errors.VerificationFailed, match="changed after it had been verified"):
        convert(path, DICT, failpoints=at(name, replaced))
    assert path.read_bytes() == before
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
@pytest.mark.parametrize("beside", ["primary", "staging"])
def test_siblings(path: Path, suffix: str, beside: str) -> None:
    """A log or journal beside either file that comes before the swap stops it."""

    def plant() -> None:
        file = path if beside == "primary" else work_of(path).staging
        Path(f"{file}{suffix}").write_bytes(b"stale")

    inode = path.stat().st_ino
    with pytest.raises(errors.InUse, match="although the database is at rest"):
        convert(path, DICT, failpoints=at("verify.after-ready", plant))
    assert path.stat().st_ino == inode


def test_a_connection_keeps_the_log(tmp_path: Path) -> None:
    """Somebody idle keeps the write-ahead log there: the file is not at rest, and settling says so."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode="WAL")
    with closing(sqlite3.connect(path)) as idle:
        idle.execute("SELECT * FROM unnamed").fetchall()
        with pytest.raises(errors.InUse, match="although the database is at rest"):
            sqlitefile.settle(Layout.of(path))


def test_a_reader_keeps_the_log(tmp_path: Path) -> None:
    """A write-ahead log that a reader keeps from being written back stops the settling: InUse."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode="WAL")
    with closing(sqlite3.connect(path)) as writer, closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM unnamed").fetchone()
        with writer:
            writer.execute("DELETE FROM unnamed WHERE rowid = 1")
        with pytest.raises(errors.InUse, match="being written back"):
            sqlitefile.settle(Layout.of(path))


def test_a_plan_asks_for_openers(path: Path) -> None:
    """That the file is open somewhere is found out before anything is made."""
    opener = Opener(path, "--hold")
    opener.start()
    try:
        with pytest.raises(errors.InUse):
            plan(path, DICT)
        assert not Layout.of(path).work.exists()
    finally:
        opener.end()


# --- proofs ---------------------------------------------------------------------------------------------


def test_a_digest_is_of_every_byte(tmp_path: Path) -> None:
    """Of the last byte of several megabytes as well."""
    file = tmp_path / "file"
    digests = set()
    for last in (b"a", b"b"):
        file.write_bytes(b"\x00" * (3 << 20) + last)
        with open(file, "rb") as opened:
            digests.add(durable.digest(opened.fileno()))
    assert len(digests) == 2


def test_the_new_file_is_written_to_after_the_rename(path: Path) -> None:
    """What is in place is not what was verified: nothing is deleted."""
    with pytest.raises(errors.OutcomeUnknown):
        convert(path, DICT, failpoints=at("swap.after-fsync", lambda: os.utime(path, (1, 1))))
    assert work_of(path).preimage.exists()


def test_the_new_file_is_replaced_after_the_rename(path: Path) -> None:
    """Somebody puts another file there right after the swap: nothing is deleted."""

    def replaced() -> None:
        other = path.with_name("other")
        other.write_bytes(b"theirs")
        other.rename(path)

    with pytest.raises(errors.OutcomeUnknown):
        convert(path, DICT, failpoints=at("swap.after-fsync", replaced))
    assert work_of(path).preimage.exists()


def test_pinned_with_a_time(path: Path) -> None:
    """Pinned is pinned, whatever time its manifest tells."""
    convert(path, DICT, retention=Retention(HOUR))
    (work,) = Layout.of(path).retained()
    found = manifest.load(work)
    assert found is not None
    replace(found, pinned=True, retain_until="2000-01-01T00:00:00Z").save(work)
    prune_backups(path)
    assert work.preimage.exists()


def test_a_proof_of_another_conversion(path: Path) -> None:
    """A proof, and a lease, are for one pre-image."""
    crash_at(path, "swap.after-fsync")
    work = work_of(path)
    found = manifest.load(work)
    assert found is not None
    good = backups.PrimaryProof(work.conversion_id, "test")
    with lease.take(work.preimage, operation="test") as held:
        for proof, told in (
            (backups.PrimaryProof("another", "test"), found),
            (good, replace(found, conversion_id="another")),
        ):
            with pytest.raises(AssertionError, match="another conversion"):
                backups.delete_preimage(work, told, held, proof)
    with (
        lease.take(path, operation="test") as other,
        pytest.raises(AssertionError, match="another file"),
    ):
        backups.delete_preimage(work, found, other, good)
    assert work.preimage.exists()


def test_a_preimage_is_never_cleared(path: Path) -> None:
    """Clearing a work directory is for what is left of one."""
    crash_at(path, "swap.after-fsync")
    with pytest.raises(errors.UnreadableManifest, match="pre-image"):
        backups.clear(work_of(path))
    assert work_of(path).preimage.exists()


def test_a_database_of_another_conversion(path: Path, tmp_path: Path) -> None:
    """Converted by somebody else, in another place: a marker, and not the one of this conversion."""
    crash_at(path, "swap.after-preimage")
    other = tmp_path / "other" / "orders.db"
    other.parent.mkdir()
    write_plain(other, [("/theirs", 1)])
    convert(other, DICT)
    other.rename(path)
    (recovery,) = recover(path).recoveries
    assert "replaced by another file" in recovery.detail
    (backup,) = list_backups(path)
    assert backup.pinned


def test_attention_discards_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error for a person both copies lie where they were, whatever they look like."""

    def unsure(*_: object) -> None:
        raise errors.OutcomeUnknown("unsure", operation="swap", path=path, hint="")

    monkeypatch.setattr(swap, "swap", unsure)
    with pytest.raises(errors.OutcomeUnknown):
        convert(path, DICT)
    assert work_of(path).staging.exists()
