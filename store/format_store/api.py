"""The functions that people call; each takes a path and wires one run.

What does the work is loaded by the function that needs it: most starts have nothing to do, and are to say so
in the time that it takes to look.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from format_store import clock, durable, errors
from format_store import (
    failpoints as _failpoints,
)
from format_store.abort import Abort
from format_store.formats import Format
from format_store.layout import Layout, is_conversion_id
from format_store.observer import Backup, Observer
from format_store.results import Outcome, Result
from format_store.run import DEFAULT_WORKER_MEMORY, Retention, Run, os_errors

if TYPE_CHECKING:
    from format_store import inspection, planning

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
    conversion_id: str | None = None,
    failpoints: _failpoints.Failpoints | None = None,
) -> Result:
    """Bring the database at ``path`` into ``target``, after recovering whatever an earlier run left.

    ``unmarked`` lists the formats that a file without a marker may be in; the target always counts.
    ``retention`` says how long the pre-image is kept. ``openers_unchecked`` is the caller's word that nobody
    else opens the file, for filesystems without leases. ``pickle_allow`` names classes of the standard
    library (``datetime.datetime``) that pickled values may contain besides plain data.
    ``worker_memory``: bytes of address space for each process that decodes values. ``conversion_id``: one that
    ``new_conversion_id`` made, for a caller that speaks of the conversion before it begins.

    Raises ``StoreError`` kinds (``format_store.errors`` draws the tree). Until the swap, and after every
    error but ``NeedsAttention``, the database is as it was.
    """
    from format_store import conversion

    if conversion_id is not None and not is_conversion_id(conversion_id):
        raise errors.UsageError(
            f"{conversion_id!r} is no id of a conversion",
            operation="convert",
            path=path,
            hint="Nothing was touched. Take one that new_conversion_id() made.",
        )
    run = Run(
        Layout.of(path),
        observer or Observer(),
        abort or Abort(),
        failpoints or _failpoints.NONE,
        openers_unchecked,
        tuple(pickle_allow),
        worker_memory,
        retention,
        conversion_id,
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
    with os_errors("inspect", run.layout.work):
        if not run.layout.pending() and not durable.exists(run.layout.rehearsal):
            # Not even the lock: who holds it now has begun after us.
            return Result.of(run, Outcome.UNCHANGED, clock.seconds(), ())

    from format_store import conversion

    return conversion.recover(run)


def inspect(path: str | os.PathLike[str], *, count_rows: bool = True) -> inspection.Inspection:
    """Look at a database and its state directory without changing either. Raises StoreError kinds.

    Counting rows reads an index of every table; without, ``tables`` is empty and the answer is immediate.
    """
    from format_store import inspection

    return inspection.inspect(Layout.of(path), count_rows=count_rows)


def plan(
    path: str | os.PathLike[str],
    target: Format,
    *,
    unmarked: Sequence[Format] = (PLAIN_SQLITEDICT,),
    retention: Retention = Retention(),  # noqa: B008 - immutable
    rehearse: bool = False,
    while_in_use: bool = False,
    observer: Observer | None = None,
    openers_unchecked: bool = False,
    pickle_allow: Sequence[str] = (),
    worker_memory: int = DEFAULT_WORKER_MEMORY,
    abort: Abort | None = None,
    failpoints: _failpoints.Failpoints | None = None,
) -> planning.Plan:
    """What ``convert`` would do, how long it may take, what space it needs and what stands in its way.

    Every value is decoded, and nothing written: the volume is measured with a file that has no name. With
    ``rehearse`` the whole conversion is done on a throw-away copy in the state directory, and measured; the
    database's lock is held meanwhile, the database itself only while it is copied.

    With ``while_in_use`` a plan, though no rehearsal, is also made beside another process that has the database
    open: what it tells is of this moment. SQLite's locks are kept; a writer may have to wait for a read.

    Raises StoreError kinds for what cannot even be looked at; refusals are in the plan. A rehearsal also raises
    TryAgain kinds, and Failed kinds where the conversion itself failed.
    """
    from format_store import planning

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
    return planning.plan(
        run, target, tuple(unmarked), rehearse=rehearse, while_in_use=while_in_use and not rehearse
    )


def settle(path: str | os.PathLike[str]) -> None:
    """Work off a hot journal or a write-ahead log that a killed application left, as its next start would.

    Changes bytes, never content. For a database whose format has to be known before its application runs:
    ``inspect`` calls such a one ``busy``. Raises InUse, Locked, SuperJournalElsewhere, CorruptDatabase.
    """
    from format_store import lock, preflight, sqlitefile

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
    from format_store import sqlitefile
    from format_store.engines import registry

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

    Raises InUse (a backup, or the database's lock, is in use), StrayWrites, PrimaryUnsound (the backup stays: the
    database has no marker, or is damaged), CleanUpPending, StorageError.
    """
    from format_store import lock, retained, sqlitefile

    layout = Layout.of(path)
    with os_errors("delete backups", layout.backups):
        if not layout.retained():
            return None
        with lock.exclusive(layout), sqlitefile.sqlite_errors("delete backups", layout.primary):
            return retained.prune(layout, observer or Observer(), unchecked=openers_unchecked)


def list_backups(
    path: str | os.PathLike[str], *, verify: bool = False, openers_unchecked: bool = False
) -> tuple[Backup, ...]:
    """The retained backups, oldest first. ``verify`` reads each of them and says whether it is ``sound``.

    Raises StorageError; with ``verify`` also Locked, InUse (somebody has a backup open).
    """
    from format_store import retained

    return retained.kept(Layout.of(path), verify=verify, unchecked=openers_unchecked)


def pin_backup(path: str | os.PathLike[str], backup_id: str) -> Backup:
    """Keep a backup until it is unpinned. Raises NoSuchBackup, UnreadableManifest, Locked, StorageError."""
    from format_store import retained

    return retained.pin(Layout.of(path), backup_id)


def unpin_backup(
    path: str | os.PathLike[str], backup_id: str, *, retain_for: float | None = None
) -> Backup:
    """Let a backup's time run again: from now on, for ``retain_for`` seconds.

    Without it, for as long as its conversion was asked to keep it; one that was kept for a person's sake
    (by a restoration, or by recovery) has no time, and the next ``prune_backups`` deletes it. One that is
    not pinned stays as it is. Raises as ``pin_backup`` does, and UsageError.
    """
    from format_store import retained

    if retain_for is not None and not 0 <= retain_for < float("inf"):
        raise errors.UsageError(
            f"a backup cannot be kept for {retain_for} seconds",
            operation="backups",
            path=path,
            hint="Nothing was touched. 0 or more, or pin it.",
        )
    return retained.unpin(Layout.of(path), backup_id, retain_for)


def delete_backup(
    path: str | os.PathLike[str],
    backup_id: str,
    *,
    observer: Observer | None = None,
    abort: Abort | None = None,
    openers_unchecked: bool = False,
    pickle_allow: Sequence[str] = (),
    failpoints: _failpoints.Failpoints | None = None,
) -> Backup:
    """Delete a backup before its time, after every row of the database itself was decoded.

    Raises BackupPinned, NoSuchBackup, PrimaryUnsound (the backup may be the only good copy), StrayWrites
    (somebody wrote to the backup), InUse, Locked, StorageError: the backup is still there. CleanUpPending: it is gone,
    and its directory is not yet.
    """
    from format_store import retained

    run = Run(
        Layout.of(path),
        observer or Observer(),
        abort or Abort(),
        failpoints or _failpoints.NONE,
        openers_unchecked,
        tuple(pickle_allow),
    )
    return retained.delete(run, backup_id)


def restore_backup(
    path: str | os.PathLike[str],
    backup_id: str,
    *,
    observer: Observer | None = None,
    abort: Abort | None = None,
    openers_unchecked: bool = False,
    failpoints: _failpoints.Failpoints | None = None,
) -> Result:
    """The database becomes the backup, byte for byte; what was written since is in a new, pinned backup.

    The backup stays, too. Raises NoSuchBackup, BackupUnsound, InUse, and what ``convert`` raises.
    """
    from format_store import restore

    run = Run(
        Layout.of(path),
        observer or Observer(),
        abort or Abort(),
        failpoints or _failpoints.NONE,
        openers_unchecked,
    )
    return restore.restore(run, backup_id)


def undo(
    path: str | os.PathLike[str],
    *,
    to_backup: str | None = None,
    losing_later_writes: bool = False,
    retention: Retention = Retention(),  # noqa: B008 - immutable
    observer: Observer | None = None,
    abort: Abort | None = None,
    openers_unchecked: bool = False,
    pickle_allow: Sequence[str] = (),
    worker_memory: int = DEFAULT_WORKER_MEMORY,
    failpoints: _failpoints.Failpoints | None = None,
) -> Result:
    """Convert the database back to the format before its last conversion; everything written since stays.

    Undoing twice leads to where it began. With ``to_backup`` and ``losing_later_writes`` it is
    ``restore_backup`` instead; neither means anything without the other.

    Raises NothingToUndo, UsageError, and what ``convert`` and ``restore_backup`` raise.
    """
    from format_store import restore, reversal

    if (to_backup is not None) != losing_later_writes:
        raise errors.UsageError(
            "a backup is restored only together with the word that later writes are to be lost",
            operation="undo",
            path=path,
            hint="Nothing was touched. Name both, the backup and that word, or neither: then everything that "
            "was written since stays.",
        )
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
    return reversal.undo(run) if to_backup is None else restore.restore(run, to_backup)


def _require_file(run: Run) -> None:
    from format_store import preflight

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
    "delete_backup",
    "inspect",
    "list_backups",
    "pin_backup",
    "plan",
    "prune_backups",
    "recover",
    "restore_backup",
    "settle",
    "undo",
    "unpin_backup",
    "verify",
]
