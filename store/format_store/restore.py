"""A retained backup put back in the database's place, as it was, by the protocol of a conversion.

    lock → recover → refuse → settle → note → copy → fsync → verify → swap (under leases) → retain

The staging copy is a copy of the backup, never a link: the backup stays, and must not follow the application's
writes. What the database is now becomes a backup itself, pinned: a restoration loses nothing, and can be
taken back by another one. The restored file is the backup byte for byte, with the marker that it had or
none; how recovery tells it from the old file stands in ``situations``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from format_store import (
    clock,
    durable,
    ending,
    errors,
    lease,
    lock,
    preflight,
    recovery,
    retained,
    sqlitefile,
)
from format_store.formats import Format
from format_store.layout import WorkDirectory
from format_store.manifest import FileStat, Manifest
from format_store.observer import Phase, Recovery
from format_store.results import Outcome, Result
from format_store.run import Run, os_errors
from format_store.version import VERSION

_OPERATION = "restore"


@dataclass(frozen=True)
class _Wanted:
    """The backup to restore; ``manifest`` is its own."""

    work: WorkDirectory
    manifest: Manifest


def restore(run: Run, identity: str) -> Result:
    """Put the backup ``identity`` in the database's place; see ``format_store.restore_backup``."""
    started = clock.seconds()
    run.observer.phase(Phase.LOCKING)
    try:
        with os_errors(_OPERATION, run.layout.backups):
            if not run.layout.retained():
                retained.find(run.layout, identity)
        with lock.exclusive(run.layout):
            recoveries = recovery.recover_pending(run)
            run.observer.phase(Phase.CHECKING)
            with os_errors(_OPERATION, run.layout.backups, "Nothing was touched."):
                wanted = _Wanted(*retained.find(run.layout, identity))
                _refuse(run, wanted)
            return _restore(run, wanted, started, recoveries)
    finally:
        run.observer.phase(Phase.IDLE)


def _refuse(run: Run, wanted: _Wanted) -> None:
    layout = run.layout
    found = preflight.require_plain_file(layout)
    size = 0 if found is None else found.st_size
    if found is None:
        # Whatever lies there belongs to a database that is gone; beside another it would be replayed.
        sqlitefile.require_no_siblings(layout, operation=_OPERATION)
    else:
        preflight.require_single_link(layout, found)
        preflight.require_not_open(layout, unchecked=run.openers_unchecked)
        sqlitefile.refuse_foreign_super_journal(layout)
    preflight.require_space(
        layout, wanted.manifest.source.size + preflight.preimage_bytes(layout, size)
    )


def _restore(run: Run, wanted: _Wanted, started: float, recoveries: tuple[Recovery, ...]) -> Result:
    work: WorkDirectory | None = None
    manifest: Manifest | None = None
    restored = wanted.manifest.source_format
    try:
        run.observer.phase(Phase.SETTLING)
        run.check_abort("settle")
        with os_errors("settle", run.primary):
            _require_primary(run, wanted)
            present = _settled_format(run)
            if __debug__:
                run.failpoints.hit("settle.after")
            source, digest = _note(run)
        if digest == wanted.manifest.source_digest:
            return Result.of(
                run, Outcome.UNCHANGED, started, recoveries, source=restored, target=restored
            )
        manifest = Manifest(
            conversion_id=clock.new_conversion_id(),
            database=run.primary.name,
            created_at=clock.now(),
            started_at=started,
            tool_version=VERSION,
            source_format=present,
            target_format=restored,
            source=source,
            source_digest=digest,
            pinned=True,
            note=f"what the database was when {wanted.work.conversion_id} was restored",
            restores=wanted.work.conversion_id,
        )
        work = run.layout.work_directory(manifest.conversion_id)
        with os_errors("prepare", work.path):
            durable.make_directory(run.layout.work)
            durable.fsync_directory(run.layout.state)  # also where a killed run made it
            durable.make_directory(work.path)
            if __debug__:
                run.failpoints.hit("prepare.after-directory")
            manifest.save(work)
            if __debug__:
                run.failpoints.hit("prepare.after-manifest")
        manifest = _copy_and_verify(run, wanted, work, manifest)
        run.check_abort("swap")
        backup = ending.commit(run, work, manifest)
    except BaseException as error:
        ending.give_up(run, work, manifest, error)
        raise
    return Result.of(
        run, Outcome.RESTORED, started, recoveries,
        source=present, target=restored, conversion_id=manifest.conversion_id,
        rows=wanted.manifest.rows, bytes_before=source.size, backup=backup,
    )  # fmt: skip


def _require_primary(run: Run, wanted: _Wanted) -> None:
    """Where the database is gone an empty file stands for it: that is what an application would begin with."""
    if durable.exists(run.primary):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(run.primary, flags, 0o600)
    try:
        durable.copy_metadata(wanted.work.preimage, descriptor)
    finally:
        os.close(descriptor)
    durable.fsync_directory(run.layout.parent)


def _settled_format(run: Run) -> Format | None:
    """Bring the database to rest, and tell its format; None where it has no marker, or is damaged.

    A damaged database is a reason to restore: it is kept as it lies, if nothing has to be worked off.
    """
    try:
        sqlitefile.settle(run.layout)
        marker = sqlitefile.read_marker(run.layout)
    except (errors.CorruptDatabase, errors.UnreadableMarker):
        sqlitefile.require_no_siblings(run.layout, operation="settle")
        return None
    return None if marker is None else marker.format


def _note(run: Run) -> tuple[FileStat, str]:
    """Stat and digest of the database at rest, under a lease, so that both speak of the same bytes."""
    with lease.take(run.primary, operation="settle", unchecked=run.openers_unchecked) as held:
        digest = durable.digest(held.descriptor, lambda: run.check_abort("settle"))
        return FileStat.of(held.stat()), digest


def _copy_and_verify(
    run: Run, wanted: _Wanted, work: WorkDirectory, manifest: Manifest
) -> Manifest:
    unchecked = run.openers_unchecked
    run.observer.phase(Phase.BUILDING)
    rows, size = wanted.manifest.rows, max(1, wanted.manifest.source.size)

    def copied(offset: int) -> None:
        run.check_abort("build")
        run.observer.progress(rows * min(offset, size) // size, rows)

    with os_errors("build", work.staging):
        with lease.take(wanted.work.preimage, operation="build", unchecked=unchecked) as backup:
            durable.copy_descriptor(backup.descriptor, work.staging, copied)
        if __debug__:
            run.failpoints.hit("build.after-staging")
        run.observer.phase(Phase.SYNCING)
        _take_metadata(run, work)
        if __debug__:
            run.failpoints.hit("build.after-fsync")
    run.observer.phase(Phase.VERIFYING)
    with os_errors("verify", work.path):
        with lease.take(work.staging, operation="verify", unchecked=unchecked) as held:
            digest = durable.digest(held.descriptor, lambda: run.check_abort("verify"))
            staging = FileStat.of(held.stat())
        if digest != wanted.manifest.source_digest:
            raise errors.BackupUnsound(
                "is not what its manifest says: it was written to, or has decayed",
                operation="verify",
                path=wanted.work.preimage,
                hint="The database and the backup were left as they are. Restore another backup, or look "
                "into this one with sqlite3.",
            )
        if __debug__:
            run.failpoints.hit("verify.after")
        ready = manifest.ready(manifest.source_digest, staging, digest, wanted.manifest.rows)
        ready.save(work)
    if __debug__:
        run.failpoints.hit("verify.after-ready")
    return ready


def _take_metadata(run: Run, work: WorkDirectory) -> None:
    """Owner, mode and attributes are the database's of today: its application may have another user now."""
    descriptor = os.open(work.staging, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        durable.copy_metadata(run.primary, descriptor)
        durable.fsync_descriptor(descriptor)
    finally:
        os.close(descriptor)
    durable.fsync_directory(work.path)
