"""Refused or put off while somebody else is at the database: openers, locks, leases."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlitedict import SqliteDict

from format_store import (
    Failpoints,
    Outcome,
    convert,
    errors,
    inspect,
    lease,
    open_store,
    plan,
    recover,
    sqlitefile,
    verify,
)
from format_store.api import PLAIN_SQLITEDICT
from tests.crash.strace import command
from tests.support.databases import leftovers, records_on_disk, sample, write_plain
from tests.support.openers import READ_ONCE, can_write, opened
from tests.support.refusals import HIERARCHICAL, refused, require_plan_refuses, traces
from tests.support.trees import unchanged

RECORDS = sample(30)
JOURNAL_MODES = ("DELETE", "WAL")
#: Readers in WAL mode write their marks into the shared-memory file.
SHM = ("orders.db-shm",)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits here: the other party's lock is not going away."""
    monkeypatch.setattr(sqlitefile, "_BUSY_TIMEOUT_SECONDS", 0.05)


@pytest.fixture(params=JOURNAL_MODES)
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode=request.param)
    return path


@pytest.fixture
def rollback_database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


# --- other processes ------------------------------------------------------------------------------------


def test_idle_connection_of_another_process(database: Path) -> None:
    """An idle connection holds no lock, and would write into the old file after the swap: put off."""
    with opened(database):
        with refused(database, errors.InUse, "orders.db", "has it open", code=75, besides=SHM):
            convert(database, HIERARCHICAL)
        require_plan_refuses_in_use(database)
    assert convert(database, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS


def require_plan_refuses_in_use(database: Path) -> None:
    """Whoever plans is told as well: a plan for a file in use would be wrong in a moment."""
    with unchanged(database.parent, besides=SHM), pytest.raises(errors.InUse) as caught:
        plan(database, HIERARCHICAL)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "statements",
    [
        ("BEGIN IMMEDIATE",),
        ("BEGIN EXCLUSIVE",),
        ("BEGIN", READ_ONCE),
        ("PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE", "COMMIT"),
    ],
)
def test_transaction_of_another_process(database: Path, statements: tuple[str, ...]) -> None:
    """A reader, a writer and an exclusive lock of another process put a conversion off, all the same."""
    with (
        opened(database, *statements),
        refused(database, errors.InUse, "orders.db", code=75, besides=SHM),
    ):
        convert(database, HIERARCHICAL)
    assert convert(database, HIERARCHICAL).outcome is Outcome.CONVERTED


def test_any_descriptor_of_another_process(rollback_database: Path) -> None:
    """No SQLite needed: a backup program that reads the file keeps it from being replaced."""
    with (
        open(rollback_database, "rb") as reader,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[reader.fileno()]) as program,
    ):
        reader.close()
        with refused(rollback_database, errors.InUse, "another process", code=75):
            convert(rollback_database, HIERARCHICAL)
        program.communicate()


# --- this process ---------------------------------------------------------------------------------------

Operation = Callable[[Path], object]
OPERATIONS: dict[str, Operation] = {
    "convert": lambda path: convert(path, HIERARCHICAL),
    "plan": lambda path: plan(path, HIERARCHICAL),
    "inspect": inspect,
    "recover": recover,
    "verify": lambda path: verify(path, expected=PLAIN_SQLITEDICT),
    "open_store": lambda path: open_store(path, ensure=HIERARCHICAL),
}


def test_idle_connection_of_this_process(database: Path) -> None:
    """Our own caller's SqliteDict counts like anybody's, and goes on working afterwards."""
    with SqliteDict(str(database)) as store:
        assert store["/srv/00/dir0/file-000000.txt"]["size"] == 0
        with refused(database, errors.InUse, "this process", code=75, besides=SHM):
            convert(database, HIERARCHICAL)
        store["/later"] = 1
        store.commit()
    assert records_on_disk(database) == [*RECORDS, ("/later", 1)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_our_own_locks_are_not_dropped(database: Path, operation: str) -> None:
    """POSIX locks go with any close of the file in the same process: a refused call closes none.

    A writer of this process is in the middle of its transaction; a third party cannot write, before the
    call as well as after it.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM unnamed WHERE rowid = 1")
        assert not can_write(database)
        looking = operation in ("inspect", "recover", "verify")
        with nullcontext() if looking else pytest.raises(errors.InUse, match="this process"):
            OPERATIONS[operation](database)
        assert not can_write(database)
        writer.execute("COMMIT")
        assert can_write(database)
    assert records_on_disk(database) == RECORDS[1:]


@pytest.mark.parametrize("damage", ["no database", "newer"])
def test_our_own_locks_on_a_file_that_is_refused(rollback_database: Path, damage: str) -> None:
    """Nor does finding out why SQLite does not want the file: it is not read past SQLite while open."""
    with closing(sqlite3.connect(rollback_database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        # By path and in place, by another process: our own close would drop the lock.
        offset, data = (0, "not SQLite") if damage == "no database" else (18, "\\003\\003")
        subprocess.run(
            ["dd", f"of={rollback_database}", "bs=1", f"seek={offset}", "conv=notrunc"],
            input=data.encode().decode("unicode_escape").encode("latin-1"),
            check=True,
            capture_output=True,
        )
        with pytest.raises(errors.StoreError):
            convert(rollback_database, HIERARCHICAL)
        with pytest.raises(errors.StoreError):
            inspect(rollback_database)
        assert holds_reserved_lock(rollback_database)


def holds_reserved_lock(database: Path) -> bool:
    """Whether the kernel lists a POSIX write lock of this process on the file."""
    inode = str(database.stat().st_ino)
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any(
        "POSIX" in line and "WRITE" in line and f" {os.getpid()} " in line and f":{inode} " in line
        for line in lines
    )


# --- two conversions at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["settle.after", "build.after-staging", "swap.after-rename"])
def test_second_conversion_of_another_process(rollback_database: Path, place: str) -> None:
    """Whoever comes second is told to try again, wherever the first one stands; the first one ends well."""
    seen: list[tuple[int, str]] = []

    def second() -> None:
        for operation in ("convert", "recover"):
            done = subprocess.run(
                command([operation, str(rollback_database)]),
                capture_output=True,
                text=True,
                check=False,
            )
            seen.append((done.returncode, done.stdout))

    result = convert(rollback_database, HIERARCHICAL, failpoints=Failpoints({place: second}))
    assert result.outcome is Outcome.CONVERTED
    converting, recovering = seen
    assert converting[0] == 75
    assert '"Locked"' in converting[1]
    assert "under way" in converting[1]
    # Before there is any work, a recovery finds nothing to do and asks for no lock.
    assert recovering[0] == (0 if place == "settle.after" else 75)
    assert records_on_disk(rollback_database) == RECORDS
    assert leftovers(rollback_database) == []


def test_second_conversion_of_this_process(rollback_database: Path) -> None:
    """The lock holds between threads of one process as well."""
    caught: list[errors.Locked] = []

    def second() -> None:
        with pytest.raises(errors.Locked, match="under way") as locked:
            convert(rollback_database, HIERARCHICAL)
        caught.append(locked.value)

    convert(rollback_database, HIERARCHICAL, failpoints=Failpoints({"settle.after": second}))
    (error,) = caught
    assert error.exit_code == 75
    assert error.retryable
    assert error.hint


def test_a_held_lock_changes_nothing(rollback_database: Path) -> None:
    """Locked: exactly that error, and the directory is as it was, whoever holds the lock."""
    convert(rollback_database, PLAIN_SQLITEDICT)
    lock = rollback_database.with_name(".orders.db.storageformat") / "lock"
    with open(lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            unchanged(rollback_database.parent),
            refused(rollback_database, errors.Locked, "orders.db", code=75),
        ):
            convert(rollback_database, HIERARCHICAL)


# --- leases ---------------------------------------------------------------------------------------------


class WithoutLeases:
    """The module ``fcntl`` on a filesystem that gives no leases."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def fcntl(self, descriptor: int, request: int, argument: int = 0) -> int:
        if request in (fcntl.F_SETLEASE, fcntl.F_GETLEASE):
            raise OSError(self.number, os.strerror(self.number))
        return fcntl.fcntl(descriptor, request, argument)


@pytest.fixture(params=[errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK])
def no_leases(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(lease, "fcntl", WithoutLeases(request.param))


@pytest.mark.usefixtures("no_leases")
def test_leases_unsupported(database: Path) -> None:
    """Where nobody can tell whether the file is open, it is not replaced; the hint says how to allow it."""
    with refused(database, errors.LeasesUnsupported, "orders.db", "lease"):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, errors.LeasesUnsupported)
    with pytest.raises(errors.LeasesUnsupported) as caught:
        convert(database, HIERARCHICAL)
    assert "--openers-unchecked" in caught.value.hint
    assert "openersUnchecked" in caught.value.hint


@pytest.mark.usefixtures("no_leases")
def test_leases_unsupported_and_allowed(database: Path) -> None:
    """With the person's word that nothing else opens the file the conversion does without leases."""
    assert convert(database, HIERARCHICAL, openers_unchecked=True).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS
    assert leftovers(database) == []


@pytest.mark.usefixtures("no_leases")
def test_unchecked_still_minds_this_process(database: Path) -> None:
    """Even unchecked, a connection of the same process is seen: its locks must not be dropped."""
    with (
        SqliteDict(str(database)) as store,
        refused(database, errors.InUse, "this process", code=75, besides=SHM),
    ):
        assert len(store) == len(RECORDS)
        convert(database, HIERARCHICAL, openers_unchecked=True)


def test_unchecked_uses_the_leases_that_there_are(database: Path) -> None:
    """The word is for filesystems without leases: where there are some, an opener is still found."""
    with opened(database), refused(database, errors.InUse, code=75, besides=SHM):
        convert(database, HIERARCHICAL, openers_unchecked=True)


def test_a_refused_lease_is_not_unsupported(
    rollback_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EACCES is about who we are, not about the filesystem: WrongUser, and unchecked does not help."""
    monkeypatch.setattr(lease, "fcntl", WithoutLeases(errno.EACCES))
    for unchecked in (False, True):
        with refused(rollback_database, errors.WrongUser, "lease"):
            convert(rollback_database, HIERARCHICAL, openers_unchecked=unchecked)


def test_a_lease_that_goes_in_a_moment(
    rollback_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is just being forked holds copies of our leases: whoever asks waits a moment for it.

    An application with threads that starts processes while it opens a store would fail now and then.
    """
    convert(rollback_database, PLAIN_SQLITEDICT)
    real, refusals = os.open, [0]

    def busy_at_first(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if path == rollback_database and flags & os.O_NONBLOCK:
            refusals[0] += 1
            if refusals[0] % 3:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), os.fspath(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", busy_at_first)
    assert convert(rollback_database, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert refusals[0] >= 9


def test_the_lock_is_listed_beside_nothing_else(rollback_database: Path) -> None:
    """What a refusal leaves is the state directory with its lock, as documented."""
    with opened(rollback_database), pytest.raises(errors.InUse):
        convert(rollback_database, HIERARCHICAL)
    names = {
        str(entry.relative_to(rollback_database.parent))
        for entry in rollback_database.parent.rglob("*")
    }
    assert names == {"orders.db", *traces(rollback_database)}
