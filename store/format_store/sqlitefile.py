"""A SQLite file at rest and how it gets there: header, siblings, settle, marker.

Sources: the file format (https://www.sqlite.org/fileformat2.html), its advice for files one does not trust
(https://www.sqlite.org/security.html) and how files get corrupted (https://www.sqlite.org/howtocorrupt.html).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from format_store import durable, errors, keys, lease
from format_store.formats import MARKER_NAME, Marker, parse_marker
from format_store.layout import Layout
from format_store.patience import patiently

_MAGIC = b"SQLite format 3\x00"
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_KNOWN_FILE_VERSIONS = (1, 2)
_KNOWN_SCHEMA_FORMATS = (0, 1, 2, 3, 4)
#: What the binding raises; the second where SQLite's own message quotes bytes of a damaged schema that are no text.
SQLITE_ERROR = (sqlite3.Error, UnicodeDecodeError)
_ALSO_WHEN_FULL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
#: SQLite's shared memory for a write-ahead log is made in steps of 32 KiB, and btrfs reserves several tree nodes of
#: 16 KiB for making a file: near a quota this is refused while less still fits.
_SMALLEST_ROOM_BYTES = 256 * 1024
#: How long to wait for another connection's lock: longer than a commit, shorter than a person's patience.
_BUSY_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Header:
    """What the first 100 bytes of the file tell. ``page_size`` in bytes; ``wal`` is the persistent mode."""

    page_size: int
    wal: bool
    encoding: int

    @property
    def utf8(self) -> bool:
        return self.encoding in (0, 1)


def read_header(path: Path, *, operation: str) -> Header | None:
    """The header, or None for a file of 0 bytes.

    Reads through a descriptor of its own: call it only while this process has the file not open in SQLite.
    Raises NotASQLiteDatabase, NewerSQLiteFormat, OSError.
    """
    # Not at once: a lease that we have just released may live on in a process that is being started.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = patiently(lambda: os.open(path, flags))
    try:
        data = os.pread(descriptor, 100, 0)
    finally:
        os.close(descriptor)
    if not data:
        return None
    if len(data) < 100 or data[:16] != _MAGIC:
        raise errors.NotASQLiteDatabase(
            "is not a SQLite database (or it is encrypted)",
            operation=operation,
            path=path,
            hint="Nothing was touched. Check the path: it must be the database file itself.",
        )
    (schema_format, encoding) = (
        struct.unpack(">I", data[44:48])[0],
        struct.unpack(">I", data[56:60])[0],
    )
    if (
        not set(data[18:20]) <= set(_KNOWN_FILE_VERSIONS)
        or schema_format not in _KNOWN_SCHEMA_FORMATS
    ):
        raise errors.NewerSQLiteFormat(
            f"was written in a way that SQLite {sqlite3.sqlite_version} must not write "
            f"(file version {data[18]}/{data[19]}, schema format {schema_format})",
            operation=operation,
            path=path,
            hint="Nothing was touched. Use a tool built with the newer SQLite.",
        )
    page_size = struct.unpack(">H", data[16:18])[0]
    return Header(65536 if page_size == 1 else page_size, data[19] == 2, encoding)


class _Connection(sqlite3.Connection):
    """A connection whose ``close`` closes the file, at once.

    SQLite keeps the file open as long as a statement is unfinished (``sqlite3_close_v2``), and the cursor of
    one lives on in the traceback of an error: the next run would find the file in use, by ourselves.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        cursor = super().cursor(factory)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


def connect(path: Path, *, mode: str = "rw") -> sqlite3.Connection:
    """Open a database that may be damaged or hostile. ``mode`` is SQLite's URI mode (``ro``, ``rw``, ``rwc``).

    Schema text is not trusted to call functions, nothing is mapped into memory, and cells are checked.
    Raises what ``require_plain_files`` raises, sqlite3.Error.
    """
    require_plain_files(path)
    connection = sqlite3.connect(
        uri(path, mode),
        uri=True,
        isolation_level=None,
        timeout=_BUSY_TIMEOUT_SECONDS,
        check_same_thread=False,
        factory=_Connection,
    )
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA mmap_size=0")
    know_collations(connection)
    return connection


def attach_source(connection: sqlite3.Connection, path: Path) -> None:
    """Attach the database at ``path``, to be read only, as ``source``. Raises as ``connect`` does."""
    require_plain_files(path)
    connection.execute(f"ATTACH DATABASE {quote_text(uri(path, 'ro'))} AS source")


def require_plain_files(path: Path) -> None:
    """Refuse to let SQLite open what it would follow or wait for, at the path or in a journal's place.

    It follows links, waits for somebody to open the other end of a FIFO, and truncates a write-ahead log that
    may be the second name of somebody else's file. Raises SymbolicLink, NotARegularFile, ExtraHardLinks, StorageError.
    """
    for name in (path, *Layout.of(path).siblings()):
        try:
            durable.require_no_link(name)
            found = os.lstat(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise errors.from_os_error(error, operation="open", path=name) from error
        kind: type[errors.Refused] | None = None
        if stat.S_ISLNK(found.st_mode):
            kind, what = errors.SymbolicLink, "is a symbolic link"
        elif not stat.S_ISREG(found.st_mode):
            kind, what = errors.NotARegularFile, "is not a regular file"
        elif name != path and found.st_nlink > 1:
            kind, what = errors.ExtraHardLinks, f"has {found.st_nlink} hard links"
        if kind is not None:
            raise kind(
                what,
                operation="open",
                path=name,
                hint="It was not opened. Find out who put it there, and remove it.",
            )


def know_collations(connection: sqlite3.Connection) -> None:
    """Register the collations of key encodings that are read only.

    Without them no statement can be prepared that opens the index of such a key column: counting its rows,
    dropping its table, ``integrity_check``.
    """
    connection.create_collation(keys.SLASH_SPAN, keys.compare_with_slash)


def uri(path: Path, mode: str) -> str:
    # Any bytes may be a file's name; two leading slashes would be taken for an authority.
    return f"file:{quote(b'/' + os.fsencode(path).lstrip(b'/'))}?mode={mode}"


@contextmanager
def sqlite_errors(operation: str, path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours: busy is InUse, full is OutOfSpace, damage is CorruptDatabase."""
    try:
        yield
    except SQLITE_ERROR as error:
        raise wrap(error, operation, path) from error


def wrap(
    error: sqlite3.Error | UnicodeDecodeError, operation: str, path: Path
) -> errors.StoreError:
    """The error of ours that stands for one of ``SQLITE_ERROR``."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, UnicodeDecodeError):
        code = sqlite3.SQLITE_CORRUPT
    text = f"{error} ({getattr(error, 'sqlite_errorname', None) or type(error).__name__})"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return errors.InUse(
            f"another connection holds a lock: {text}",
            operation=operation,
            path=path,
            hint="The database is as it was. Wait for the other process, and try again.",
        )
    if code == sqlite3.SQLITE_FULL or (code in _ALSO_WHEN_FULL and _volume_is_full(path)):
        return errors.OutOfSpace(
            text,
            operation=operation,
            path=path,
            hint="The database is as it was. Free space on the volume and try again.",
        )
    if code == sqlite3.SQLITE_INTERRUPT:
        return errors.Aborted(
            "stopped on request",
            operation=operation,
            path=path,
            hint="The database is as it was; the next run begins anew.",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return errors.CorruptDatabase(
            f"SQLite reports damage: {text}",
            operation=operation,
            path=path,
            hint="The file was left as it is. Restore it from a backup, or save what can be read "
            "(sqlite3 .recover) and convert that.",
        )
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return errors.StorageError(
            text,
            operation=operation,
            path=path,
            hint="The database is as it was. Check the volume, its permissions and the kernel's log.",
        )
    return errors.Failed(
        text, operation=operation, path=path, hint="The database is as it was; please report this."
    )


def _volume_is_full(path: Path) -> bool:
    """Whether a small file could not be made beside ``path``; a quota counts.

    SQLite says that it cannot open a journal or write, and not why. Made without a name, so that nothing is left.
    """
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SMALLEST_ROOM_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in errors.SPACE_ERRNOS:
            return True
    # Not everywhere can files be made like that.
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    no_inodes = found.f_files > 0 and found.f_favail == 0
    return no_inodes or found.f_bavail * found.f_frsize < _SMALLEST_ROOM_BYTES


def refuse_foreign_super_journal(layout: Layout) -> None:
    """Refuse a journal that names a super-journal in another directory, before SQLite opens the file.

    A transaction over several attached files leaves journals that name one super-journal by its full
    path. Opened under another mount path, SQLite takes the missing super-journal for "committed", deletes
    the journal and leaves torn rows (seen; ``integrity_check`` says ok). Raises SuperJournalElsewhere, OSError.
    """
    journal = Path(f"{layout.primary}-journal")
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        name = _super_journal(descriptor)
    finally:
        os.close(descriptor)
    if name is None:
        return
    if os.path.dirname(name) != os.path.realpath(layout.parent):
        raise errors.SuperJournalElsewhere(
            f"its journal belongs to a transaction over several files, whose super-journal is {name!r}",
            operation="settle",
            path=journal,
            hint="Nothing was touched. Mount the volume at the path where the application mounts it, or "
            "let the application open its databases once so that the transaction ends.",
        )


def _super_journal(descriptor: int) -> str | None:
    """The super-journal's name at the end of a rollback journal (``readSuperJournal`` in pager.c)."""
    size = os.fstat(descriptor).st_size
    if size < 16:
        return None
    length, checksum, magic = struct.unpack(">II8s", os.pread(descriptor, 16, size - 16))
    if magic != _JOURNAL_MAGIC or not 0 < length <= min(size - 16, 4096):
        return None
    name = os.pread(descriptor, length, size - 16 - length)
    # SQLite adds the bytes up as signed or unsigned chars, by platform: accept either.
    sums = {sum(name) & 0xFFFFFFFF, sum(b - 256 if b > 127 else b for b in name) & 0xFFFFFFFF}
    if checksum not in sums:
        return None
    return os.fsdecode(name.rstrip(b"\x00"))


def settle(layout: Layout) -> str:
    """Bring the file to rest: hot journal rolled back, WAL written into the file, no siblings left.

    Changes bytes, never content; the journal mode stays. Returns it (``wal``, ``delete`` …).
    Raises InUse, CorruptDatabase, StorageError, OutOfSpace.
    """
    path = layout.primary
    refuse_foreign_super_journal(layout)
    with sqlite_errors("settle", path), closing(connect(path)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
        if mode == "wal":
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise errors.InUse(
                    "another connection keeps its write-ahead log from being written back",
                    operation="settle",
                    path=path,
                    hint="Nothing was changed. Stop the process that has it open, and try again.",
                )
        elif any(durable.exists(sibling) for sibling in layout.siblings()):
            # journal_mode=PERSIST and TRUNCATE leave an ended journal behind; leaving PERSIST removes it.
            connection.execute("PRAGMA journal_mode=PERSIST")
            connection.execute("PRAGMA journal_mode=DELETE")
    if mode != "wal":
        _remove_empty_wal(layout)
    require_no_siblings(layout, operation="settle")
    return mode


def _remove_empty_wal(layout: Layout) -> None:
    """A write-ahead log of 0 bytes, or an index without a log, beside a database in another journal mode.

    Nothing is in them, nobody else removes them, and left they would keep the database from ever being at
    rest. Under a lease: nobody has the database open.
    """
    wal, shm = Path(f"{layout.primary}-wal"), Path(f"{layout.primary}-shm")
    if not durable.exists(wal) and not durable.exists(shm):
        return
    if durable.exists(wal) and os.lstat(wal).st_size > 0:
        return
    with lease.take(layout.primary, operation="settle"):
        durable.unlink(wal)
        durable.unlink(shm)
        durable.fsync_directory(layout.parent)


def require_no_siblings(layout: Layout, *, operation: str) -> None:
    """A left-over ``-wal`` or ``-journal`` would be replayed over whatever is swapped in. Raises InUse."""
    for sibling in layout.siblings():
        if durable.exists(sibling):
            raise errors.InUse(
                f"{sibling.name} is there although the database is at rest",
                operation=operation,
                path=layout.primary,
                hint="Nothing was changed. Another process has the database open, or left that file: "
                "let the application open and close the database once.",
            )


def marker_of(connection: sqlite3.Connection, path: Path) -> Marker | None:
    """The marker, or None for an unmarked database. Raises UnreadableMarker and its kinds, sqlite3.Error."""
    rows = connection.execute(
        "SELECT type, sql FROM sqlite_schema WHERE lower(name) = ?", (MARKER_NAME,)
    ).fetchall()
    if not rows:
        return None
    kind, statement = rows[0]
    if len(rows) > 1 or kind != "view" or not isinstance(statement, str):
        raise errors.UnreadableMarker(
            f"there is a {kind} named {MARKER_NAME}, which is not a marker",
            operation="read marker",
            path=path,
            hint=f"Nothing was touched. Rename it: {MARKER_NAME} is the marker's name.",
        )
    return parse_marker(statement, path=os.fspath(path))


def read_marker(layout: Layout) -> Marker | None:
    """Open the primary as its application would (a hot journal is rolled back) and read its marker.

    Raises UnreadableMarker, SuperJournalElsewhere, CorruptDatabase, StorageError, InUse.
    """
    refuse_foreign_super_journal(layout)
    with (
        sqlite_errors("read marker", layout.primary),
        closing(connect(layout.primary)) as connection,
    ):
        return marker_of(connection, layout.primary)


def has_rows(connection: sqlite3.Connection, schema: str = "main") -> bool:
    """Whether any table holds anything."""
    return any(
        connection.execute(f"SELECT EXISTS (SELECT 1 FROM {schema}.{quote_name(name)})").fetchone()[
            0
        ]
        for name in tables_with_rows_of_their_own(connection, schema)
    )


def tables_with_rows_of_their_own(
    connection: sqlite3.Connection, schema: str = "main"
) -> list[str]:
    """Tables, by name: virtual ones show what their shadow tables hold, and need modules that may be missing.

    SQLite's own (sequences of AUTOINCREMENT, statistics) do not count.
    """
    rows = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = ? AND type IN ('table', 'shadow') "
        "AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name",
        (schema,),
    )
    return [str(name) for (name,) in rows.fetchall()]


def quote_name(name: str) -> str:
    """An SQL identifier, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
