"""Tables that no conversion touches: what stands in the way of keeping them, and their rows compared in C.

For comparing, the connection has the copy as ``main`` and the database as ``source``. Rows are joined by rowid or primary key,
and compared by type and bytes: plain ``IS`` and EXCEPT would pass ``'abc'`` for ``'ABC'`` under NOCASE, and 1
for 1.0; ``typeof`` and ``COLLATE BINARY`` do not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from format_store import errors
from format_store.engines.base import Job
from format_store.sqlitefile import quote_name, tables_with_rows_of_their_own


def refuse_unknown_words(
    connection: sqlite3.Connection,
    path: Path,
    converted: Iterable[str] = (),
    *,
    repacked: bool = False,
) -> None:
    """Refuse collations and functions of the application's own, by name. Raises UnsupportedSchema.

    Indexes, CHECKs and generated columns cannot be read or checked without them, and a table cannot be written
    anew (``repacked``) without its columns' collations. Where only triggers, views and defaults use one, nothing
    here asks for it, and the text stays as it is.
    """
    skipped = set(converted)
    for name in tables_with_rows_of_their_own(connection):
        if name in skipped:
            continue
        quoted = quote_name(name)
        # Prepared, and not run: the first takes each column (and compares it), the second each index and CHECK.
        for query in (
            f"SELECT {'DISTINCT ' if repacked else ''}* FROM {quoted}",
            f"PRAGMA main.integrity_check({quoted})",
        ):
            try:
                connection.execute(f"EXPLAIN {query}").close()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
                    raise
                raise _unknown(path, name, str(error)) from error


def _unknown(path: Path, table: str, what: str) -> errors.UnsupportedSchema:
    return errors.UnsupportedSchema(
        f"table {table!r} or an index of it takes something that only its application has ({what})",
        operation="check schema",
        path=path,
        hint="Nothing was touched. Let the application drop that index or column before the conversion, and make "
        "it again afterwards.",
    )


def stores_rows(connection: sqlite3.Connection, name: str, database: str) -> bool:
    """False for virtual tables: what they hold is in their shadow tables, which are compared themselves."""
    kind = connection.execute(
        "SELECT type FROM pragma_table_list(?) WHERE schema = ?", (name, database)
    ).fetchone()
    return kind is None or kind[0] in ("table", "shadow")


def require_same_table(job: Job, connection: sqlite3.Connection, name: str) -> int:
    """Every column of every row, by rowid or primary key; returns the number of rows. Raises VerificationFailed."""
    columns = connection.execute(f"PRAGMA source.table_xinfo({quote_name(name)})").fetchall()
    quoted = [quote_name(str(column[1])) for column in columns]
    keys = _join(connection, name, columns)
    if not keys:
        return _require_equal_bags(job, connection, name, quoted)
    # Joined under the key's own collation, in which it is unique and has its index; what is joined is then
    # compared byte for byte. Under another collation every row would be looked for in the whole table.
    name_ = quote_name(name)
    return require_equal_pairs(
        job, connection, name,
        f"main.{name_} AS a JOIN source.{name_} AS b ON {all_of(keys)} "
        f"WHERE {all_of([equal(column) for column in quoted])}",
        {},
    )  # fmt: skip


def _join(
    connection: sqlite3.Connection, name: str, columns: Sequence[tuple[object, ...]]
) -> list[str]:
    """What makes two rows the same row; empty where a table's columns hide its rowid under all its names."""
    without_rowid = connection.execute(
        "SELECT wr FROM pragma_table_list(?) WHERE schema = 'source'", (name,)
    ).fetchone()
    if without_rowid and without_rowid[0]:
        return [
            f"a.{quote_name(str(column))} = b.{quote_name(str(column))} COLLATE {quote_name(str(by))}"
            for column, by in _primary_key(connection, name)
        ]
    taken = {str(column[1]).lower() for column in columns}
    rowid = next((word for word in ("rowid", "_rowid_", "oid") if word not in taken), None)
    return [] if rowid is None else [f"a.{rowid} = b.{rowid}"]


def _primary_key(connection: sqlite3.Connection, name: str) -> list[tuple[str, str]]:
    """Columns and collations of the key of a table WITHOUT ROWID."""
    for _, index, _, origin, _ in connection.execute(
        f"PRAGMA source.index_list({quote_name(name)})"
    ).fetchall():
        if origin == "pk":
            return [
                (row[2], row[4])
                for row in connection.execute(f"PRAGMA source.index_xinfo({quote_name(index)})")
                if row[5]
            ]
    return []


def equal(column: str) -> str:
    """SQL: a column (quoted) of the rows ``a`` and ``b`` is the same, byte for byte."""
    return f"typeof(a.{column}) = typeof(b.{column}) AND a.{column} IS b.{column} COLLATE BINARY"


def all_of(conditions: Sequence[str]) -> str:
    """SQL: all conditions hold. As a tree: a chain of a thousand is deeper than SQLite lets expressions be."""
    if len(conditions) <= 1:
        return f"({conditions[0]})" if conditions else "(1)"
    middle = len(conditions) // 2
    return f"({all_of(conditions[:middle])} AND {all_of(conditions[middle:])})"


def _require_equal_bags(
    job: Job, connection: sqlite3.Connection, name: str, columns: list[str]
) -> int:
    """A table whose columns hide the rowid: every row as often as in the source."""
    shape = ", ".join(f"typeof({column}), {column} COLLATE BINARY" for column in columns)
    bag = f"SELECT {shape}, count(*) FROM {{}}.{quote_name(name)} GROUP BY {shape}"
    for one, other in (("main", "source"), ("source", "main")):
        query = f"{bag.format(one)} EXCEPT {bag.format(other)}"
        if connection.execute(query).fetchone() is not None:
            raise job.wrong(f"in table {name!r}, rows differ")
    return _count(connection, f"main.{quote_name(name)}")


def require_equal_pairs(
    job: Job, connection: sqlite3.Connection, name: str, pairs: str, parameters: Mapping[str, bytes]
) -> int:
    """As many rows in the copy as in the source, and as many pairs that are equal; returns how many."""
    expected, found = (
        _count(connection, f"{database}.{quote_name(name)}") for database in ("source", "main")
    )
    if found != expected:
        raise job.wrong(f"table {name!r} has {found:,} rows, the source {expected:,}")
    same = int(connection.execute(f"SELECT count(*) FROM {pairs}", parameters).fetchone()[0])
    if same != expected:
        raise job.wrong(f"in table {name!r}, {expected - same:,} of {expected:,} rows differ")
    return expected


def _count(connection: sqlite3.Connection, of: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {of}").fetchone()[0])
