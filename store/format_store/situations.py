"""What is on disk of a piece of work that an earlier run left, told without changing it.

    situation    found                                                   step
    UNBUILT      no manifest, or one that says "building"                discard
    UNSWAPPED    the primary is the old file                             discard
    SWAPPED      the primary is the new file                             complete (after comparing digests)
    CLEANUP      the same, and the pre-image is gone already             clean
    LOST         the primary is missing or no database                   restore the pre-image
    FOREIGN      the primary is neither the old nor the new file         discard, but keep the pre-image

A conversion's new file is known by its marker, which holds the conversion's id. A restoration's is a copy of
a backup, with an older marker or none, so it is known by inode or by every byte. Where both tell (a volume
that was copied has other inodes, an application that wrote has other bytes) one is enough; where neither
does, the file is FOREIGN: it stays, and the pre-image is kept for a person.
"""

from __future__ import annotations

import os
import stat
from enum import Enum

from format_store import durable, errors, lease, sqlitefile
from format_store import manifest as manifests
from format_store.formats import Marker
from format_store.layout import WorkDirectory
from format_store.manifest import Manifest, ManifestPhase
from format_store.run import Run

_OPERATION = "recover"


class Situation(Enum):
    UNBUILT = "unbuilt"
    UNSWAPPED = "unswapped"
    SWAPPED = "swapped"
    CLEANUP = "cleanup"
    LOST = "lost"
    FOREIGN = "foreign"


def examine(run: Run, work: WorkDirectory) -> tuple[Situation, Manifest | None]:
    """Find out which row of the table applies. Raises UnreadableManifest, UnreadableMarker, OSError …"""
    manifest = manifests.load(work)
    has_preimage = durable.exists(work.preimage)
    if manifest is None:
        if has_preimage:
            raise preimage_without_manifest(work)
        return Situation.UNBUILT, None
    if manifest.phase is ManifestPhase.BUILDING and not has_preimage:
        return Situation.UNBUILT, manifest
    judge = _examine_primary if manifest.restores is None else _examine_restored
    return judge(run, work, manifest, has_preimage=has_preimage), manifest


def preimage_without_manifest(work: WorkDirectory) -> errors.UnreadableManifest:
    """Also for one that somebody put there a moment after it was looked for."""
    return errors.UnreadableManifest(
        "there is a pre-image without a manifest",
        operation=_OPERATION,
        path=work.path,
        hint="Nothing was changed. Compare the pre-image with the database by hand.",
    )


def _examine_primary(
    run: Run, work: WorkDirectory, manifest: Manifest, *, has_preimage: bool
) -> Situation:
    found = _look(run, work)
    if found is None:
        return Situation.LOST
    if _is_the_old_file(work, manifest, found, has_preimage=has_preimage):
        return Situation.UNSWAPPED
    try:
        marker = _open(run, work)
    except _Unreadable:
        return Situation.LOST
    if marker is not None and marker.conversion_id == work.conversion_id:
        return Situation.SWAPPED if has_preimage else Situation.CLEANUP
    if not has_preimage:
        return Situation.UNSWAPPED
    with _lease(run) as held:
        if durable.digest(held.descriptor) == manifest.source_digest:
            return Situation.UNSWAPPED
    return Situation.FOREIGN


def _examine_restored(
    run: Run, work: WorkDirectory, manifest: Manifest, *, has_preimage: bool
) -> Situation:
    found = _look(run, work)
    if found is None:
        return Situation.LOST
    if _is_the_old_file(work, manifest, found, has_preimage=has_preimage):
        return Situation.UNSWAPPED
    new_file = manifest.staging is not None and found.st_ino == manifest.staging.inode
    swapped = Situation.SWAPPED if has_preimage else Situation.CLEANUP
    lease.refuse_own_descriptors(run.primary, operation=_OPERATION)
    # Beside a journal the bytes of the file alone say nothing. At rest they say all, and without opening it
    # in SQLite: what was replaced, or is restored, need not be readable.
    if not any(durable.exists(sibling) for sibling in run.layout.siblings()):
        with _lease(run) as held:
            digest = durable.digest(held.descriptor)
        if digest == manifest.source_digest and not new_file:
            return Situation.UNSWAPPED
        if digest == manifest.staging_digest:
            return swapped
    try:
        _open(run, work)
    except _Unreadable:
        return Situation.LOST
    if new_file:
        return swapped
    return Situation.FOREIGN if has_preimage else Situation.UNSWAPPED


def holds_a_database(run: Run, work: WorkDirectory) -> bool:
    """Whether there is a file at the path, and not an empty or a foreign one. Raises NotARegularFile, OSError."""
    if _look(run, work) is None:
        return False
    lease.refuse_own_descriptors(run.primary, operation=_OPERATION)
    try:
        return sqlitefile.read_header(run.primary, operation=_OPERATION) is not None
    except errors.NewerSQLiteFormat:
        return True
    except errors.NotASQLiteDatabase:
        return False


class _Unreadable(Exception):
    """The file holds nothing that is a database."""


def _look(run: Run, work: WorkDirectory) -> os.stat_result | None:
    try:
        found = os.lstat(run.primary)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise errors.NotARegularFile(
            "is not a regular file any more",
            operation=_OPERATION,
            path=run.primary,
            hint=f"Nothing was changed. Find out who put it there; the old database is in {work.path}.",
        )
    return found


def _is_the_old_file(
    work: WorkDirectory, manifest: Manifest, found: os.stat_result, *, has_preimage: bool
) -> bool:
    if has_preimage:
        return os.path.samestat(found, os.lstat(work.preimage))
    return found.st_ino == manifest.source.inode


def _open(run: Run, work: WorkDirectory) -> Marker | None:
    lease.refuse_own_descriptors(run.primary, operation=_OPERATION)
    sqlitefile.refuse_foreign_super_journal(run.layout)
    try:
        if sqlitefile.read_header(run.primary, operation=_OPERATION) is None:
            # Not the old file's inode, and empty: its creation reached the disk and its content did not, or
            # an application began anew (flag 'n'). It holds nothing, and is kept in quarantine.
            raise _Unreadable
        try:
            return sqlitefile.read_marker(run.layout)
        except errors.CorruptDatabase:
            # SQLite tells some errors of a disk as damage. What is damaged is so the second time as well.
            return sqlitefile.read_marker(run.layout)
    except errors.NotASQLiteDatabase as error:
        raise _Unreadable from error
    except errors.CorruptDatabase as error:
        # It has the header of a database: damaged, or written by a newer SQLite with words that ours does
        # not know. To put the old file in its place would be a guess.
        raise errors.PrimaryUnsound(
            f"the database cannot be read: {error.message}",
            operation=_OPERATION,
            path=run.primary,
            hint=f"Both copies are kept and nothing was restored. The pre-image is in {work.path}.",
        ) from error


def _lease(run: Run) -> lease.WriteLease:
    return lease.take(run.primary, operation=_OPERATION, unchecked=run.openers_unchecked)
