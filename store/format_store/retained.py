"""Retained backups: what there is, until when, and what a person does with them.

Nothing here deletes a file: that is ``backups.delete_preimage``, with its three proofs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from format_store import backups as preimages
from format_store import clock, durable, errors, lease, lock, preflight, sqlitefile
from format_store import manifest as manifests
from format_store.layout import Layout, WorkDirectory
from format_store.manifest import Manifest
from format_store.observer import Backup, Observer
from format_store.run import Run, os_errors

_OPERATION = "backups"


def listed(layout: Layout) -> list[tuple[WorkDirectory, Backup]]:
    """Every pre-image there is, of pending work and retained, oldest first; (directory, backup).

    One whose manifest cannot be read is listed as pinned: nobody but a person knows what it is.
    """
    found = []
    for work in [*layout.retained(), *layout.pending()]:
        if not durable.exists(work.preimage):
            continue
        manifest = _readable_manifest(work)
        if manifest is not None:
            backup = manifest.backup(work)
        else:
            size = os.lstat(work.preimage).st_size
            backup = Backup(
                work.conversion_id, os.fspath(work.preimage), size, "", None, pinned=True
            )
        found.append((work, backup))
    return sorted(found, key=lambda entry: entry[0].conversion_id)


def _readable_manifest(work: WorkDirectory) -> Manifest | None:
    try:
        return manifests.load(work)
    except errors.UnreadableManifest:
        return None


def prune(layout: Layout, observer: Observer, *, unchecked: bool) -> float | None:
    """Delete retained backups whose time is over; seconds until the next one's, or None.

    A backup that is in use, that somebody wrote to, or beside which the database is not well stays, and is looked at
    again the next time; it is told (InUse, StrayWrites, PrimaryUnsound) once the others have been seen to. The caller
    holds the lock.
    """
    following: list[float] = []
    problems: list[errors.StoreError] = []
    now = clock.parse(clock.now())
    for work in layout.retained():
        if not durable.exists(work.preimage):
            # Deleted before, but for the rest of the directory.
            preimages.clear(work)
            continue
        manifest = _readable_manifest(work)
        if manifest is None or manifest.pinned or manifest.retain_until is None:
            continue
        remaining = clock.parse(manifest.retain_until) - now
        if remaining > 0:
            following.append(remaining)
            continue
        try:
            proof = preimages.prove_readable(layout, work)
            with (
                lease.take(
                    work.preimage, operation="delete pre-image", unchecked=unchecked
                ) as held,
                _told_once_deleted(work),
            ):
                preimages.delete_preimage(work, manifest, held, proof)
        except (errors.InUse, errors.NeedsAttention) as error:
            problems.append(error)
            continue
        with _told_once_deleted(work):
            preimages.clear(work)
        observer.backup_deleted(manifest.backup(work))
    if problems:
        raise problems[0]
    return min(following, default=None)


@contextmanager
def _told_once_deleted(work: WorkDirectory) -> Iterator[None]:
    """An error after the backup's file has gone does not say that nothing happened. Raises CleanUpPending."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if durable.exists(work.preimage):
            raise
        raise errors.CleanUpPending(
            f"the backup is deleted, but not everything could be cleared up ({errors.words(error)})",
            operation="delete backup",
            path=work.path,
            hint="The database is as it was. The next run that deletes backups clears up the rest.",
        ) from error


def kept(layout: Layout, *, verify: bool, unchecked: bool) -> tuple[Backup, ...]:
    """See ``format_store.list_backups``."""
    with os_errors(_OPERATION, layout.backups, "Nothing was touched."):
        if not verify or not layout.retained():
            return tuple(_described(work) for work in _with_a_file(layout))
        with lock.exclusive(layout):
            return tuple(_verified(work, unchecked=unchecked) for work in _with_a_file(layout))


def _with_a_file(layout: Layout) -> list[WorkDirectory]:
    return [work for work in layout.retained() if durable.exists(work.preimage)]


def _described(work: WorkDirectory) -> Backup:
    manifest = _readable_manifest(work)
    if manifest is not None:
        return manifest.backup(work)
    size = os.lstat(work.preimage).st_size
    note = "its manifest cannot be read"
    return Backup(work.conversion_id, os.fspath(work.preimage), size, "", pinned=True, note=note)


def _verified(work: WorkDirectory, *, unchecked: bool) -> Backup:
    manifest = _readable_manifest(work)
    if manifest is None:
        return replace(_described(work), sound=False)
    with lease.take(work.preimage, operation="verify", unchecked=unchecked) as held:
        sound = durable.digest(held.descriptor) == manifest.source_digest
    return replace(manifest.backup(work), sound=sound)


def pin(layout: Layout, identity: str) -> Backup:
    """See ``format_store.pin_backup``."""
    with os_errors(_OPERATION, layout.backups), _locked(layout):
        work, manifest = find(layout, identity)
        return _rewritten(work, replace(manifest, pinned=True, retain_until=None))


def unpin(layout: Layout, identity: str, retain_for: float | None) -> Backup:
    """See ``format_store.unpin_backup``."""
    with os_errors(_OPERATION, layout.backups), _locked(layout):
        work, manifest = find(layout, identity)
        if not manifest.pinned:
            return manifest.backup(work)
        seconds = manifest.retain_for if retain_for is None else retain_for
        until = clock.at(preimages.end_of_time(seconds))
        return _rewritten(work, replace(manifest, pinned=False, retain_until=until))


def _rewritten(work: WorkDirectory, manifest: Manifest) -> Backup:
    manifest.save(work)
    return manifest.backup(work)


def delete(run: Run, identity: str) -> Backup:
    """See ``format_store.delete_backup``."""
    layout = run.layout
    with os_errors(_OPERATION, layout.backups), _locked(layout):
        work, manifest = find(layout, identity)
        if manifest.pinned:
            raise errors.BackupPinned(
                "is pinned",
                operation="delete backup",
                path=work.path,
                hint="Nothing was deleted. If nobody needs it any more, unpin it first "
                f"(storageformat backups unpin {layout.primary} {identity}).",
            )
        if preflight.require_plain_file(layout) is None:
            raise errors.PrimaryUnsound(
                "there is no database beside this backup",
                operation="delete backup",
                path=layout.primary,
                hint="Nothing was deleted: the backup may be the only good copy.",
            )
        with sqlitefile.sqlite_errors("delete backup", layout.primary):
            proof = preimages.prove_sound(run, work, manifest)
        with (
            lease.take(
                work.preimage, operation="delete backup", unchecked=run.openers_unchecked
            ) as held,
            _told_once_deleted(work),
        ):
            preimages.delete_preimage(work, manifest, held, proof)
        with _told_once_deleted(work):
            if __debug__:
                run.failpoints.hit("delete-backup.before-clear")
            preimages.clear(work)
    backup = manifest.backup(work)
    run.observer.backup_deleted(backup)
    return backup


def _locked(layout: Layout) -> AbstractContextManager[None]:
    """The lock, where there are backups at all: a mistyped path gets no state directory."""
    return lock.exclusive(layout) if durable.exists(layout.backups) else nullcontext()


def find(layout: Layout, identity: str) -> tuple[WorkDirectory, Manifest]:
    """The retained backup of this id. Raises NoSuchBackup, UnreadableManifest, OSError."""
    for work in _with_a_file(layout):
        if work.conversion_id == identity:
            manifest = manifests.load(work)
            if manifest is None:
                break
            return work, manifest
    pending = ", ".join(work.conversion_id for work in layout.pending())
    raise errors.NoSuchBackup(
        f"there is no backup {identity!r}",
        operation=_OPERATION,
        path=layout.primary,
        hint="Nothing was touched. storageformat backups list shows what there is"
        + (
            f"; what an earlier run left has to be recovered first ({pending})." if pending else "."
        ),
    )
