"""The swap: the one atomic rename that commits a conversion, and stepping back from it.

Both files are under a write lease meanwhile, and no descriptor of either is open but the leases' own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from format_store import backups, durable, errors, history, lease, sqlitefile
from format_store.layout import Layout, WorkDirectory
from format_store.manifest import FileStat, Manifest
from format_store.run import Run, os_errors

_OPERATION = "swap"


def swap(
    run: Run, work: WorkDirectory, manifest: Manifest, old: lease.WriteLease, new: lease.WriteLease
) -> backups.PrimaryProof:
    """Put ``work``'s staging copy in the primary's place and keep the old file as the pre-image.

    ``old`` and ``new`` are leases on the primary and on the staging copy. When this returns, the new file is
    the primary, durably, and nobody was waiting for the old one.

    Raises InUse (somebody came in between; the old file is, or is again, the primary), OutcomeUnknown (the
    disk did not confirm the rename), StrayWrites, StorageError. Before the rename every error leaves the
    primary untouched.
    """
    layout = run.layout
    with os_errors(_OPERATION, run.primary):
        _require_unchanged(run, work, manifest, old, new)
        # sqlitedict writes with synchronous=OFF: what becomes the pre-image may be in memory only.
        with _told_as_not_synced(run):
            durable.fsync_descriptor(old.descriptor)
        # The journal that settling removed must be gone durably, or it could be replayed over the new file.
        durable.fsync_directory(layout.parent)
        if __debug__:
            run.failpoints.hit("swap.before-preimage")
        if _in_memory_only(run) or not durable.link(run.primary, work.preimage):
            _copy_preimage(work, old)
        if __debug__:
            run.failpoints.hit("swap.after-preimage")
        durable.fsync_directory(work.path)
        if not old.held():
            raise _in_use(
                run, "somebody opened the database just before the swap; nothing was changed"
            )
        if __debug__:
            run.failpoints.hit("swap.before-rename")
        # The lease is on the verified file; what lies under its name by now may be something that somebody put there.
        if not _leads_to(work.staging, new):
            raise _another_copy(work)
        durable.rename(work.staging, run.primary)
    # From here on no error may say that the database is as it was.
    try:
        if __debug__:
            run.failpoints.hit("swap.after-rename")
        if not old.held():
            _step_back(run, work, new)
        durable.fsync_directory(layout.parent)
        durable.fsync_directory(work.path)
        if __debug__:
            run.failpoints.hit("swap.after-fsync")
        if not old.held():
            _step_back(run, work, new)
        proof = backups.prove_swapped(layout, work, new, manifest.staging)
    except (OSError, MemoryError) as error:
        raise errors.OutcomeUnknown(
            f"the new database is in place, but the disk did not confirm the swap ({errors.words(error)})",
            operation=_OPERATION,
            path=run.primary,
            hint="Both copies are kept. Check the device behind the volume; the next run then finds out "
            "which of the two the disk holds, and finishes.",
        ) from error
    if proof is None:
        raise errors.OutcomeUnknown(
            "what is in place after the swap is not what was verified",
            operation=_OPERATION,
            path=run.primary,
            hint="Both copies are kept; the next run compares them.",
        )
    return proof


def _require_unchanged(
    run: Run, work: WorkDirectory, manifest: Manifest, old: lease.WriteLease, new: lease.WriteLease
) -> None:
    if FileStat.of(old.stat()) != manifest.source or not _leads_to(run.primary, old):
        raise _in_use(run, "the database was written to during the conversion")
    if FileStat.of(new.stat()) != manifest.staging:
        raise _another_copy(work)
    sqlitefile.require_no_siblings(run.layout, operation=_OPERATION)
    sqlitefile.require_no_siblings(Layout.of(work.staging), operation=_OPERATION)


def _copy_preimage(work: WorkDirectory, old: lease.WriteLease) -> None:
    """The pre-image is a copy where there are no hard links. Read through the lease's descriptor (ours would break it).

    By hand, as the kernel's cache has it: blocks that are shared would be the disk's.
    """
    durable.copy_descriptor(old.descriptor, work.preimage, share=False)


@contextmanager
def _told_as_not_synced(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:  # until it is mounted anew, when the cache is gone
            raise
        raise errors.SourceNotSynced(
            f"what the application wrote could not be synced ({errors.words(error)})",
            operation=_OPERATION,
            path=run.primary,
            hint="The database is as it was, as far as this system's cache has it. See the kernel's log for the device "
            "behind it; a conversion, or a copy on another volume, before that cache is gone saves what was written.",
        ) from error


def _in_memory_only(run: Run) -> bool:
    """Whether an fsync of this file has failed before: the next one succeeds, and says nothing of what was dropped.

    The kernel's cache may still hold what the disk does not. It is what was converted, so it is what has to be kept.
    """
    for entry in reversed(history.read(run.primary).entries):
        if entry["kind"] in ("conversion", "restoration"):
            if entry.get("result") == "succeeded":
                return False
            if entry.get("reason") == errors.SourceNotSynced.__name__:
                return True
    return False


def _step_back(run: Run, work: WorkDirectory, new: lease.WriteLease) -> None:
    """Somebody waits in ``open()`` for the old file: make it the primary again. Always raises.

    What the opener would write into the old file would otherwise be lost. The new file keeps a name
    until it is clear that nobody has it open either.
    """
    layout = run.layout
    try:
        if not durable.exists(work.staging) and not durable.link(run.primary, work.staging):
            # Without hard links the old file has no name to come back under, only its copy.
            raise errors.OutcomeUnknown(
                "somebody opened the old database during the swap, and this filesystem has no hard links "
                "to step back with",
                operation="step back",
                path=run.primary,
                hint=f"The new database is in place; {work.preimage} is the old one. Stop the application.",
            )
        # Each file has a durable name at any time: the new one here, the old one by the fsync of the parent.
        durable.fsync_directory(work.path)
        if __debug__:
            run.failpoints.hit("step-back.before-rename")
        durable.rename(work.preimage, run.primary)
        if __debug__:
            run.failpoints.hit("step-back.after-rename")
        durable.fsync_directory(layout.parent)
        if not new.held():
            kept = backups.quarantine(layout, work, work.staging, "staging.db")
            raise errors.StrayWrites(
                "somebody opened the new database while the swap was taken back",
                operation="step back",
                path=run.primary,
                hint=f"The old database is in place. What was written to the new one is in {kept}.",
            )
    except (OSError, MemoryError) as error:
        raise errors.OutcomeUnknown(
            "somebody opened the old database during the swap, and taking the swap back failed "
            f"({errors.words(error)})",
            operation="step back",
            path=run.primary,
            hint="Both copies are kept. Stop the application; the next run finds out which of the two is in "
            "place, and finishes.",
        ) from error
    raise _in_use(
        run, "somebody opened the database during the swap; the old file is in place again"
    )


def _leads_to(path: os.PathLike[str], held: lease.WriteLease) -> bool:
    try:
        return os.path.samestat(os.lstat(path), held.stat())
    except FileNotFoundError:
        return False


def _another_copy(work: WorkDirectory) -> errors.VerificationFailed:
    return errors.VerificationFailed(
        "the staging copy changed after it had been verified",
        operation=_OPERATION,
        path=work.staging,
        hint="The staging copy was discarded; the database is as it was. Somebody else writes into the "
        "state directory.",
    )


def _in_use(run: Run, message: str) -> errors.InUse:
    return errors.InUse(
        message,
        operation=_OPERATION,
        path=run.primary,
        hint="The database is in its old format, complete. Stop the process that opens it, and try again.",
    )
