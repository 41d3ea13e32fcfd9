"""Every error the store raises, and what each one promises about the database.

    StoreError                       operation, path, hint; exit code, reason, whether a retry can help
    ├── UsageError            2      the call or the declared format makes no sense
    │   └── InvalidFormat  NoSuchBackup
    ├── Refused               3      decided before the database was touched; a person changes something
    │   ├── about the file:     SymbolicLink  ExtraHardLinks  NotARegularFile  MountPoint  ReadOnly
    │   │                       WrongUser  UnsafeStateDirectory  LeasesUnsupported  InsufficientSpace
    │   ├── about its content:  NotASQLiteDatabase  NewerSQLiteFormat  SuperJournalElsewhere
    │   │                       UnreadableMarker  NewerMarker  UnknownMarker  MarkerMismatch
    │   │                       UndeclaredFormat  AmbiguousFormat  UnsupportedSchema
    │   ├── about the target:   UnconvertibleKey  UnconvertibleValue
    │   │                       MigrationsDiffer  MigrationFailed
    │   └── about the way back: NoWayBack  NothingToUndo  BackupPinned  BackupUnsound
    ├── TryAgain              75     somebody else is at work, or the conversion was told to stop
    │   └── Locked  InUse  Aborted  CleanUpPending
    ├── Failed                1      the conversion went wrong; the database is as it was
    │   └── VerificationFailed  StorageError  SourceNotSynced  OutOfSpace  OutOfMemory  WorkerFailed  CorruptDatabase
    └── NeedsAttention        4      both copies are kept; a person has to look
        └── PrimaryUnsound  PreimageLost  StrayWrites  OutcomeUnknown  UnreadableManifest

The exit codes are those of ``sysexits.h`` where it has one (75 is EX_TEMPFAIL).
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar


class StoreError(Exception):
    """Base of all errors of this package.

    ``operation`` is the step that failed, ``path`` the file it is about, ``hint`` tells the reader what
    was left untouched and what to do next. ``reason`` is stable CamelCase for status fields.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, operation: str, path: str | os.PathLike[str], hint: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.path = os.fspath(path)
        self.hint = hint

    @property
    def reason(self) -> str:
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.operation} {self.path}: {self.message}"


class UsageError(StoreError):
    """The call itself is wrong; nothing was looked at."""

    exit_code = 2


class InvalidFormat(UsageError):
    """A format that was declared does not exist or has unknown parameters."""


class NoSuchBackup(UsageError):
    """No retained backup has that id."""


# --- refused: decided before the database was touched ------------------------------------------------


class Refused(StoreError):
    """Refused before anything was done to the database."""

    exit_code = 3


class SymbolicLink(Refused):
    """The path, or the state directory beside it, is a symbolic link."""


class ExtraHardLinks(Refused):
    """Another name leads to the same file; a rename would part the two."""


class NotARegularFile(Refused):
    """A directory, device, FIFO or socket stands at the path."""


class MountPoint(Refused):
    """The file is itself a mount (a subPath of one file); rename cannot replace it."""


class ReadOnly(Refused):
    """The directory or the file cannot be written."""


class WrongUser(Refused):
    """This process neither owns the file nor has the capabilities that stand in for that."""


class UnsafeStateDirectory(Refused):
    """The state directory belongs to somebody else, or is not a directory."""


class LeasesUnsupported(Refused):
    """The filesystem gives no write leases, so that other openers cannot be excluded."""


class InsufficientSpace(Refused):
    """Bytes or inodes for the staging copy are missing."""


class NotASQLiteDatabase(Refused):
    """The file is neither empty nor a SQLite database (or it is encrypted)."""


class NewerSQLiteFormat(Refused):
    """A newer SQLite wrote the file in a way that ours must not write."""


class SuperJournalElsewhere(Refused):
    """A journal belongs to a transaction over several files, under another path than ours."""


class UnreadableMarker(Refused):
    """There is a marker, and it cannot be understood; it is never overwritten."""


class NewerMarker(UnreadableMarker):
    """A newer version of this tool wrote the marker."""


class UnknownMarker(UnreadableMarker):
    """The marker names an engine or a parameter that this version does not know."""


class MarkerMismatch(Refused):
    """The tables are not in the format that the marker tells."""


class UndeclaredFormat(Refused):
    """The file has no marker and its rows fit none of the declared formats."""


class AmbiguousFormat(Refused):
    """The file has no marker and its rows fit more than one declared format."""


class UnsupportedSchema(Refused):
    """A schema object depends on a table that would be converted, or a named table is missing."""


class UnconvertibleKey(Refused):
    """A key that the target format cannot hold; names table, row and type."""


class UnconvertibleValue(Refused):
    """A value that the target format cannot hold unchanged; names table, key and type."""


class MigrationsDiffer(Refused):
    """The target's migrations are not the ones that the database has had, and more."""


class MigrationFailed(Refused):
    """A migration's SQL failed, or one of its checks is not true; it ran on a copy."""


class NoWayBack(Refused):
    """A migration that would have to be taken back has no ``down``."""


class NothingToUndo(Refused):
    """Nothing tells what the database was in before, or its last change was no conversion."""


class BackupPinned(Refused):
    """The backup is pinned, and is deleted only after it has been unpinned."""


class BackupUnsound(Refused):
    """The backup is not, byte for byte, what its manifest says; it is not put in the database's place."""


# --- try again -----------------------------------------------------------------------------------------


class TryAgain(StoreError):
    """Nothing is wrong with the database; the same call can succeed later."""

    exit_code = 75
    retryable = True


class Locked(TryAgain):
    """Another conversion or recovery of the same database is under way."""


class InUse(TryAgain):
    """Some process has the database open."""


class Aborted(TryAgain):
    """The caller asked to stop; the staging copy was discarded."""


class CleanUpPending(TryAgain):
    """What was asked for is done; what was left to clear up could not be, and the next run does it."""


# --- failed: the database is as it was -----------------------------------------------------------------


class Failed(StoreError):
    """The conversion failed; the database is as it was."""


class VerificationFailed(Failed):
    """The staging copy does not hold the same records; it was discarded."""


class StorageError(Failed):
    """The operating system reported an error."""

    retryable = True


class SourceNotSynced(StorageError):
    """The disk did not take what the application had written to its database and never synced."""


class OutOfSpace(StorageError):
    """The volume, its inodes or a quota ran out in the middle."""


class OutOfMemory(StorageError):
    """The operating system gave the process no more memory."""


class WorkerFailed(Failed):
    """A worker process that decodes values died."""

    retryable = True


class CorruptDatabase(Failed):
    """SQLite reports that the database itself is damaged."""


# --- needs a person ------------------------------------------------------------------------------------


class NeedsAttention(StoreError):
    """Both copies are kept and nothing is restored without a person's word."""

    exit_code = 4


class PrimaryUnsound(NeedsAttention):
    """The converted database was changed after the swap and does not pass its checks."""


class PreimageLost(NeedsAttention):
    """The database is missing or unreadable and no intact pre-image is there to restore."""


class StrayWrites(NeedsAttention):
    """Somebody wrote into a copy that is not the database any more; it is kept in quarantine."""


class OutcomeUnknown(NeedsAttention):
    """The swap happened, but the disk did not confirm it; both copies are kept."""


class UnreadableManifest(NeedsAttention):
    """The manifest of pending work cannot be understood; nothing was changed."""


SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


def words(error: BaseException) -> str:
    """What an error of the system says, without its number and path; ``MemoryError`` says nothing by itself."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def from_memory_error(
    *, operation: str, path: str | os.PathLike[str], hint: str = ""
) -> OutOfMemory:
    return OutOfMemory(
        "there is no more memory",
        operation=operation,
        path=path,
        hint=hint or "The database is as it was. Give the container more memory and try again.",
    )


def from_os_error(
    error: OSError, *, operation: str, path: str | os.PathLike[str], hint: str = ""
) -> StoreError:
    """Wrap an ``OSError``: out of space is said as such, never as corruption."""
    text = f"{words(error)} (errno {error.errno})"
    # A call by descriptor names that: no path, and nothing to a person.
    if isinstance(error.filename, str | bytes | os.PathLike):
        name = os.fsdecode(error.filename)
        if name != os.fsdecode(path):
            text += f" on {name}"
    if error.errno in SPACE_ERRNOS:
        return OutOfSpace(
            text,
            operation=operation,
            path=path,
            hint=hint or "The database is as it was. Free space on the volume and try again.",
        )
    if error.errno == errno.EROFS:
        return ReadOnly(
            text,
            operation=operation,
            path=path,
            hint=hint
            or "The database is as it was. The volume is mounted read-only: see the kernel's log for the "
            "reason, and mount it read-write.",
        )
    return StorageError(
        text,
        operation=operation,
        path=path,
        hint=hint or "The database is as it was; see the kernel's log for the device behind it.",
    )
