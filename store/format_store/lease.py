"""Write leases: the kernel's word that nobody else has a file open.

An idle SQLite connection holds no lock, so SQLite's own locks cannot tell that one exists; one that
writes after the swap would write into the wrong file. ``fcntl(F_SETLEASE, F_WRLCK)`` fails while any
other descriptor for the file is open, and while it is held the kernel makes openers wait
(fcntl(2), "Leases"). Traps, each met:

* the default signal on a lease break (SIGIO) kills the process: another one is chosen *before* the lease;
* an opener that waits has already resolved the old inode: after the swap it writes there. So the lease
  is held over the rename and asked afterwards (``held``);
* our own second ``open`` of the file breaks our own lease, and forked children that inherit a
  descriptor make it fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from format_store import durable, errors
from format_store.patience import patiently

#: Its default action is "ignore", and nobody uses it for anything but out-of-band data on sockets.
_HARMLESS_SIGNAL = signal.SIGURG

_IN_USE_HINT = "Nothing was changed. Stop the process that has it open (fuser, lsof) or wait for it, and try again."


class WriteLease:
    """One descriptor on a file and the write lease on it. Use as a context manager."""

    def __init__(self, path: Path, descriptor: int, *, checked: bool) -> None:
        self.path = path
        self.descriptor = descriptor
        self._checked = checked

    def held(self) -> bool:
        """False as soon as somebody waits in ``open()`` for this file (or the lease was broken)."""
        if not self._checked:
            return True
        return fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) == fcntl.F_WRLCK

    def stat(self) -> os.stat_result:
        return os.fstat(self.descriptor)

    def release(self) -> None:
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            durable.let_go(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def take(path: Path, *, operation: str, unchecked: bool = False) -> WriteLease:
    """Open ``path`` and take a write lease on it.

    ``unchecked`` is the person's word that nobody else opens the file, for filesystems without leases:
    a lease is then used where there is one and done without where there is none.

    Raises InUse (somebody has it open, or this process itself), WrongUser (not the owner, no CAP_LEASE), LeasesUnsupported,
    SymbolicLink, StorageError.
    """
    refuse_own_descriptors(path, operation=operation)
    try:
        # O_NONBLOCK: where somebody else holds a lease, fail soon instead of waiting for them.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = patiently(lambda: os.open(path, flags))
    except OSError as error:
        raise _open_error(error, path, operation) from error
    try:
        checked = _lease(descriptor, path, operation, unchecked=unchecked)
    except BaseException:
        os.close(descriptor)
        raise
    return WriteLease(path, descriptor, checked=checked)


def refuse_own_descriptors(path: Path, *, operation: str) -> None:
    """Raise InUse if this very process has the file open.

    Opening and closing it once more would drop the POSIX locks of that other connection, in the middle of
    its transaction (https://www.sqlite.org/howtocorrupt.html, 2.2). So look without opening.
    """
    if is_open_here(path):
        raise errors.InUse(
            "another connection of this process has it open",
            operation=operation,
            path=path,
            hint="Nothing was changed. Close it first (SqliteDict.close()), and try again.",
        )


def is_open_here(path: Path) -> bool:
    """Whether a descriptor of this process leads to the file."""
    try:
        wanted = os.stat(path, follow_symlinks=False)
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            found = os.stat(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if os.path.samestat(found, wanted):
            return True
    return False


def _lease(descriptor: int, path: Path, operation: str, *, unchecked: bool) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, _HARMLESS_SIGNAL)
        patiently(lambda: fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EBUSY):
            raise errors.InUse(
                "another process, or another connection of this one, has it open",
                operation=operation,
                path=path,
                hint=_IN_USE_HINT,
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise errors.WrongUser(
                f"owned by {os.fstat(descriptor).st_uid}, and this process (uid {os.geteuid()}) "
                "may take no lease on it",
                operation=operation,
                path=path,
                hint=f"Nothing was touched. Run as uid {os.fstat(descriptor).st_uid} "
                "(securityContext.runAsUser on the sidecar).",
            ) from error
        if unchecked:
            return False
        raise errors.LeasesUnsupported(
            f"this filesystem gives no write lease ({error.strerror}), so that other openers of the "
            "file cannot be excluded",
            operation=operation,
            path=path,
            hint="Nothing was touched. If nothing else can open the file, say so: --openers-unchecked, "
            "or spec.database.openersUnchecked: true.",
        ) from error
    return True


def _open_error(error: OSError, path: Path, operation: str) -> errors.StoreError:
    if error.errno == errno.EAGAIN:
        return errors.InUse(
            "another process holds a lease on it", operation=operation, path=path, hint=_IN_USE_HINT
        )
    if error.errno == errno.ELOOP:
        return errors.SymbolicLink(
            "is a symbolic link",
            operation=operation,
            path=path,
            hint="Nothing was touched. Name the file itself.",
        )
    return errors.from_os_error(error, operation=operation, path=path)
