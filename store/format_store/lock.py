"""One conversion or recovery of a database at a time.

``flock(2)`` on a file that never moves and is never deleted: it goes with its holder, so that a killed
process leaves nothing behind, and a file from before a reboot means nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from format_store import durable, errors
from format_store.layout import Layout
from format_store.patience import patiently

_OPERATION = "lock"


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Hold the database's lock while the body runs.

    Creates the state directory where it is missing. Raises Locked (somebody else holds it),
    UnsafeStateDirectory, and what ``from_os_error`` makes of the rest.
    """
    try:
        if not durable.exists(layout.state):
            durable.make_directory(layout.state)
        require_ours(layout)
        _give_to_owner(layout)
        descriptor = _open(layout)
    except OSError as error:
        raise errors.from_os_error(
            error,
            operation=_OPERATION,
            path=layout.lock,
            hint="The database was not touched. The state directory lies beside it and must be writable.",
        ) from error
    try:
        yield
    finally:
        # By word, not by the close alone: a child that another thread has just forked holds a copy until it executes.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        durable.let_go(descriptor)


def _open(layout: Layout) -> int:
    descriptor = os.open(
        layout.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
    )
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            # The second name of somebody else's file would be given away with the lock, below.
            raise errors.UnsafeStateDirectory(
                "the lock is not a regular file of one name",
                operation=_OPERATION,
                path=layout.lock,
                hint="Nothing was touched. Find out who put it there, and remove it.",
            )
        owner = os.stat(layout.state)
        if os.geteuid() == 0 and found.st_uid != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        try:
            patiently(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise errors.Locked(
                "another conversion or recovery of this database is under way",
                operation=_OPERATION,
                path=layout.primary,
                hint="Nothing was touched. It ends by itself; try again then.",
            ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _give_to_owner(layout: Layout) -> None:
    """What root makes beside somebody's database belongs to them: their application opens it as well.

    Asked each time: a run that was killed before it had given the directory away would lock the owner out.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = os.lstat(layout.primary)
    except FileNotFoundError:
        owner = os.stat(layout.parent)
    if os.lstat(layout.state).st_uid != owner.st_uid:
        os.chown(layout.state, owner.st_uid, owner.st_gid, follow_symlinks=False)


def require_ours(layout: Layout) -> None:
    """A state directory planted by somebody else could make us link, rename or delete their files."""
    found = os.lstat(layout.state)
    if stat.S_ISLNK(found.st_mode):
        raise errors.SymbolicLink(
            "the state directory is a symbolic link",
            operation=_OPERATION,
            path=layout.state,
            hint="Nothing was touched. Find out who put it there, and remove it.",
        )
    if not stat.S_ISDIR(found.st_mode):
        raise errors.UnsafeStateDirectory(
            "the state directory's name is taken by something else",
            operation=_OPERATION,
            path=layout.state,
            hint="Nothing was touched. Move it away.",
        )
    if found.st_dev != os.stat(layout.parent).st_dev:
        raise errors.UnsafeStateDirectory(
            "the state directory is on another filesystem than the database",
            operation=_OPERATION,
            path=layout.state,
            hint="Nothing was touched. Unmount it: renames must stay on one filesystem.",
        )
    trusted = {0, os.geteuid()}
    try:
        trusted.add(os.lstat(layout.primary).st_uid)
    except FileNotFoundError:
        trusted.add(os.stat(layout.parent).st_uid)
    if found.st_uid not in trusted or found.st_mode & 0o022:
        raise errors.UnsafeStateDirectory(
            f"the state directory (uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}) can be "
            "written by somebody who does not own the database",
            operation=_OPERATION,
            path=layout.state,
            hint="Nothing was touched. Make it mode 0700 and the database owner's.",
        )
