"""What is refused before anything is touched: the file's kind, owner, links, mount, openers and space."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from format_store import durable, errors, lease
from format_store.layout import Layout
from format_store.run import os_errors

_OPERATION = "check"
_INODES_NEEDED = 16
#: Room for the manifest, history, journals and the filesystem's own bookkeeping.
_MARGIN_BYTES = 4 << 20

_CAP_CHOWN = 0
_CAP_LEASE = 28


def look(layout: Layout) -> os.stat_result | None:
    """The file's stat, refused if it is not a regular file; None when there is none. Raises OSError too."""
    path = layout.primary
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise errors.SymbolicLink(
            f"is a symbolic link to {os.readlink(path)}",
            operation=_OPERATION,
            path=path,
            hint="Nothing was touched. Name the file itself: a rename would replace the link.",
        )
    if not stat.S_ISREG(found.st_mode):
        raise errors.NotARegularFile(
            f"is {_kind(found.st_mode)}, not a file",
            operation=_OPERATION,
            path=path,
            hint="Nothing was touched. Name the database file.",
        )
    return found


def require_plain_file(layout: Layout) -> os.stat_result | None:
    """Refuse everything but a regular file of one name that we may replace; None when there is no file.

    Raises SymbolicLink, NotARegularFile, ExtraHardLinks, MountPoint, ReadOnly, WrongUser, StorageError.
    """
    path = layout.primary
    with os_errors(_OPERATION, path, "Nothing was touched. Check the volume behind it."):
        found = look(layout)
        _require_directory(layout)
        if found is None:
            return None
        if (
            os.path.ismount(path)
            or found.st_dev != os.stat(layout.parent).st_dev
            or _is_mounted(path)
        ):
            raise errors.MountPoint(
                "is a mount point of its own",
                operation=_OPERATION,
                path=path,
                hint="Nothing was touched. Mount the directory (without a subPath that names the file): a "
                "mounted file cannot be replaced atomically.",
            )
        _require_owner(path, found)
        if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise errors.ReadOnly(
                "may not be written by this process",
                operation=_OPERATION,
                path=path,
                hint="Nothing was touched. Give its owner write permission, or mount the volume read-write.",
            )
    return found


def require_single_link(layout: Layout, found: os.stat_result) -> None:
    """At rest the primary has one name; another one would silently part from it. Raises ExtraHardLinks."""
    if found.st_nlink > 1:
        raise errors.ExtraHardLinks(
            f"has {found.st_nlink} hard links",
            operation=_OPERATION,
            path=layout.primary,
            hint="Nothing was touched. Remove the other names "
            f"(find {layout.parent} -xdev -inum {found.st_ino}), or copy the file.",
        )


def require_not_open(layout: Layout, *, unchecked: bool) -> None:
    """Ask the kernel whether anybody has the file open. Raises InUse, LeasesUnsupported, WrongUser."""
    lease.take(layout.primary, operation=_OPERATION, unchecked=unchecked).release()


def preimage_bytes(layout: Layout, size: int) -> int:
    """What keeping the old file takes: nothing by hard link, all of it where a copy has to be made."""
    return 0 if durable.has_hard_links(layout.parent) else size


def require_space(layout: Layout, needed: int) -> None:
    """Bytes and inodes beside the database: for the staging copy, SQLite's temporary files, and the old
    file where it has to be copied. Raises InsufficientSpace.
    """
    found = os.statvfs(layout.parent)
    available = found.f_bavail * found.f_frsize
    needed += _MARGIN_BYTES
    if available < needed:
        raise errors.InsufficientSpace(
            f"the conversion needs about {megabytes(needed)} beside the database, "
            f"{megabytes(available)} are free on its volume",
            operation=_OPERATION,
            path=layout.primary,
            hint=f"Nothing was touched. Free or add {megabytes(needed - available)}, and try again.",
        )
    # f_files is 0 where the filesystem makes inodes as it goes (btrfs, some network filesystems).
    if found.f_files and found.f_favail < _INODES_NEEDED:
        raise errors.InsufficientSpace(
            f"the conversion needs {_INODES_NEEDED} inodes, {found.f_favail} are free on its volume",
            operation=_OPERATION,
            path=layout.primary,
            hint="Nothing was touched. Remove files from the volume, and try again.",
        )


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _require_directory(layout: Layout) -> None:
    try:
        os.stat(layout.parent)
    except OSError as error:
        raise errors.from_os_error(
            error,
            operation=_OPERATION,
            path=layout.parent,
            hint="Nothing was touched. The database's directory must exist: check the path and the mount.",
        ) from error
    if os.statvfs(layout.parent).f_flag & os.ST_RDONLY:
        raise errors.ReadOnly(
            "is on a filesystem that is mounted read-only",
            operation=_OPERATION,
            path=layout.primary,
            hint="Nothing was touched. Mount the volume read-write.",
        )
    if not os.access(layout.parent, os.W_OK | os.X_OK):
        raise errors.ReadOnly(
            f"its directory may not be written by uid {os.geteuid()}",
            operation=_OPERATION,
            path=layout.parent,
            hint="Nothing was touched. The conversion makes its files beside the database.",
        )


def _require_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid == os.geteuid():
        return
    capabilities = _effective_capabilities()
    if capabilities >> _CAP_CHOWN & 1 and capabilities >> _CAP_LEASE & 1:
        return
    raise errors.WrongUser(
        f"owned by {found.st_uid}, this process runs as {os.geteuid()}",
        operation=_OPERATION,
        path=path,
        hint=f"Nothing was touched. Set runAsUser: {found.st_uid} on the sidecar (fsGroup is not enough: "
        "only the owner may take a lease and keep the file's owner over the swap).",
    )


def _effective_capabilities() -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("CapEff:"):
                    return int(line.split()[1], 16)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
    return 0


def _is_mounted(path: Path) -> bool:
    """A file bind-mounted from the same filesystem has its directory's device; only mountinfo tells."""
    wanted = os.fspath(path)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                # proc(5): octal escapes for space, tab, newline and backslash.
                mounted = line.split()[4]
                for escape, character in (
                    ("\\040", " "),
                    ("\\011", "\t"),
                    ("\\012", "\n"),
                    ("\\134", "\\"),
                ):
                    mounted = mounted.replace(escape, character)
                if mounted == wanted:
                    return True
    except FileNotFoundError:
        return False
    return False


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "something special"
