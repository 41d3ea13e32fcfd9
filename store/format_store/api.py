"""The functions that people call; each takes a path and wires one run."""

from __future__ import annotations

import os
from collections.abc import Sequence

from format_store import (
    backups,
    conversion,
    errors,
    inspection,
    lock,
    preflight,
    sqlitefile,
)
from format_store import (
    failpoints as _failpoints,
)
from format_store.abort import Abort
from format_store.engines import registry
from format_store.formats import Format
from format_store.layout import Layout
from format_store.observer import Observer
from format_store.results import Result
from format_store.run import DEFAULT_WORKER_MEMORY, Retention, Run, os_errors

#: What plain ``SqliteDict(path)`` writes: natural keys, pickled values.
PLAIN_SQLITEDICT = Format.sqlitedict()


def convert(
    path: str | os.PathLike[str],
    target: Format,
    *,
    unmarked: Sequence[Format] = (PLAIN_SQLITEDICT,),
    retention: Retention = Retention(),  # noqa: B008 - immutable
    observer: Observer | None = None,
    abort: Abort | None = None,
    openers_unchecked: bool = False,
    pickle_allow: Sequence[str] = (),
    worker_memory: int = DEFAULT_WORKER_MEMORY,
    failpoints: _failpoints.Failpoints | None = None,
) -> Result:
    """Bring the database at ``path`` into ``target``, after recovering whatever an earlier run left.

    ``unmarked`` lists the formats that a file without a marker may be in; the target always counts.
    ``retention`` says how long the pre-image is kept. ``openers_unchecked`` is the caller's word that nobody
    else opens the file, for filesystems without leases. ``pickle_allow`` names classes of the standard
    library (``datetime.datetime``) that pickled values may contain besides plain data.
    ``worker_memory``: bytes of address space for each process that decodes values.

    Raises ``StoreError`` kinds (``format_store.errors`` draws the tree). Until the swap, and after every
    error but ``NeedsAttention``, the database is as it was.
    """
    run = Run(
        Layout.of(path),
        observer or Observer(),
        abort or Abort(),
        failpoints or _failpoints.NONE,
        openers_unchecked,
        tuple(pickle_allow),
        worker_memory,
        retention,
    )
    return conversion.convert(run, target, tuple(unmarked))


def recover(
    path: str | os.PathLike[str],
    *,
    observer: Observer | None = None,
    abort: Abort | None = None,
    openers_unchecked: bool = False,
    failpoints: _failpoints.Failpoints | None = None,
) -> Result:
    """End what a crash left: discard, complete, restore or clean up. With nothing pending, do nothing.

    Raises NeedsAttention kinds (both copies kept), TryAgain kinds, StorageError.
    """
    run = Run(
        Layout.of(path),
        observer or Observer(),
        abort or Abort(),
        failpoints or _failpoints.NONE,
        openers_unchecked,
    )
    return conversion.recover(run)


def inspect(path: str | os.PathLike[str], *, count_rows: bool = True) -> inspection.Inspection:
    """Look at a database and its state directory without changing either. Raises StoreError kinds.

    Counting rows reads an index of every table; without, ``tables`` is empty and the answer is immediate.
    """
    return inspection.inspect(Layout.of(path), count_rows=count_rows)


def plan(
    path: str | os.PathLike[str],
    target: Format,
    *,
    unmarked: Sequence[Format] = (PLAIN_SQLITEDICT,),
    openers_unchecked: bool = False,
    pickle_allow: Sequence[str] = (),
    worker_memory: int = DEFAULT_WORKER_MEMORY,
    abort: Abort | None = None,
) -> inspection.Plan:
    """What ``convert`` would do and what stands in its way, every value decoded. Writes nothing.

    Raises StoreError kinds for what cannot even be looked at; refusals are in the plan.
    """
    run = Run(
        Layout.of(path),
        abort=abort or Abort(),
        openers_unchecked=openers_unchecked,
        pickle_allow=tuple(pickle_allow),
        worker_memory=worker_memory,
    )
    return inspection.plan(run, target, tuple(unmarked))


def settle(path: str | os.PathLike[str]) -> None:
    """Work off a hot journal or a write-ahead log that a killed application left, as its next start would.

    Changes bytes, never content. For a database whose format has to be known before its application runs:
    ``inspect`` calls such a one ``busy``. Raises InUse, Locked, SuperJournalElsewhere, CorruptDatabase.
    """
    layout = Layout.of(path)
    if preflight.require_plain_file(layout) is None:
        return
    with os_errors("settle", layout.primary), lock.exclusive(layout):
        sqlitefile.refuse_foreign_super_journal(layout)
        sqlitefile.settle(layout)


def verify(
    path: str | os.PathLike[str],
    *,
    expected: Format | None = None,
    pickle_allow: Sequence[str] = (),
    worker_memory: int = DEFAULT_WORKER_MEMORY,
    observer: Observer | None = None,
    abort: Abort | None = None,
) -> int:
    """Decode every row of the database in its format and check the file; returns the number of rows.

    The format is the marker's; ``expected`` is for a database without one.
    Raises CorruptDatabase, VerificationFailed, Refused kinds.
    """
    run = Run(
        Layout.of(path),
        observer or Observer(),
        abort or Abort(),
        pickle_allow=tuple(pickle_allow),
        worker_memory=worker_memory,
    )
    _require_file(run)
    with os_errors("verify", run.primary):
        sqlitefile.refuse_foreign_super_journal(run.layout)
        marker = sqlitefile.read_marker(run.layout)
    format = marker.format if marker else expected
    if format is None:
        raise errors.UndeclaredFormat(
            "it has no marker",
            operation="verify",
            path=run.primary,
            hint="Nothing was touched. Say which format it is in (--to FILE --format NAME).",
        )
    return registry.get(format.engine).check(run, run.primary, format)


def prune_backups(
    path: str | os.PathLike[str],
    *,
    observer: Observer | None = None,
    openers_unchecked: bool = False,
) -> float | None:
    """Delete retained backups whose time is over; seconds until the next one's time is, or None.

    Raises InUse (a backup, or the database's lock, is in use), StrayWrites, StorageError.
    """
    layout = Layout.of(path)
    with os_errors("delete backups", layout.backups):
        if not layout.retained():
            return None
        with lock.exclusive(layout), sqlitefile.sqlite_errors("delete backups", layout.primary):
            return backups.prune(layout, observer or Observer(), unchecked=openers_unchecked)


def _require_file(run: Run) -> None:
    if preflight.require_plain_file(run.layout) is None:
        raise errors.UsageError(
            "there is no such file",
            operation="verify",
            path=run.primary,
            hint="Check the path.",
        )


__all__ = [
    "PLAIN_SQLITEDICT",
    "convert",
    "inspect",
    "plan",
    "prune_backups",
    "recover",
    "settle",
    "verify",
]
