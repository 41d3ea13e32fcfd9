"""What the SQL of a migration may do, and what it has done (https://www.sqlite.org/c3ref/set_authorizer.html).

SQLite asks for every table, function and pragma that a statement, or a trigger that it fires, would use. What is
not listed here is denied. The answers also tell which tables a migration has touched: all others are compared
with the source afterwards.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from format_store.engines.sqlitedict.schema import fold
from format_store.formats import MARKER_NAME

_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_ROWS = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
#: Actions whose first argument is the object itself.
_OBJECTS = frozenset({
    sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_CREATE_VIEW, sqlite3.SQLITE_DROP_VIEW,
    sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_DROP_TEMP_TABLE,
    sqlite3.SQLITE_CREATE_TEMP_VIEW, sqlite3.SQLITE_DROP_TEMP_VIEW,
    sqlite3.SQLITE_CREATE_VTABLE, sqlite3.SQLITE_DROP_VTABLE,
})  # fmt: skip
#: Actions whose first argument is the object, and whose second is its table.
_PARTS = frozenset({
    sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_DROP_TRIGGER,
    sqlite3.SQLITE_CREATE_TEMP_INDEX, sqlite3.SQLITE_DROP_TEMP_INDEX,
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER, sqlite3.SQLITE_DROP_TEMP_TRIGGER,
})  # fmt: skip
_UPKEEP = frozenset({sqlite3.SQLITE_ANALYZE, sqlite3.SQLITE_REINDEX})
_SCHEMA = frozenset({"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"})
#: Virtual tables that keep all they hold in tables of this file, where it can be seen.
_MODULES = frozenset({"fts3", "fts4", "fts5", "geopoly", "rtree", "rtree_i32"})
#: Those that only answer.
_ASKING = frozenset({
    "foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo", "integrity_check",
    "quick_check", "table_info", "table_list", "table_xinfo",
})  # fmt: skip
#: Those that answer, as long as they are given nothing; FTS5 and R-tree ask them themselves.
_ASKING_WITHOUT_VALUE = frozenset({"data_version", "encoding", "page_count", "page_size"})
#: Those that mean nothing inside a transaction, where every migration runs. Many scripts have them.
_IDLE = frozenset({"defer_foreign_keys", "foreign_keys"})
#: Numbers in the file's header that belong to the application.
HEADER = ("application_id", "user_version")
_FUNCTIONS_DENIED = frozenset({"edit", "fts3_tokenizer", "load_extension", "readfile", "writefile"})


class Guard:
    """An authorizer. ``touched``: the names (folded) of all tables, indexes, views and triggers that were changed
    in any way; ``header``: the numbers in the file's header; ``altered``: the tables of ALTER statements, which
    also rewrite whatever speaks of them.

    ``protected``: names (folded) that may be read only. ``denied``: the first thing that was denied, in words.
    """

    def __init__(self, protected: frozenset[str] = frozenset()) -> None:
        self.touched: set[str] = set()
        self.header: set[str] = set()
        self.altered: set[str] = set()
        self.denied: str | None = None
        self._protected = protected | {MARKER_NAME}
        self._reading = False

    @contextmanager
    def over(self, connection: sqlite3.Connection, *, reading: bool = False) -> Iterator[None]:
        """Ask this guard for whatever ``connection`` prepares; ``reading``: allow nothing but queries."""
        self._reading = reading
        connection.set_authorizer(self)
        try:
            yield
        finally:
            connection.set_authorizer(None)

    def __call__(
        self, action: int, first: str | None, second: str | None, *_where: str | None
    ) -> int:
        why = self._against(action, first or "", second or "", given=second is not None)
        if why is None:
            return sqlite3.SQLITE_OK
        self.denied = self.denied or why
        return sqlite3.SQLITE_DENY

    def _against(self, action: int, first: str, second: str, *, given: bool) -> str | None:
        if action in _READS:
            return None
        if action == sqlite3.SQLITE_FUNCTION:
            return f"the function {second}" if fold(second) in _FUNCTIONS_DENIED else None
        if action == sqlite3.SQLITE_PRAGMA:
            return self._against_pragma(fold(first), given=given)
        # Asked for whatever makes or drops something, and for a table-valued function; a statement that itself
        # would write there is refused by SQLite (`writable_schema` is off).
        if action == sqlite3.SQLITE_UPDATE and fold(first) in _SCHEMA:
            return None
        if self._reading:
            return "anything but a query"
        return self._against_change(action, first, second)

    def _against_pragma(self, name: str, *, given: bool) -> str | None:
        if name in _ASKING or (name in (*_ASKING_WITHOUT_VALUE, *HEADER) and not given):
            return None
        if name in _IDLE and not self._reading:
            return None
        if name in HEADER and not self._reading:
            self.header.add(name)
            return None
        return f"PRAGMA {name}"

    def _against_change(self, action: int, first: str, second: str) -> str | None:
        if action in _UPKEEP:
            return None
        if action in _ROWS:
            return None if fold(first) in _SCHEMA else self._touch(first)
        if action == sqlite3.SQLITE_CREATE_VTABLE and fold(second) not in _MODULES:
            return f"virtual tables of the module {second}"
        if action in _OBJECTS:
            return self._touch(first)
        if action in _PARTS:
            return self._touch(first) or self._touch(second)
        if action == sqlite3.SQLITE_ALTER_TABLE:
            self.altered.add(fold(second))
            return self._touch(second)
        return {
            sqlite3.SQLITE_ATTACH: "ATTACH",
            sqlite3.SQLITE_DETACH: "DETACH",
            sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK (every migration is a transaction)",
            sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT and RELEASE (every migration is a transaction)",
        }.get(action, f"action {action}")

    def _touch(self, name: str) -> str | None:
        folded = fold(name)
        if folded in self._protected:
            return f"changing {name}"
        self.touched.add(folded)
        return None
