"""The copy's structure: its pages, the order of what is in them, every CHECK, and an index entry for each row.

SQLite's ``integrity_check`` does all of it, and looks each row up in its index, in the order of the table. For
as long as the index fits in the page cache that is the quickest way; beyond, each row costs a read, and ten
times the rows cost thirty times as long. So for large copies the same is found out in another order:
``quick_check`` for everything but the entries, and for these, batch after batch of rows, sorted by key, looked
up from one end of the index to the other. If each row has its entry, and there are no more entries than rows,
then the index is that of the table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from format_store.sqlitefile import quote_name

#: For an index that fits in, lookups cost no reads; SQLite's own default is 2 MB.
_CACHE_KIB = 64 * 1024
#: From this size on, most of the index of a file of small records does not fit in.
_LARGE_BYTES = 512 << 20
#: So many rows are sorted at a time, of which so much is sorted at once.
_BATCH = 500_000
_SORTED_KIB = 16 * 1024


def findings(connection: sqlite3.Connection, converted: Iterable[str], kept: Iterable[str]) -> str:
    """What is wrong, in words; empty if nothing is. ``converted`` and ``kept`` are the names of all tables.

    Raises sqlite3.Error.
    """
    connection.execute(f"PRAGMA main.cache_size=-{_CACHE_KIB}")
    pages, size = (
        connection.execute(f"PRAGMA main.{name}").fetchone()[0]
        for name in ("page_count", "page_size")
    )
    if pages * size < _LARGE_BYTES:
        return integrity(connection)
    found = _told(connection, "PRAGMA main.quick_check(5)")
    for table in kept:
        found = found or _told(connection, f"PRAGMA main.integrity_check({quote_name(table)})")
    connection.execute(f"PRAGMA main.cache_size=-{_SORTED_KIB}")
    for table in converted:
        found = found or _keys_without_entry(connection, table)
    return found


def integrity(connection: sqlite3.Connection) -> str:
    """SQLite's own look at everything, in words; empty if nothing is wrong. Raises sqlite3.Error."""
    return _told(connection, "PRAGMA main.integrity_check(5)")


def _told(connection: sqlite3.Connection, pragma: str) -> str:
    told = connection.execute(pragma).fetchall()
    return "" if told == [("ok",)] else "; ".join(str(line) for (line,) in told)


def _keys_without_entry(connection: sqlite3.Connection, table: str) -> str:
    name, index = quote_name(table), quote_name(f"sqlite_autoindex_{table}_1")
    rows = entries = 0
    first: int | None = None
    while True:
        since = "" if first is None else f"WHERE rowid > {first}"
        last, count = connection.execute(
            f"SELECT max(rowid), count(*) FROM (SELECT rowid FROM main.{name} NOT INDEXED {since} "
            f"ORDER BY rowid LIMIT {_BATCH})"
        ).fetchone()
        if last is None:
            break
        # GROUP BY for its sorting; keys are unique, and where they are not there is a row too few.
        entries += connection.execute(
            f"SELECT count(*) FROM (SELECT key AS k, rowid AS r FROM main.{name} NOT INDEXED "
            f"{since or 'WHERE 1'} AND rowid <= {last} GROUP BY key) "
            f"CROSS JOIN main.{name} AS i INDEXED BY {index} ON i.key = k AND i.rowid = r"
        ).fetchone()[0]
        rows, first = rows + count, last
    (stored,) = connection.execute(
        f"SELECT count(*) FROM main.{name} INDEXED BY {index}"
    ).fetchone()
    if entries == rows == stored:
        return ""
    return (
        f"table {table!r} has {rows:,} rows, {stored:,} index entries, and {entries:,} that match"
    )
