"""The end of a run that made a staging copy, a conversion's or a restoration's: commit it, or give it up."""

from __future__ import annotations

from format_store import durable, errors, history, lease, recovery, situations, swap
from format_store import manifest as manifests
from format_store.layout import WorkDirectory
from format_store.manifest import Manifest
from format_store.observer import Backup, Phase
from format_store.run import Run


def commit(run: Run, work: WorkDirectory, manifest: Manifest) -> Backup | None:
    """Swap the verified staging copy in and clean up; returns the backup that is kept, if one is.

    Raises what ``swap.swap`` and ``recovery.complete`` raise, CleanUpPending.
    """
    run.observer.phase(Phase.SWAPPING)
    unchecked = run.openers_unchecked
    with (
        lease.take(run.primary, operation="swap", unchecked=unchecked) as old,
        lease.take(work.staging, operation="swap", unchecked=unchecked) as new,
    ):
        proof = swap.swap(run, work, manifest, old, new)
        backup = manifest.backup(work)
        run.observer.backup_created(backup)
        try:
            kept = recovery.complete(run, work, manifest, proof, old)
            retained = manifests.load(kept) if kept else None
        except (OSError, MemoryError, errors.StorageError, errors.Refused, errors.InUse) as error:
            raise errors.CleanUpPending(
                f"the new database is in place, but not everything could be cleared up ({errors.words(error)})",
                operation="clean up",
                path=run.primary,
                hint="The next run clears up the rest.",
            ) from error
    return retained.backup(kept) if kept and retained else None


def give_up(
    run: Run, work: WorkDirectory | None, manifest: Manifest | None, error: BaseException
) -> None:
    """Discard the staging copy after an error, and remember how it ended.

    Best effort: what cannot be cleared up is pending work, which the next run recovers. After a swap that
    may have happened nothing is discarded here; recovery looks at the disk and knows.
    """
    if isinstance(error, errors.NeedsAttention):
        return
    try:
        if work is not None and durable.exists(work.path):
            situation, found = situations.examine(run, work)
            if situation not in (situations.Situation.UNBUILT, situations.Situation.UNSWAPPED):
                return
            recovery.discard(run, work, found)
        if isinstance(error, errors.Refused):
            return
        result = "aborted" if isinstance(error, errors.Aborted | KeyboardInterrupt) else "failed"
        if isinstance(error, errors.TryAgain):
            result = "aborted"
        identity = manifest.conversion_id if manifest else run.new_id()
        restoring = manifest is not None and manifest.restores is not None
        history.record(
            run.layout, "restoration" if restoring else "conversion", identity,
            () if restoring else (f"conversions.{result}",), result=result, reason=type(error).__name__, detail=str(error),
        )  # fmt: skip
    except (OSError, MemoryError, errors.StoreError) as second:
        error.add_note(f"clearing up failed as well, which the next run repeats: {second}")
