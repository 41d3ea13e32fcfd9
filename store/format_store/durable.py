"""The one module that knows how bytes become durable.

Nothing else in this package calls ``fsync``, ``rename``, ``link``, ``unlink`` or ``rmdir``
(``tests/unit/test_durable_only.py`` reads the sources). The rules it follows:

* A name is durable once its directory is fsynced, content once the file is (fsync(2), open(2)).
* A failed fsync is final: the kernel may have dropped the dirty pages, and a second fsync then succeeds
  over data that is gone ("fsyncgate", PostgreSQL wiki). Nothing here retries; the caller discards.
* A failed ``close`` counts as a failed write (NFS reports there).

All functions raise ``OSError``; callers wrap it with the operation they were in.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from format_store.layout import STATE_SUFFIX

_CHUNK = 1 << 20
#: work/<id>/<file>, and the state directory that it is in.
_DEPTH = 3
_KERNEL_CHUNK = 64 << 20
_NO_KERNEL_COPY = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV})
_SYNC_FILE_RANGE_WRITE = 2
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def fsync_descriptor(descriptor: int) -> None:
    os.fsync(descriptor)


def fsync_file(path: Path) -> None:
    """Make the content of ``path`` durable.

    Opens and closes a descriptor: never call it for a database that this process has open in SQLite,
    whose POSIX locks would go with the close (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Make the names in ``path`` durable.

    A database's directory may be a symbolic link (images have such); that the state directory is none is
    checked where the lock is taken.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def let_go(descriptor: int) -> None:
    """Close a descriptor through which nothing was written: a lock's, a lease's, a reader's.

    The kernel has let go of it whatever it answers (close(2), "Dealing with error returns"), and no byte depends
    on it: what has been done is done, and is not to be told as failed.
    """
    with suppress(OSError):
        os.close(descriptor)


def require_no_link(path: Path) -> None:
    """Refuse a path in a state directory where that, or a directory in it, has become a link.

    Checked when the lock is taken as well; but whoever may write beside the database can swap a directory for a
    link at any time, and what is made, replaced or cleared up then would be theirs to choose.
    Raises NotADirectoryError, OSError.
    """
    parents = list(path.parents)[:_DEPTH]
    for at, parent in enumerate(parents):
        if parent.name.endswith(STATE_SUFFIX):
            for inner in parents[: at + 1]:
                if not stat.S_ISDIR(os.lstat(inner).st_mode):
                    raise NotADirectoryError(
                        errno.ENOTDIR, "is no directory any more", os.fspath(inner)
                    )
            return


def make_directory(path: Path) -> None:
    """Create ``path`` (0700), owned as its parent's state directory is, and make its name durable."""
    require_no_link(path)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        # Perhaps of a run that was killed right here: what follows is done again.
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
    # Whatever has come into its place since is not given away: only a directory, by its descriptor.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _adopt_owner(descriptor, path.parent)
    finally:
        os.close(descriptor)
    fsync_directory(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one atomic step: readers see the old content or the new."""
    temporary = _temporary(path)
    descriptor = _create(temporary)
    try:
        try:
            _adopt_owner(descriptor, path.parent)
            _write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        unlink(temporary)  # a full disk is not helped by what did not fit on it
        raise
    fsync_directory(path.parent)


def read_file(path: Path, limit: int) -> bytes | None:
    """All of a regular file of up to ``limit`` bytes; None for anything else but a directory.

    A link is not followed, and a FIFO that somebody put there neither waited for nor believed. Raises FileNotFoundError,
    IsADirectoryError, OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return None
        raise
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(kind):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        let_go(descriptor)
    return data if len(data) <= limit else None


def link(source: Path, target: Path) -> bool:
    """Give ``source`` a second name; False where this filesystem has no hard links (or has no more)."""
    require_no_link(target)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_HARD_LINKS:
            return False
        raise
    return True


def has_hard_links(directory: Path) -> bool:
    """Whether ``link`` can give a file in ``directory`` a second name. Makes no name, not for a moment.

    Asks for a second name of a file without any, opened so that it can never get one: where there are hard
    links that is ENOENT (vfs_link in Linux's fs/namei.c), elsewhere "not supported". False where the
    question cannot be asked (O_TMPFILE is not supported): space for a copy has to be there, then.
    """
    try:
        descriptor = os.open(
            directory, os.O_TMPFILE | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600
        )
    except OSError:
        return False
    try:
        os.link(
            f"/proc/self/fd/{descriptor}",
            directory / f".{os.urandom(8).hex()}",
            src_dir_fd=descriptor,  # linkat(2): only that follows the link in /proc
            follow_symlinks=True,
        )
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    raise AssertionError("a file that may get no name got one")


def measure_writing(directory: Path, data: bytes, repeats: int) -> float | None:
    """Seconds that writing ``data`` so many times and one fsync take on ``directory``'s filesystem.

    Into a file that never has a name (O_TMPFILE), so that nothing is left whatever happens; None where
    the filesystem has no such files.
    """
    try:
        descriptor = os.open(
            directory, os.O_TMPFILE | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600
        )
    except OSError:
        return None
    try:
        begun = time.perf_counter()
        for _ in range(repeats):
            _write(descriptor, data)
        os.fsync(descriptor)
        return time.perf_counter() - begun
    finally:
        os.close(descriptor)


def copy_descriptor(
    source: int,
    target: Path,
    checkpoint: Callable[[int], None] = lambda _copied: None,
    *,
    share: bool = True,
) -> None:
    """Copy content and metadata to ``target``, which appears whole and durable, or not at all.

    Takes a descriptor, because opening the source's path again would break a lease that is held on it.
    ``checkpoint`` is called with the bytes copied so far, and may raise. ``share``: whether the kernel may let the two
    share blocks of the disk.
    """
    temporary = _temporary(target)
    writer = _create(temporary)
    try:
        try:
            offset = _share_or_copy(source, writer, checkpoint) if share else 0
            while chunk := os.pread(source, _CHUNK, offset):
                _write(writer, chunk)
                offset += len(chunk)
                checkpoint(offset)
            copy_metadata(source, writer)
            os.fsync(writer)
        finally:
            os.close(writer)
        os.rename(temporary, target)
    except BaseException:
        unlink(temporary)
        raise
    fsync_directory(target.parent)


def _share_or_copy(source: int, writer: int, checkpoint: Callable[[int], None]) -> int:
    """Let the kernel copy, or share blocks where the filesystem can (copy_file_range(2)): bytes done so far.

    Where it cannot, that is fewer than all, and the caller goes on by hand.
    """
    offset = 0
    try:
        while count := os.copy_file_range(source, writer, _KERNEL_CHUNK, offset_src=offset):
            offset += count
            checkpoint(offset)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    return offset


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _create(temporary: Path) -> int:
    """A new file, whatever a killed run (or somebody else: a link, a FIFO) left under its name."""
    require_no_link(temporary)
    unlink(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(temporary, flags, 0o600)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def copy_metadata(source: int | Path, target: int) -> None:
    """Owner, mode and extended attributes (POSIX ACLs among them) from ``source`` to a descriptor.

    ``source`` is a path where a descriptor of ours must not be closed: its file is open in SQLite.
    Owner first: chown clears set-id bits. Times are not copied: the file is newer, and backup tools
    that go by mtime must see that.
    """
    found = os.stat(source)
    if os.fstat(target).st_uid != found.st_uid or os.fstat(target).st_gid != found.st_gid:
        os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return
        raise
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            # Labels of a security module are set by policy, not by us; user.* and ACLs must carry over.
            if not name.startswith("security.") or error.errno not in (
                errno.EPERM,
                errno.EACCES,
                errno.ENOTSUP,
            ):
                raise


def exists(path: Path) -> bool:
    """Whether the name exists. Only "not there" means no: EIO and EACCES are errors, and are raised.

    ``os.path.lexists`` says False for those as well, which once made recovery take a pre-image for deleted.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def rename(source: Path, target: Path) -> None:
    """Atomic on one filesystem (rename(2)); EXDEV is an error, never a copy (so not ``shutil.move``)."""
    require_no_link(source)
    require_no_link(target)
    os.rename(source, target)


def move(source: Path, target: Path) -> None:
    """Move a file to another directory, durably; whenever the power goes it has one of the names, or both.

    A rename between two directories may reach the disk in one of them only. ``target`` may be the file's
    second name already, of a run that was killed in here. Where there are no hard links it is a rename.
    """
    require_no_link(source)
    require_no_link(target)
    linked = exists(target) or link(source, target)
    if not linked:
        os.rename(source, target)
    fsync_directory(target.parent)
    if linked:
        os.unlink(source)
    fsync_directory(source.parent)


def unlink(path: Path) -> None:
    """Remove one name; it may be gone already. Pre-images go through ``backups.delete_preimage`` only."""
    if not exists(path):
        return
    require_no_link(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def remove_directory(path: Path) -> None:
    """Remove an empty directory and make that durable; it may be gone already."""
    if exists(path):
        require_no_link(path)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return
    fsync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, or what has come into its place, and make that durable; follows no link.

    For throw-away copies only (a rehearsal's): pre-images and backups never go this way.
    """
    import shutil

    require_no_link(path)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)  # rmtree would wait for the other end of a FIFO that somebody put there
    fsync_directory(path.parent)


def start_writeback(path: Path) -> None:
    """Ask the kernel to begin writing ``path`` out, so that the fsync at the end finds little to do.

    A hint (sync_file_range(2) with SYNC_FILE_RANGE_WRITE): it waits for nothing and promises nothing, so
    that it is done without where the C library does not have it.
    """
    import ctypes

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is None:
        return
    with suppress(OSError):  # what is the matter with the file is told by the fsync
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            call(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(descriptor)


def digest(descriptor: int, checkpoint: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of the whole file behind ``descriptor``, as ``sha256:<hex>``.

    ``checkpoint`` is called for every megabyte and may raise: a large file takes seconds.
    """
    import hashlib

    hasher = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        checkpoint()
        hasher.update(view[:count])
        offset += count
    return f"sha256:{hasher.hexdigest()}"


def _adopt_owner(descriptor: int, directory: Path) -> None:
    """Files in the state directory belong to whom it belongs to, also when root made them.

    Otherwise an app that opens its own database through this package could not read what a sidecar
    running as root left behind. By descriptor: a path may lead to somebody else's file a moment later.
    """
    owner = os.stat(directory)
    if owner.st_uid != os.geteuid() and os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
