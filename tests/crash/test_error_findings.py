"""What errors at system calls found (``tests/proof/errors.py``), each a test that lied or crashed before it was mended."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Format,
    Outcome,
    convert,
    errors,
    history,
)
from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.support.databases import format_on_disk, sample, write_plain

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

    monkeypatch.setattr("format_store.durable.os.close", close)
    if name == "lock":
        assert convert(database, TARGET).outcome is Outcome.CONVERTED
    else:
        from format_store import lease

        lease.take(database, operation="test").release()
    monkeypatch.undo()
    assert require_intact(database, RECORDS, HIERARCHICAL) == ("new" if name == "lock" else "old")


@pytest.mark.parametrize("descriptor", ["before", "after"])
def test_a_lease_that_cannot_be_asked(
    database: Path, monkeypatch: pytest.MonkeyPatch, descriptor: str
) -> None:
    """F_GETLEASE fails: before the rename the database is as it was, after it both copies are kept."""
    from format_store import lease

    fails_after = {"before": 0, "after": 1}[descriptor]
    asked: list[None] = []

    def asks(_: int, command: int, *__: Any) -> bool:
        if command != lease.fcntl.F_GETLEASE:
            return False
        asked.append(None)
        return len(asked) > fails_after

    failing(monkeypatch, lease.fcntl, "fcntl", asks)
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
    from format_store import swap

    before = database.read_bytes()
    failing(
        monkeypatch,
        swap.sqlitefile,
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
    real = Path.read_bytes

    def read(self: Path) -> bytes:
        if self.name == "history.jsonl":
            raise OSError(errno.EIO, "no")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(errors.CleanUpPending, match="the new database is in place"):
        convert(database, TARGET)
    monkeypatch.undo()
    assert format_on_disk(database) == HIERARCHICAL["sqlitedict"] | {"valueCodec": "pickle"}
    assert require_intact(database, RECORDS, HIERARCHICAL) == "new"
    assert history.read(database).totals["conversions.succeeded"] == 1


def test_a_size_that_cannot_be_asked(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result's size is for people: a conversion that is done is not told as failed for its sake."""
    from format_store import results
    from format_store.layout import Layout
    from format_store.run import Run

    failing(monkeypatch, results.os, "stat", lambda path, **_: Path(path) == database)
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
