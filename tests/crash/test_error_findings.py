"""What errors at system calls found (``tests/proof/errors.py``), each a test that lied or crashed before it was mended."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Failpoints,
    Format,
    Outcome,
    RecoveryOutcome,
    Retention,
    convert,
    delete_backup,
    durable,
    errors,
    history,
    lease,
    pin_backup,
    prune_backups,
    recover,
    sqlitefile,
    unpin_backup,
)
from format_store.formats import Marker
from format_store.layout import Layout
from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.support.databases import format_on_disk, leftovers, records_on_disk, sample, write_plain
from tests.support.openers import opened
from tests.support.restorations import BEFORE, LATER, converted

RECORDS = sample(12)
TARGET = Format.from_spec(HIERARCHICAL)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def failing(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    when: Callable[..., bool],
    number: int = errno.EIO,
) -> None:
    """Let ``module.name`` raise an OSError for the arguments that ``when`` says, once."""
    real = getattr(module, name)
    done: list[None] = []

    def fail(*arguments: Any, **options: Any) -> Any:
        if not done and when(*arguments, **options):
            done.append(None)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, fail)


def leads_to(descriptor: int, name: str) -> bool:
    return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) == name


@pytest.mark.parametrize("name", ["lock", "orders.db"])
def test_a_lock_or_lease_that_does_not_close(
    database: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its close fails: nothing was written through it, and the conversion is told as done."""
    real = os.close

    def close(descriptor: int) -> None:
        reading = leads_to(descriptor, name)
        real(descriptor)
        if reading:
            raise OSError(errno.EIO, "close failed")

    monkeypatch.setattr(os, "close", close)
    if name == "lock":
        assert convert(database, TARGET).outcome is Outcome.CONVERTED
    else:
        lease.take(database, operation="test").release()
    monkeypatch.undo()
    assert require_intact(database, RECORDS, HIERARCHICAL) == ("new" if name == "lock" else "old")


@pytest.mark.parametrize("descriptor", ["before", "after"])
def test_a_lease_that_cannot_be_asked(
    database: Path, monkeypatch: pytest.MonkeyPatch, descriptor: str
) -> None:
    """F_GETLEASE fails: before the rename the database is as it was, after it both copies are kept."""
    fails_after = {"before": 0, "after": 1}[descriptor]
    asked: list[None] = []

    def asks(_: int, command: int, *__: Any) -> bool:
        if command != fcntl.F_GETLEASE:
            return False
        asked.append(None)
        return len(asked) > fails_after

    failing(monkeypatch, fcntl, "fcntl", asks)
    expected = errors.StorageError if descriptor == "before" else errors.OutcomeUnknown
    with pytest.raises(expected):
        convert(database, TARGET)
    monkeypatch.undo()
    # In this process the new file is in place: what the disk holds is for the next run to find out.
    assert require_intact(database, RECORDS, HIERARCHICAL) == (
        "old" if descriptor == "before" else "new"
    )


def test_siblings_that_cannot_be_looked_for(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EACCES on the last look before the swap is an error of the store's, and the database is as it was."""
    before = database.read_bytes()
    failing(
        monkeypatch,
        sqlitefile,
        "require_no_siblings",
        lambda _, operation: operation == "swap",
    )
    with pytest.raises(errors.StorageError, match="swap"):
        convert(database, TARGET)
    monkeypatch.undo()
    assert database.read_bytes() == before
    assert require_intact(database, RECORDS, HIERARCHICAL) == "old"


def test_a_history_that_cannot_be_read_after_the_swap(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new database is in place, and nothing says that it is as it was: clean-up is left for the next run."""

    def from_now_on() -> None:
        failing(monkeypatch, durable, "read_file", lambda path, _: path.name == "history.jsonl")

    failpoints = Failpoints({"swap.after-rename": from_now_on})
    with pytest.raises(errors.CleanUpPending, match="the new database is in place"):
        convert(database, TARGET, failpoints=failpoints)
    monkeypatch.undo()
    assert format_on_disk(database) == HIERARCHICAL["sqlitedict"] | {"valueCodec": "pickle"}
    assert require_intact(database, RECORDS, HIERARCHICAL) == "new"
    assert history.read(database).totals["conversions.succeeded"] == 1


def test_a_size_that_cannot_be_asked(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result's size is for people: a conversion that is done is not told as failed for its sake."""
    from format_store import results
    from format_store.run import Run

    failing(monkeypatch, os, "stat", lambda path, **_: Path(path) == database)
    done = results.Result.of(Run(Layout.of(database)), Outcome.CONVERTED, 0.0, ())
    assert (done.outcome, done.bytes_after) == (Outcome.CONVERTED, 0)


@pytest.mark.parametrize("call", ["pipe", "write", "read", "set_blocking", "close"])
def test_a_worker_whose_pipes_fail(
    database: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An error of a pipe is WorkerFailed, never one that nobody catches; nobody waits for half a chunk."""
    from format_store.codecs import pool

    class Kernel:
        """What the module sees of ``os``: one call of its own fails, the library's do not."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    kernel = Kernel()
    setattr(kernel, call, getattr(os, call))
    failing(monkeypatch, kernel, call, lambda *_: True)
    monkeypatch.setattr(pool, "os", kernel)
    target = Format.sqlitedict(value_codec="msgpack")
    before = database.read_bytes()
    if call == "close":
        convert(database, target)
    else:
        with pytest.raises(errors.WorkerFailed):
            convert(database, target)
        assert database.read_bytes() == before
    monkeypatch.undo()
    assert require_intact(database, RECORDS, {"sqlitedict": {"valueCodec": "msgpack"}}) == (
        "new" if call == "close" else "old"
    )


def test_an_error_of_a_call_by_descriptor() -> None:
    """``os.stat(7)`` names 7 in its error, which is no path: it was a TypeError in the middle of a restoration."""
    told = errors.from_os_error(
        OSError(errno.EIO, "Input/output error", 7), operation="verify", path="/data/orders.db"
    )
    assert isinstance(told, errors.StorageError)
    assert str(told) == "verify /data/orders.db: Input/output error (errno 5)"


def test_read_only_in_the_middle(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that the kernel has just made read-only is said to be so; not that nothing was touched."""
    before = database.read_bytes()
    failing(monkeypatch, os, "link", lambda *_, **named: "src_dir_fd" not in named, errno.EROFS)
    with pytest.raises(errors.ReadOnly) as caught:
        convert(database, TARGET)
    assert "The database is as it was" in caught.value.hint
    assert "touched" not in caught.value.hint
    assert database.read_bytes() == before
    assert leftovers(database) == []


def test_a_look_that_fails_at_the_beginning(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look at the volume is the store's error as well, and says that nothing was touched."""
    failing(monkeypatch, os, "statvfs", lambda *_: True)
    with pytest.raises(errors.StorageError) as caught:
        convert(database, TARGET)
    assert "Nothing was touched" in caught.value.hint
    assert not database.with_name(".orders.db.storageformat").exists()


def test_the_success_is_counted_once_there_is_space(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recovery that only clears up, and finds no space for the history before it has, remembers it afterwards."""
    from tests.crash.test_recovery import kill_at

    kill_at(database, "cleanup.after-delete-preimage")
    real = durable.write_file
    refused: list[Path] = []

    def full(path: Path, data: bytes) -> None:
        if path.name == "history.jsonl" and len(refused) < 2:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(durable, "write_file", full)
    recover(database)
    assert len(refused) == 2
    assert history.read(database).totals["conversions.succeeded"] == 1


def test_the_success_is_counted_beside_a_backup(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space for the history while the backup is put away: it is remembered once that is done."""
    failing(
        monkeypatch, durable, "write_file",
        lambda path, _: path.name == "history.jsonl", errno.ENOSPC,
    )  # fmt: skip
    convert(database, TARGET, retention=Retention(3600))
    assert history.read(database).totals["conversions.succeeded"] == 1


@pytest.mark.parametrize("times", [1, 2])
def test_damage_that_is_none(database: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """SQLite tells some errors of a disk as damage: a recovery looks twice before it asks for a person."""
    from tests.crash.test_recovery import kill_at

    kill_at(database, "swap.after-rename")
    real = sqlitefile.read_marker
    told: list[None] = []

    def read(layout: Layout) -> Marker | None:
        if len(told) < times:
            told.append(None)
            raise errors.CorruptDatabase("malformed", operation="test", path=layout.primary)
        return real(layout)

    monkeypatch.setattr(sqlitefile, "read_marker", read)
    with nullcontext() if times == 1 else pytest.raises(errors.PrimaryUnsound):
        recover(database)
    assert len(told) == times
    assert require_intact(database, RECORDS, HIERARCHICAL) == "new"


@pytest.mark.parametrize("pruned", [False, True])
def test_a_backup_that_is_gone_but_for_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, pruned: bool
) -> None:
    """Its file was deleted, and then something failed: that is what is told, and the next run clears up."""
    made = converted(tmp_path / "orders.db")
    pin_backup(made.path, made.backup)
    unpin_backup(made.path, made.backup, retain_for=0)
    failing(monkeypatch, durable, "remove_directory", lambda _: True)
    delete: Callable[[], object] = partial(prune_backups, made.path)
    if not pruned:
        delete = partial(delete_backup, made.path, made.backup)
    with pytest.raises(errors.CleanUpPending, match="the backup is deleted"):
        delete()
    monkeypatch.undo()
    prune_backups(made.path)
    assert list((made.state / "backups").iterdir()) == []
    assert records_on_disk(made.path) == [*BEFORE, *LATER]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("missing", [True, False])
def test_restored_but_not_to_the_end(
    database: Path, monkeypatch: pytest.MonkeyPatch, *, missing: bool, links: bool
) -> None:
    """The pre-image is in place again, and then the disk fails: that nothing was restored is not said."""
    from tests.crash.test_recovery import kill_at

    kill_at(database, "swap.after-fsync")
    database.unlink()
    if not missing:
        database.touch()
    if not links:
        monkeypatch.setattr(durable, "link", lambda *_: False)
    real = durable.fsync_directory

    def fsync(path: Path) -> None:
        if path == database.parent and database.exists() and database.stat().st_size:
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(durable, "fsync_directory", fsync)
    with pytest.raises(errors.CleanUpPending, match="the old database is in place again"):
        recover(database)
    monkeypatch.undo()
    assert records_on_disk(database) == RECORDS
    recover(database)
    assert database.stat().st_nlink == 1
    assert records_on_disk(database) == RECORDS


def test_a_lease_that_cannot_be_asked_once_it_is_restored(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F_GETLEASE fails when the pre-image has just taken an unreadable file's place: that the database is as it was found is not said."""
    from tests.crash.test_recovery import kill_at

    kill_at(database, "swap.after-fsync")
    database.write_bytes(b"")

    def asks(_: int, command: int, *__: Any) -> bool:
        return command == fcntl.F_GETLEASE and database.stat().st_size > 0

    failing(monkeypatch, fcntl, "fcntl", asks, errno.EDQUOT)
    with pytest.raises(errors.CleanUpPending, match="the old database is in place again"):
        recover(database)
    monkeypatch.undo()
    recover(database)
    assert database.stat().st_nlink == 1
    assert records_on_disk(database) == RECORDS


def test_opened_as_soon_as_it_is_restored(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application did not wait: the database is told as restored, and the rest goes once it is closed."""
    from tests.crash.test_recovery import kill_at

    kill_at(database, "swap.after-fsync")
    database.unlink()
    real = lease.take
    with ExitStack() as application:

        def take(path: Path, *, operation: str, **options: Any) -> lease.WriteLease:
            if operation == "discard":
                application.enter_context(opened(database))
            return real(path, operation=operation, **options)

        monkeypatch.setattr(lease, "take", take)
        with pytest.raises(errors.CleanUpPending, match="the old database is in place again"):
            recover(database)
    monkeypatch.undo()
    recover(database)
    assert database.stat().st_nlink == 1
    assert records_on_disk(database) == RECORDS


def test_a_hint_to_the_kernel_that_fails(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for writeback promises nothing: its failing fails nothing, the fsync tells what is the matter."""
    monkeypatch.setattr("format_store.durable._SYNC_FILE_RANGE_WRITE", 2)
    failing(monkeypatch, os, "open", lambda path, *_: Path(path) == database)
    durable.start_writeback(database)


def test_a_history_that_cannot_be_read_once_recovered(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery is done and was remembered: that the history cannot be read again is no failure of it."""
    from tests.crash.test_recovery import kill_at

    kill_at(database, "swap.after-fsync")
    database.unlink()
    read: list[None] = []

    def again(layout: object) -> bool:
        del layout
        read.append(None)
        return len(read) > 1

    failing(monkeypatch, history, "_read", again, errno.EROFS)
    (recovery,) = recover(database).recoveries
    assert recovery.outcome is RecoveryOutcome.RESTORED
    assert len(read) == 2
    monkeypatch.undo()
    assert require_intact(database, RECORDS, HIERARCHICAL) == "old"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_a_source_that_cannot_be_asked_after_it_was_settled(
    database: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """fstat of the source fails before it is read: an error of the store's, and the database is as it was."""
    before = database.read_bytes()

    def asks(descriptor: int) -> bool:
        return leads_to(descriptor, "orders.db") and (
            fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_UNLCK
        ) and any(database.parent.glob(".orders.db.storageformat/work/*/manifest.json"))  # fmt: skip

    failing(monkeypatch, os, "fstat", asks, number)
    with pytest.raises(errors.StoreError, match="settle"):
        convert(database, TARGET)
    assert database.read_bytes() == before
    assert leftovers(database) == []


def opened_once(monkeypatch: pytest.MonkeyPatch, path: Path, after: str) -> Failpoints:
    """Somebody opens the old file as the conversion passes ``after``, and waits for our lease."""
    inode = path.stat().st_ino
    passed: list[str] = []
    real = lease.WriteLease.held
    monkeypatch.setattr(
        lease.WriteLease,
        "held",
        lambda self: real(self) and not (passed and self.stat().st_ino == inode),
    )
    return Failpoints({after: partial(passed.append, after)})


def test_a_swap_that_cannot_be_taken_back(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename that takes it back fails: both copies are kept, and nobody is told that it is the old one."""
    failpoints = opened_once(monkeypatch, database, "swap.after-rename")
    failing(monkeypatch, durable, "rename", lambda source, _: source.name == "preimage.db")
    with pytest.raises(errors.OutcomeUnknown, match="taking the swap back failed"):
        convert(database, TARGET, failpoints=failpoints)
    (preimage,) = database.parent.glob(".orders.db.storageformat/work/*/preimage.db")
    assert preimage.exists()
    monkeypatch.undo()
    assert require_intact(database, RECORDS, HIERARCHICAL) == "new"


def test_the_old_file_is_opened_once_the_swap_is_done(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left waits until they have closed it; that the conversion is done is told."""
    failpoints = opened_once(monkeypatch, database, "cleanup.before-delete-preimage")
    with pytest.raises(errors.CleanUpPending, match="new database is in place"):
        convert(database, TARGET, failpoints=failpoints)
    monkeypatch.undo()
    assert require_intact(database, RECORDS, HIERARCHICAL) == "new"
    assert leftovers(database) == []
