"""What an earlier run left, and the step that ends it.

Recovery is not a second code path: ``convert`` goes through it first, and the clean-up after a swap is the
same ``complete`` that recovery calls. It reads only what is on disk, needs nothing but the volume, and can
itself be killed at any point: each of its steps leaves a situation of the
table in ``situations``.

Nothing pending means that nothing is ever restored: an application may have emptied its database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from format_store import backups, clock, durable, errors, history, lease
from format_store.engines import registry
from format_store.layout import WorkDirectory
from format_store.manifest import FileStat, Manifest
from format_store.observer import Phase, Recovery, RecoveryOutcome
from format_store.run import Run, os_errors
from format_store.situations import (
    Situation,
    examine,
    holds_a_database,
    preimage_without_manifest,
)

_OPERATION = "recover"
_AS_FOUND = (
    "The database is as this run found it, and no good copy was deleted; the next run goes on."
)


def recover_pending(run: Run) -> tuple[Recovery, ...]:
    """Bring every piece of pending work to its end, oldest first. The caller holds the lock.

    Raises NeedsAttention and its kinds (both copies kept), InUse, StorageError.
    """
    with os_errors(_OPERATION, run.layout.work):
        pending = run.layout.pending()
    _clear_rehearsal(run)
    if not pending:
        return ()
    run.observer.phase(Phase.RECOVERING)
    recoveries = []
    for work in pending:
        try:
            with os_errors(_OPERATION, work.path, _AS_FOUND):
                recovery = _recover_one(run, work)
            # Again, for where the first time there was no space for it. What is remembered is advice: the
            # recovery is done, and is not to be told as failed for its sake.
            with suppress(OSError):
                _remember_recovery(run, recovery)
        except errors.NeedsAttention as error:
            with os_errors(_OPERATION, run.layout.history):
                _remember_attention(run, work, error)
            raise
        run.observer.recovered(recovery)
        recoveries.append(recovery)
    return tuple(recoveries)


def _clear_rehearsal(run: Run) -> None:
    """What a rehearsal left that was killed is a copy of a copy: it keeps nobody waiting and is not counted."""
    with os_errors(_OPERATION, run.layout.rehearsal, "The database is as it was."):
        if durable.exists(run.layout.rehearsal):
            durable.remove_tree(run.layout.rehearsal)


def _recover_one(run: Run, work: WorkDirectory) -> Recovery:
    situation, manifest = examine(run, work)
    if __debug__:
        run.failpoints.hit(f"recover.{situation.value}")
    if manifest is None and not os.listdir(work.path):
        # Either end of a conversion leaves this: the directory just made, or all but removed.
        recovery = _record(run, work, RecoveryOutcome.CLEANED, "an empty work directory was left")
        backups.clear(work)
        return recovery
    if manifest is None or situation is Situation.UNBUILT:
        detail = "no swap had happened"
        if durable.exists(work.staging) and not holds_a_database(run, work):
            # Not verified, perhaps not even whole; but nobody knows of anything better.
            kept = backups.quarantine(run.layout, work, work.staging, work.staging.name)
            detail += f"; the database is gone, and what had been built of its copy is {kept}"
        return _discard_and_record(run, work, manifest, detail)
    if situation is Situation.UNSWAPPED:
        return _discard_and_record(run, work, manifest, "the old database was in place")
    if situation is Situation.SWAPPED:
        return _complete_swapped(run, work, manifest)
    if situation is Situation.LOST:
        return _restore(run, work, manifest)
    if situation is Situation.FOREIGN:
        return _keep_foreign(run, work, manifest)
    recovery = _record(run, work, RecoveryOutcome.CLEANED, "only clean-up was left")
    recorded = _record_success(run, work, manifest)
    backups.clear(work)
    if not recorded:
        _record_success(run, work, manifest)  # now that there is space again
    return recovery


def discard(run: Run, work: WorkDirectory, manifest: Manifest | None) -> None:
    """Give up work whose swap has not happened: the primary is the old file.

    The pre-image, if it was made already, must go: as a second link it would follow the application's
    writes. Raises InUse, StorageError; what is left then is pending and goes the next time.
    """
    with os_errors("discard", work.path, "The database is as it was; the next run clears this up."):
        durable.fsync_directory(run.layout.parent)
        if durable.exists(work.preimage):
            if manifest is None:
                raise preimage_without_manifest(work)
            _delete_preimage_of_unswapped(run, work, manifest)
        if __debug__:
            run.failpoints.hit("discard.before-clear")
        backups.clear(work)


def _delete_preimage_of_unswapped(run: Run, work: WorkDirectory, manifest: Manifest) -> None:
    proof = backups.prove_same_file(run.layout, work)
    if proof is not None:
        with lease.take(
            work.preimage, operation="discard", unchecked=run.openers_unchecked
        ) as held:
            backups.delete_preimage(work, _as_it_is(manifest, held), held, proof)
        return
    with _lease_on_primary(run) as held:
        proof = backups.prove_digest(
            run.layout, work, held, manifest.source_digest, "the old database"
        )
        if proof is None:
            raise errors.StrayWrites(
                "the database and its pre-image have parted",
                operation="discard",
                path=run.primary,
                hint=f"Nothing was deleted; compare it with {work.preimage}.",
            )
        with lease.take(
            work.preimage, operation="discard", unchecked=run.openers_unchecked
        ) as copy:
            backups.delete_preimage(work, manifest, copy, proof)


def complete(
    run: Run,
    work: WorkDirectory,
    manifest: Manifest,
    proof: backups.PrimaryProof,
    old: lease.WriteLease | None,
) -> WorkDirectory | None:
    """End a conversion whose result is in place: retain or delete the pre-image, remember it, clean up.

    ``old`` is a lease on the old file where the caller still holds one from the swap. Returns where the
    backup is kept, or None. Raises StrayWrites (after everything else is done), InUse, OSError.
    """
    run.observer.phase(Phase.CLEANING)
    # Nothing is deleted before the rename is known to be on disk, whoever made it.
    durable.fsync_directory(run.layout.parent)
    durable.fsync_directory(work.path)
    stray: errors.StrayWrites | None = None
    if __debug__:
        run.failpoints.hit("cleanup.before-delete-preimage")
    try:
        with _lease_on_preimage(run, work, old) as held:
            if manifest.pinned or manifest.retain_for > 0:
                # A backup that somebody still writes to would swallow what they commit.
                backups.require_untouched(work, manifest, held)
                recorded = _record_success(run, work, manifest)
                kept = backups.retain(run.layout, work, manifest)
                if not recorded:
                    _record_success(run, work, manifest)  # a staging copy may have gone meanwhile
                return kept
            backups.delete_preimage(work, manifest, held, proof)
        run.observer.backup_deleted(manifest.backup(work))
    except errors.StrayWrites as error:
        # Before the file moves, so that a crash in between does not keep it from being told.
        _remember_attention(run, work, error)
        kept_file = backups.quarantine(run.layout, work, work.preimage, "preimage.db")
        error.hint = (
            f"The new database is in place. What was written to the old file is in {kept_file}."
        )
        stray = error
    if __debug__:
        run.failpoints.hit("cleanup.after-delete-preimage")
    recorded = _record_success(run, work, manifest)
    if __debug__:
        run.failpoints.hit("cleanup.before-clear")
    backups.clear(work)
    if not recorded:
        _record_success(run, work, manifest)  # now that there is space again
    if stray is not None:
        raise stray
    return None


@contextmanager
def _lease_on_preimage(
    run: Run, work: WorkDirectory, old: lease.WriteLease | None
) -> Iterator[lease.WriteLease]:
    """The caller's lease where it is on this very file (a second descriptor would break it), or one of ours."""
    if old is not None and os.path.samestat(os.lstat(work.preimage), old.stat()):
        yield old
        return
    with lease.take(work.preimage, operation="clean up", unchecked=run.openers_unchecked) as held:
        yield held


def _complete_swapped(run: Run, work: WorkDirectory, manifest: Manifest) -> Recovery:
    # The swap may have been made by a process that died before its fsync.
    durable.fsync_directory(run.layout.parent)
    with _lease_on_primary(run) as held:
        proof = backups.prove_digest(
            run.layout, work, held, manifest.staging_digest or "", "the verified staging copy"
        )
        if proof is not None:
            recovery = _record(
                run, work, RecoveryOutcome.COMPLETED, "the new database was in place, as verified"
            )
            complete(run, work, manifest, proof, None)
            return recovery
    # Changed since the swap. That is no error by itself, so look at every row before judging.
    try:
        if manifest.target_format is not None:
            registry.get(manifest.target_format.engine).check(
                run, run.primary, manifest.target_format, tolerate_forbidden=True
            )
    except (errors.Refused, errors.Failed) as error:
        if error.retryable:
            raise
        raise errors.PrimaryUnsound(
            f"the new database was changed after the swap and is not sound: {error.message}",
            operation=_OPERATION,
            path=run.primary,
            hint=f"Both copies are kept and nothing was restored. The old database is {work.preimage}.",
        ) from error
    _record_success(run, work, manifest)
    recovery = _record(
        run, work, RecoveryOutcome.COMPLETED,
        "the new database was in place and written to since; it is sound, and the pre-image is kept",
    )  # fmt: skip
    _keep_for_a_person(run, work, manifest, "the database was written to before clean-up")
    return recovery


@contextmanager
def _told_as_restored(run: Run) -> Iterator[None]:
    """An error after the pre-image has taken its place does not say that nothing happened. Raises CleanUpPending."""
    try:
        yield
    except (OSError, MemoryError, errors.StorageError, errors.Refused, errors.InUse) as error:
        raise errors.CleanUpPending(
            f"the old database is in place again, but the recovery did not come to its end ({errors.words(error)})",
            operation="restore",
            path=run.primary,
            hint="Nothing is lost. The next run makes sure of it, and clears up the rest.",
        ) from error


def _restore(run: Run, work: WorkDirectory, manifest: Manifest) -> Recovery:
    """The primary is missing or no database: put the pre-image in its place, keep the bad file."""
    if not durable.exists(work.preimage):
        raise errors.PreimageLost(
            "the database is missing or unreadable, and there is no pre-image",
            operation=_OPERATION,
            path=run.primary,
            hint=f"Nothing was changed. Look into {work.path} and restore the volume's backup.",
        )
    with lease.take(work.preimage, operation="restore", unchecked=run.openers_unchecked) as held:
        if durable.digest(held.descriptor) != manifest.source_digest:
            raise errors.PreimageLost(
                "the database is missing or unreadable, and the pre-image is not as it was",
                operation="restore",
                path=work.preimage,
                hint="Nothing was changed. Both files are kept; restore the volume's backup.",
            )
        # The bad file's journals first: beside the restored file SQLite would replay them over it.
        for sibling in run.layout.siblings():
            if durable.exists(sibling):
                backups.quarantine(run.layout, work, sibling, sibling.name)
        durable.fsync_descriptor(held.descriptor)
        if durable.exists(run.primary):
            detail = _replace_unreadable(run, work, held)
        else:
            detail = "the database was missing; the pre-image is in place again"
            _put_in_empty_place(run, work, held)
        with _told_as_restored(run):
            durable.fsync_directory(run.layout.parent)
    with _told_as_restored(run):
        # Now that the database has it durably, the pre-image's own name may go.
        _delete_preimage_of_unswapped(run, work, manifest)
        recovery = _record(run, work, RecoveryOutcome.RESTORED, detail)
        if __debug__:
            run.failpoints.hit("restore.before-clear")
        backups.clear(work)
    return recovery


def _another_name(work: WorkDirectory, held: lease.WriteLease) -> Path:
    """A second name for the pre-image, to be moved to the database's place; a copy where there are no links.

    Moved itself, it could be lost: a rename between two directories may reach the disk in one of them only,
    and here there is no other good copy.
    """
    durable.unlink(work.restored)  # of a run that was killed right here
    if not durable.link(work.preimage, work.restored):
        durable.copy_descriptor(held.descriptor, work.restored)
    return work.restored


def _replace_unreadable(run: Run, work: WorkDirectory, held: lease.WriteLease) -> str:
    """The file at the path holds nothing that is a database: keep it in quarantine, under a lease on it.

    Raises InUse where an application has it open: what it is about to write belongs to no quarantine.
    """
    with lease.take(
        run.primary, operation="restore", unchecked=run.openers_unchecked
    ) as unreadable:
        durable.make_directory(run.layout.quarantine)
        kept = run.layout.quarantine / work.conversion_id
        durable.make_directory(kept)
        bad = kept / run.primary.name
        # A second name, so that the path is never missing more than it was.
        if not durable.exists(bad) and not durable.link(run.primary, bad):
            durable.copy_descriptor(unreadable.descriptor, bad)
        durable.fsync_directory(kept)
        if __debug__:
            run.failpoints.hit("restore.before-rename")
        durable.rename(_another_name(work, held), run.primary)
        with _told_as_restored(run):
            alone = unreadable.held()
        if not alone:
            raise errors.StrayWrites(
                "somebody opened the unreadable file while it was replaced",
                operation="restore",
                path=run.primary,
                hint=f"The old database is in place. What they write goes to {bad}.",
            )
    return f"the database was unreadable; the pre-image is in place again, the bad file in {bad}"


def _put_in_empty_place(run: Run, work: WorkDirectory, held: lease.WriteLease) -> None:
    """link(2) instead of rename: it fails where somebody has just created the file. Raises InUse."""
    if __debug__:
        run.failpoints.hit("restore.before-rename")
    try:
        linked = durable.link(work.preimage, run.primary)
    except FileExistsError as error:
        raise errors.InUse(
            "somebody created the file while it was being restored",
            operation="restore",
            path=run.primary,
            hint="Nothing was replaced. Stop the process that opens it, and try again.",
        ) from error
    if not linked:
        durable.rename(_another_name(work, held), run.primary)


def _as_it_is(manifest: Manifest, held: lease.WriteLease) -> Manifest:
    """For a pre-image that is the primary's second name: whatever was written is in the primary as well."""
    return replace(manifest, source=FileStat.of(held.stat()))


def _keep_foreign(run: Run, work: WorkDirectory, manifest: Manifest) -> Recovery:
    """Somebody replaced the database while work was pending: theirs stays, ours is kept beside."""
    recovery = _record(
        run, work, RecoveryOutcome.DISCARDED,
        "the database had been replaced by another file; that one stays, and the pre-image is kept",
    )  # fmt: skip
    _keep_for_a_person(run, work, manifest, "the database was replaced by another file")
    return recovery


def _keep_for_a_person(run: Run, work: WorkDirectory, manifest: Manifest, note: str) -> None:
    """Nobody but a person can say whether this pre-image is still wanted: it is kept until then."""
    backups.retain(run.layout, work, replace(manifest, pinned=True, note=note))


def _discard_and_record(
    run: Run, work: WorkDirectory, manifest: Manifest | None, detail: str
) -> Recovery:
    recovery = _record(run, work, RecoveryOutcome.DISCARDED, detail)
    discard(run, work, manifest)
    return recovery


def _record(run: Run, work: WorkDirectory, outcome: RecoveryOutcome, detail: str) -> Recovery:
    recovery = Recovery(work.conversion_id, outcome, clock.now(), detail)
    _remember_recovery(run, recovery)
    return recovery


def _remember_recovery(run: Run, recovery: Recovery) -> None:
    _remember(
        run, "recovery", recovery.conversion_id, (f"recoveries.{recovery.outcome}",),
        outcome=str(recovery.outcome), detail=recovery.detail,
    )  # fmt: skip


def _remember_attention(run: Run, work: WorkDirectory, error: errors.NeedsAttention) -> None:
    _remember(
        run, "recovery", work.conversion_id, ("recoveries.failed",),
        outcome="failed", detail=str(error),
    )  # fmt: skip


def _record_success(run: Run, work: WorkDirectory, manifest: Manifest) -> bool:
    """Before the last clean-up, so that a crash in between cannot lose it; recording twice counts once."""
    details: dict[str, object] = {}
    kind, counts = "conversion", ["conversions.succeeded", "backups.created"]
    if manifest.restores is not None:
        kind, counts = "restoration", ["backups.created"]
        details["restores"] = manifest.restores
    source, target = manifest.source_format, manifest.target_format
    return _remember(
        run, kind, work.conversion_id, tuple(counts),
        result="succeeded", **details,
        source=source and source.to_spec(), target=target and target.to_spec(),
        rows=manifest.rows, bytesBefore=manifest.source.size,
        bytesAfter=manifest.staging.size if manifest.staging else 0,
        seconds=round(max(0.0, clock.seconds() - manifest.started_at), 3),
    )  # fmt: skip


def _remember(
    run: Run, kind: str, conversion_id: str, counts: tuple[str, ...], **details: object
) -> bool:
    """False where the disk is full: what is remembered is advice, and the clean-up that would make space
    must not wait for it. Raises other OSErrors.
    """
    try:
        history.record(run.layout, kind, conversion_id, counts, **details)
    except OSError as error:
        if error.errno not in errors.SPACE_ERRNOS:
            raise
        return False
    return True


def _lease_on_primary(run: Run) -> lease.WriteLease:
    return lease.take(run.primary, operation=_OPERATION, unchecked=run.openers_unchecked)
