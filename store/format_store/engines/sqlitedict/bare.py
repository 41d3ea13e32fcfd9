"""Filling a table first, and giving it its primary key and its CHECKs afterwards.

Row after row into a table with a primary key puts each key at another place of the index. Sorted once, the same
index takes a quarter of the time. SQL has no ALTER for it, but a file has: a UNIQUE index is the very b-tree
that a primary key has, and constraints are text of the schema. So a bare table is filled, its key is indexed,
and the schema's text then says what the format's own CREATE statement would have (``PRAGMA writable_schema``,
https://www.sqlite.org/lang_altertable.html#otheralter). Whether every row keeps the constraints, and every key
stands in the index, is found out by the verification, whose ``integrity_check`` looks at both.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache

from format_store.engines.sqlitedict import schema
from format_store.formats import Format
from format_store.sqlitefile import quote_name

_PREFIX = "_storageformat_key"


@cache
def possible() -> bool:
    """Whether this SQLite lets a connection edit a schema's text: one built to be defensive does not."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (key)")
        connection.execute("PRAGMA writable_schema=ON")
        try:
            connection.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE t (key CHECK (1))'")
        except sqlite3.Error:
            return False
        return True


def create(connection: sqlite3.Connection, table: str, format: Format) -> None:
    """The table with its columns and nothing else. Raises sqlite3.Error."""
    affinity = schema.key_encoding(format).affinity
    connection.execute(f"CREATE TABLE main.{quote_name(table)} (key {affinity}, value BLOB)")


def finish(connection: sqlite3.Connection, table: str, format: Format) -> None:
    """Index the keys, and let the schema say what ``schema.create_statement`` says.

    The connection knows the table as it was until it is opened anew. Raises sqlite3.Error: IntegrityError
    where a key is there twice.
    """
    taken = {
        schema.fold(str(name))
        for (name,) in connection.execute("SELECT name FROM main.sqlite_schema")
    }
    # The connection goes on knowing the indexes of earlier tables by these names: one for each table.
    index = f"{_PREFIX}_{table}"
    while schema.fold(index) in taken:
        index = f"_{index}"
    connection.execute(f"CREATE UNIQUE INDEX main.{quote_name(index)} ON {quote_name(table)} (key)")
    connection.execute("PRAGMA main.writable_schema=ON")
    connection.execute(
        "UPDATE main.sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?",
        (schema.create_statement(table, format), table),
    )
    connection.execute(
        "UPDATE main.sqlite_schema SET sql = NULL, name = ? WHERE type = 'index' AND name = ?",
        (f"sqlite_autoindex_{table}_1", index),
    )
    connection.execute("PRAGMA main.writable_schema=OFF")
