"""Pre-images and backups: the one function that deletes one, and the proof that it may.

A pre-image is the old file under a second name. It is the only good copy whenever something went wrong
that nobody has noticed yet, so ``delete_preimage`` asks for three things, each of which was once a way to
lose data:

1. a write lease on the pre-image itself: a late opener that still has the old file open can be writing
   into it (``InUse`` while it lives);
2. its stat, or else its digest, is that of the manifest: what such an opener wrote is not thrown away
   (``StrayWrites``, the file goes to quarantine);
3. a ``PrimaryProof``: the database that stays behind was looked at and is sound. Existence proves nothing.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from format_store import clock, durable, errors, lease, sqlitefile
from format_store.engines import registry
from format_store.formats import Format
from format_store.layout import Layout, WorkDirectory
from format_store.manifest import FileStat, Manifest
from format_store.run import Run

_OPERATION = "delete pre-image"


@dataclass(frozen=True)
class PrimaryProof:
    """Why the primary can be trusted without the pre-image. Only the functions below make one."""

    conversion_id: str
    why: str


def prove_same_file(layout: Layout, work: WorkDirectory) -> PrimaryProof | None:
    """The pre-image is the primary under a second name: dropping the name drops no data."""
    try:
        same = os.path.samestat(os.lstat(layout.primary), os.lstat(work.preimage))
    except FileNotFoundError:
        return None
    return PrimaryProof(work.conversion_id, "the pre-image is the primary itself") if same else None


def prove_digest(
    layout: Layout, work: WorkDirectory, held: lease.WriteLease, expected: str, what: str
) -> PrimaryProof | None:
    """Every byte of the primary is as expected. ``held`` is a lease on it, so that it stays so."""
    if not os.path.samestat(os.lstat(layout.primary), held.stat()) or not held.held():
        return None
    if durable.digest(held.descriptor) != expected:
        return None
    return PrimaryProof(work.conversion_id, f"the primary is {what}, byte for byte")


def prove_swapped(
    layout: Layout, work: WorkDirectory, held: lease.WriteLease, verified: FileStat | None
) -> PrimaryProof | None:
    """The file that was verified now is the primary, and nobody has opened it since."""
    if not os.path.samestat(os.lstat(layout.primary), held.stat()):
        return None
    if verified is None or FileStat.of(held.stat()) != verified:
        return None
    return PrimaryProof(
        work.conversion_id, "the verified staging copy is the primary, never opened since"
    )


def prove_readable(layout: Layout, work: WorkDirectory) -> PrimaryProof:
    """The primary, which its application may be using, carries a marker and passes ``quick_check``.

    Raises PrimaryUnsound, InUse, StorageError. SQLite tells an I/O error as text, too.
    """
    sqlitefile.refuse_foreign_super_journal(layout)
    with closing(sqlitefile.connect(layout.primary)) as connection:
        if sqlitefile.marker_of(connection, layout.primary) is None:
            raise _unsound(layout, "it has no marker")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _unsound(layout, f"quick_check says: {found}")
    return PrimaryProof(work.conversion_id, "the primary has a marker and passes quick_check")


def prove_sound(run: Run, work: WorkDirectory, manifest: Manifest) -> PrimaryProof:
    """Every row of the primary, which its application may be using, was decoded.

    A primary without a marker is looked at in the formats that ``manifest`` speaks of, and has to hold
    something: emptied, it would prove nothing. Raises PrimaryUnsound, InUse, StorageError.
    """
    try:
        sqlitefile.refuse_foreign_super_journal(run.layout)
        marker = sqlitefile.read_marker(run.layout)
        if marker is not None:
            _check(run, marker.format)
            return PrimaryProof(work.conversion_id, f"every row of the primary is {marker.format}")
        for candidate in (manifest.source_format, manifest.target_format):
            if candidate is not None and _fits(run, candidate):
                return PrimaryProof(work.conversion_id, f"every row of the primary is {candidate}")
    except (errors.Refused, errors.Failed) as error:
        if error.retryable:
            raise
        raise _unsound(run.layout, error.message) from error
    raise _unsound(
        run.layout, "it has no marker, and no rows in a format that the backup speaks of"
    )


def _check(run: Run, format: Format) -> int:
    return registry.get(format.engine).check(run, run.primary, format, tolerate_forbidden=True)


def _fits(run: Run, candidate: Format) -> bool:
    try:
        return _check(run, candidate) > 0
    except (errors.Refused, errors.VerificationFailed):
        return False


def _unsound(layout: Layout, why: str) -> errors.PrimaryUnsound:
    return errors.PrimaryUnsound(
        f"the database itself is not known to be sound: {why}",
        operation=_OPERATION,
        path=layout.primary,
        hint="Nothing was deleted: the backup may be the only good copy. Look at the database first "
        "(storageformat verify), or restore the backup.",
    )


def delete_preimage(
    work: WorkDirectory, manifest: Manifest, held: lease.WriteLease, proof: PrimaryProof
) -> None:
    """Delete ``work``'s pre-image. The only place in this project that deletes one.

    Raises InUse (the lease is gone: somebody waits for the file), StrayWrites (it is not what the manifest
    says), OSError. The pre-image is still there then, but for an OSError of the fsync that makes it durable that it is not.
    """
    if proof.conversion_id != work.conversion_id or manifest.conversion_id != work.conversion_id:
        raise AssertionError("a proof of another conversion")
    require_untouched(work, manifest, held)
    durable.unlink(work.preimage)
    durable.fsync_directory(work.path)


def require_untouched(work: WorkDirectory, manifest: Manifest, held: lease.WriteLease) -> None:
    """Nobody has the pre-image open, and nobody wrote to it since it was replaced.

    ``held`` is a lease on it. Raises InUse, StrayWrites, OSError.
    """
    if not os.path.samestat(os.lstat(work.preimage), held.stat()):
        raise AssertionError("a lease on another file")
    if not held.held():
        raise errors.InUse(
            "another process has the old file open",
            operation=_OPERATION,
            path=work.preimage,
            hint="It is kept, and the database is complete without it. It goes once that process has closed it.",
        )
    # Another inode or time with the same content is a copy: no hard links here, or a restored volume.
    as_noted = FileStat.of(held.stat()) == manifest.source
    if not as_noted and durable.digest(held.descriptor) != manifest.source_digest:
        raise errors.StrayWrites(
            "the old file was written to after it had been replaced",
            operation=_OPERATION,
            path=work.preimage,
            hint="Nothing was deleted, and the database is in place; compare it with the kept file.",
        )


def retain(layout: Layout, work: WorkDirectory, manifest: Manifest) -> WorkDirectory:
    """Keep the pre-image as a backup: ``work/<id>`` becomes ``backups/<id>``. Raises OSError.

    The manifest says until when before the directory moves, so that a crash between repeats the move.
    """
    durable.unlink(work.staging)  # there still is one where the swap was not ours
    until = None if manifest.pinned else clock.at(end_of_time(manifest.retain_for))
    replace(manifest, retain_until=until).save(work)
    durable.make_directory(layout.backups)
    target = WorkDirectory(layout.backups / work.conversion_id)
    durable.rename(work.path, target.path)
    durable.fsync_directory(layout.backups)
    durable.fsync_directory(layout.work)
    return target


def end_of_time(retain_for: float) -> float:
    """Seconds since the epoch; "a million years" means the last moment that can be written."""
    return min(clock.parse(clock.now()) + retain_for, clock.LAST)


def quarantine(layout: Layout, work: WorkDirectory, file: Path, name: str) -> Path:
    """Move ``file`` to a place where nobody deletes it. Raises OSError."""
    durable.make_directory(layout.quarantine)
    directory = layout.quarantine / work.conversion_id
    durable.make_directory(directory)
    target = directory / name
    number = 1
    while durable.exists(target) and not os.path.samestat(os.lstat(target), os.lstat(file)):
        number += 1
        target = directory / f"{name}.{number}"
    durable.move(file, target)
    return target


def clear(work: WorkDirectory) -> None:
    """Remove a work directory that holds no pre-image any more. Raises OSError, UnreadableManifest.

    The manifest goes last: without one, whatever else is left could not be told apart.
    """
    try:
        names = sorted(os.listdir(work.path))
    except FileNotFoundError:
        return
    if work.preimage.name in names:
        raise errors.UnreadableManifest(
            "there is a pre-image where none was left",
            operation="clean up",
            path=work.path,
            hint="Nothing was deleted. Find out who put it there, and compare it with the database by hand.",
        )
    for name in names:
        if work.path / name != work.manifest:
            durable.unlink(work.path / name)
    durable.fsync_directory(work.path)
    durable.unlink(work.manifest)
    durable.remove_directory(work.path)
