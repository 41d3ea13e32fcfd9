"""``open_store``: an application's way into its own database, whatever format the file has.

With ``ensure`` it recovers and converts first, as Oxia does when it opens a database, so that an application
gets crash-safe conversion with no cluster at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict, Unpack

from format_store import conversion, durable, errors, keys, sqlitefile
from format_store.abort import Abort
from format_store.api import PLAIN_SQLITEDICT, convert, recover
from format_store.engines.sqlitedict import schema
from format_store.failpoints import Failpoints
from format_store.formats import Format
from format_store.keys import is_child
from format_store.layout import Layout
from format_store.observer import Observer
from format_store.run import Retention, os_errors
from format_store.typed_sqlitedict import SqliteDict, SqliteMultithread

_OPERATION = "open"
_ENGINE = "sqlitedict"
_TABLE = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?)"
_POLL_SECONDS = 0.05


class ConversionOptions(TypedDict, total=False):
    """What ``open_store`` passes on to ``convert``."""

    retention: Retention
    observer: Observer | None
    abort: Abort | None
    openers_unchecked: bool
    worker_memory: int
    failpoints: Failpoints | None


class Store(SqliteDict):
    """A ``SqliteDict`` that speaks the format of its file, and iterates in key order where asked to.

    Iteration (``keys()``, ``items()`` …) is in insertion order, as ever; ``scan`` and ``children`` are in the
    order of the format's keys. Make one with ``open_store``.
    """

    def __init__(
        self,
        filename: str,
        tablename: str,
        *,
        format: Format,
        synchronous: str,
        flag: str,
        **options: Any,
    ) -> None:
        self.format = format
        self._synchronous = synchronous
        self._encoding = schema.key_encoding(format)
        # For "r" sqlitedict lists the tables over a connection that it leaves to the garbage collector: the
        # file would be in use, by ourselves. With the table there, opening by "c" makes nothing either.
        by_ourselves = flag == "r" and _has_table(filename, tablename)
        super().__init__(
            filename,
            tablename,
            flag="c" if by_ourselves else flag,
            encode_key=self._encoding.encode,
            decode_key=self._encoding.decode,
            **options,
        )
        self.flag = flag

    def _new_conn(self) -> SqliteMultithread:
        connection = super()._new_conn()
        # sqlitedict turns it off; a store that promises to survive power cuts must not.
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        return connection

    def scan(self, start: str | None = None, end: str | None = None) -> Iterator[tuple[str, Any]]:
        """Records with ``start <= key < end`` in key order; None leaves that end open.

        In the hierarchical encoding the order is by depth first, then by name.
        """
        lower = None if start is None else self._encoding.encode(start)
        upper = None if end is None else self._encoding.encode(end)
        yield from self._range(lower, upper)

    def children(self, path: str) -> Iterator[tuple[str, Any]]:
        """Records directly below ``path``, in key order: ``/a/b`` is a child of ``/a``, ``/a/b/c`` is not.

        In the hierarchical encoding they lie side by side, so that this reads nothing else.
        """
        yield from self._range(*self._encoding.range_of_children(path), parent=path)

    def _is_utf8(self) -> bool:
        return bool(self.conn.select_one("PRAGMA encoding") == ("UTF-8",))

    def _range(
        self, lower: str | bytes | None, upper: str | bytes | None, parent: str | None = None
    ) -> Iterator[tuple[str, Any]]:
        conditions = [
            condition
            for condition, bound in (("key >= ?", lower), ("key < ?", upper))
            if bound is not None
        ]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        bounds = tuple(bound for bound in (lower, upper) if bound is not None)
        if where and self._encoding.affinity == "TEXT" and not self._is_utf8():
            raise errors.UsageError(
                "a range of natural keys has no meaning in a database with UTF-16 text",
                operation="scan",
                path=self.filename,
                hint="Convert it to hierarchical keys, or iterate over all keys.",
            )
        rows = self.conn.select(
            f'SELECT key, value FROM "{self.tablename}" {where} ORDER BY key',  # noqa: S608 - quoted by sqlitedict
            bounds,
        )
        for stored_key, stored_value in rows:
            key = self._encoding.decode(stored_key)
            if parent is None or is_child(parent, key):
                yield key, self.decode(stored_value)


def open_store(
    path: str | os.PathLike[str],
    table: str = "unnamed",
    *,
    ensure: Format | None = None,
    unmarked: Sequence[Format] = (PLAIN_SQLITEDICT,),
    flag: str = "c",
    autocommit: bool = False,
    synchronous: str = "FULL",
    pickle_allow: Sequence[str] = (),
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
    timeout: float = 5,
    wait: float = 60.0,
    **conversion_options: Unpack[ConversionOptions],
) -> Store:
    """Open the sqlitedict file at ``path`` in the format that it has, creating it if there is none.

    ``ensure`` names the format that it shall have: pending work is recovered and the file converted first,
    and a new file is made in that format; ``unmarked`` and ``conversion_options`` are those of ``convert``.
    Without ``ensure``, a file without a marker is taken for what plain ``SqliteDict`` writes.

    ``flag`` is sqlitedict's: ``c``, or ``r`` for reading only. ``w`` and ``n`` are refused: they throw records
    away at opening, ``n`` the format and its guards as well. Pickled values are read with a restricted unpickler; ``pickle_allow`` adds classes
    of the standard library, ``encode`` and ``decode`` replace the codec altogether.

    ``wait``: seconds to wait for another process that is converting the same file (an application with
    several workers starts them at once); ``timeout`` is sqlitedict's.

    Raises what ``convert`` and ``recover`` raise, UsageError.
    """
    if flag not in ("c", "r"):
        raise errors.UsageError(
            f"flag {flag!r} is not supported: it throws records away at opening, or means nothing",
            operation=_OPERATION,
            path=path,
            hint="Nothing was touched. Open with 'c' and call clear().",
        )
    layout = Layout.of(path)
    if ensure is not None:
        target = ensure
        if target.engine == _ENGINE:
            schema.require_writable(target, layout.primary)
        options: dict[str, Any] = {"unmarked": unmarked, "pickle_allow": pickle_allow}
        options |= conversion_options
        _patiently(lambda: convert(path, target, **options), wait)
        if not durable.exists(layout.primary) and flag == "c":
            _create_empty(layout)
            _patiently(lambda: convert(path, target, **options), wait)
    elif conversion.pending(layout):
        _patiently(lambda: recover(path), wait)
    found, journal_mode = _prepare(layout, table, create=flag == "c")
    codec = schema.value_format(found, pickle_allow)
    return Store(
        os.fspath(layout.primary),
        table,
        format=found,
        synchronous=synchronous,
        flag=flag,
        autocommit=autocommit,
        journal_mode=journal_mode,
        timeout=timeout,
        encode=encode or codec.encode,
        decode=decode or codec.decode,
    )


def _has_table(filename: str, name: str) -> bool:
    path = Layout.of(filename).primary
    if not durable.exists(path):
        return False
    with (
        sqlitefile.sqlite_errors(_OPERATION, path),
        closing(sqlitefile.connect(_real(path), mode="ro")) as connection,
    ):
        return connection.execute(_TABLE, (name,)).fetchone() is not None


def _real(path: Path) -> Path:
    """An application may name its database by a link, as long as nobody is to convert it; SQLite follows that."""
    return Path(os.path.realpath(path))


def _patiently(attempt: Callable[[], object], wait: float) -> None:
    """Wait while somebody else works on the file; what comes then finds it converted."""
    deadline = time.monotonic() + wait
    while True:
        try:
            attempt()
        except errors.Locked:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return


def _create_empty(layout: Layout) -> None:
    """A file of 0 bytes is an empty SQLite database; O_EXCL, so that nobody's file is touched."""
    with os_errors("create", layout.primary):
        try:
            descriptor = os.open(
                layout.primary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
        except FileExistsError:
            return
        os.close(descriptor)


def _prepare(layout: Layout, table: str, *, create: bool) -> tuple[Format, str]:
    """The file's format and journal mode; makes ``table`` with the format's guards if it is missing."""
    path = layout.primary
    if not durable.exists(path):
        return PLAIN_SQLITEDICT, "DELETE"
    with os_errors(_OPERATION, path):
        sqlitefile.refuse_foreign_super_journal(layout)
    with (
        sqlitefile.sqlite_errors(_OPERATION, path),
        closing(sqlitefile.connect(_real(path))) as connection,
    ):
        marker = sqlitefile.marker_of(connection, path)
        found = marker.format if marker else PLAIN_SQLITEDICT
        if found.engine == "sqlite" and found.parameters[_ENGINE] is not None:
            found = Format(_ENGINE, found.parameters[_ENGINE])
        if found.engine != _ENGINE:
            raise errors.UsageError(
                f"is a database of the engine {found.engine}, not of sqlitedict",
                operation=_OPERATION,
                path=path,
                hint="Nothing was touched. Open it with sqlite3.",
            )
        names = found.parameters["tables"]
        if names is not None and table not in names:
            # The marker speaks of other tables: this one is plain, and a new one will be.
            marker, found = None, PLAIN_SQLITEDICT
        for present in schema.tables(connection):
            if schema.fold(present.name) == schema.fold(
                table
            ) and present.collation != schema.collation(PLAIN_SQLITEDICT):
                raise errors.UsageError(
                    f"the keys of table {table!r} have the collation {present.collation}, which is only read",
                    operation=_OPERATION,
                    path=path,
                    hint="Nothing was touched. Convert it: pass the format to have as `ensure`, and the one with "
                    f"keyEncoding {keys.OldCompareHierarchical.name!r} in `unmarked`.",
                )
        mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
        exists = connection.execute(_TABLE, (table,)).fetchone()
        if create and marker is not None and exists is None:
            connection.execute(schema.create_statement(table, found))
    # Only WAL is a property of the file; the other modes are each connection's own choice.
    return found, "WAL" if mode == "wal" else "DELETE"
