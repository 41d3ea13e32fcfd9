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
from format_store import manifest as manifests
from format_store.layout import Layout, WorkDirectory
from format_store.manifest import FileStat, Manifest
from format_store.observer import Backup, Observer

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


def prove_readable(layout: Layout, work: WorkDirectory) -> PrimaryProof | None:
    """The primary, which its application may be using, carries a marker and passes ``quick_check``."""
    sqlitefile.refuse_foreign_super_journal(layout)
    with closing(sqlitefile.connect(layout.primary)) as connection:
        if sqlitefile.marker_of(connection, layout.primary) is None:
            return None
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            return None
    return PrimaryProof(work.conversion_id, "the primary has a marker and passes quick_check")


def delete_preimage(
    work: WorkDirectory, manifest: Manifest, held: lease.WriteLease, proof: PrimaryProof
) -> None:
    """Delete ``work``'s pre-image. The only place in this project that deletes one.

    Raises InUse (the lease is gone: somebody waits for the file), StrayWrites (it is not what the manifest
    says), OSError. Whatever is raised, the pre-image is still there.
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
            hint="The conversion is done and the pre-image is kept. It goes when that process closes it.",
        )
    # Another inode or time with the same content is a copy: no hard links here, or a restored volume.
    as_noted = FileStat.of(held.stat()) == manifest.source
    if not as_noted and durable.digest(held.descriptor) != manifest.source_digest:
        raise errors.StrayWrites(
            "the old file was written to after it had been replaced",
            operation=_OPERATION,
            path=work.preimage,
            hint="Nothing was deleted. The database is converted; compare it with the kept file.",
        )


def retain(layout: Layout, work: WorkDirectory, manifest: Manifest) -> WorkDirectory:
    """Keep the pre-image as a backup: ``work/<id>`` becomes ``backups/<id>``. Raises OSError.

    The manifest says until when before the directory moves, so that a crash between repeats the move.
    """
    durable.unlink(work.staging)  # there still is one where the swap was not ours
    until = None if manifest.pinned else clock.at(_end_of_time(manifest.retain_for))
    replace(manifest, retain_until=until).save(work)
    durable.make_directory(layout.backups)
    target = WorkDirectory(layout.backups / work.conversion_id)
    durable.rename(work.path, target.path)
    durable.fsync_directory(layout.backups)
    durable.fsync_directory(layout.work)
    return target


def _end_of_time(retain_for: float) -> float:
    """Seconds since the epoch; "a million years" means the last moment that can be written."""
    return min(clock.parse(clock.now()) + retain_for, clock.LAST)


def quarantine(layout: Layout, work: WorkDirectory, file: Path, name: str) -> Path:
    """Move ``file`` to a place where nobody deletes it. Raises OSError."""
    durable.make_directory(layout.quarantine)
    directory = layout.quarantine / work.conversion_id
    durable.make_directory(directory)
    target = directory / name
    number = 1
    while durable.exists(target):
        number += 1
        target = directory / f"{name}.{number}"
    durable.rename(file, target)
    durable.fsync_directory(directory)
    durable.fsync_directory(file.parent)
    return target


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

    A backup that is in use or that somebody wrote to stays, and is looked at again the next time; it is
    told (InUse, StrayWrites) once the others have been seen to. The caller holds the lock.
    """
    following: list[float] = []
    problems: list[errors.StoreError] = []
    now = clock.parse(clock.now())
    for work in layout.retained():
        if not durable.exists(work.preimage):
            # Deleted before, but for the rest of the directory.
            clear(work)
            continue
        manifest = _readable_manifest(work)
        if manifest is None or manifest.pinned or manifest.retain_until is None:
            continue
        remaining = clock.parse(manifest.retain_until) - now
        if remaining > 0:
            following.append(remaining)
            continue
        proof = prove_readable(layout, work)
        if proof is None:
            continue
        try:
            with lease.take(work.preimage, operation=_OPERATION, unchecked=unchecked) as held:
                delete_preimage(work, manifest, held, proof)
        except (errors.InUse, errors.StrayWrites) as error:
            problems.append(error)
            continue
        clear(work)
        observer.backup_deleted(manifest.backup(work))
    if problems:
        raise problems[0]
    return min(following, default=None)


def clear(work: WorkDirectory) -> None:
    """Remove a work directory that holds no pre-image any more. Raises OSError, AssertionError.

    The manifest goes last: without one, whatever else is left could not be told apart.
    """
    try:
        names = sorted(os.listdir(work.path))
    except FileNotFoundError:
        return
    if work.preimage.name in names:
        raise AssertionError("a work directory with a pre-image is not cleared")
    for name in names:
        if work.path / name != work.manifest:
            durable.unlink(work.path / name)
    durable.fsync_directory(work.path)
    durable.unlink(work.manifest)
    durable.remove_directory(work.path)
