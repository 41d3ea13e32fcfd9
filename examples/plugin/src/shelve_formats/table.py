"""The one table of a shelve file, as ``dbm.sqlite3`` of Python 3.13 makes it, and the formats of its values."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from format_store import Format, errors
from format_store.codecs import UnknownFormat, ValueFormat, get_codec, get_compression
from format_store.formats import MARKER_NAME
from format_store.sqlitefile import quote_name

TABLE = "Dict"
_DEFAULTS = {"valueCodec": "pickle", "compression": "none"}


def parse(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults filled in. Raises InvalidFormat."""
    unknown = sorted(set(parameters) - set(_DEFAULTS))
    if unknown:
        raise _invalid(f"shelve has no parameter {unknown[0]!r}; it has {', '.join(_DEFAULTS)}")
    parsed = _DEFAULTS | dict(parameters)
    try:
        get_codec(parsed["valueCodec"])
        get_compression(parsed["compression"])
    except (UnknownFormat, TypeError) as error:
        raise _invalid(str(error)) from error
    return parsed


def _invalid(message: str) -> errors.InvalidFormat:
    return errors.InvalidFormat(
        message,
        operation="parse format",
        path="formats",
        hint="Nothing was touched. Correct the format's declaration.",
    )


def value_format(format: Format) -> ValueFormat:
    return ValueFormat.named(format.parameters["valueCodec"], format.parameters["compression"])


def create_statement(format: Format) -> str:
    """What ``dbm.sqlite3`` would say; in other formats with a guard, so that an unaware shelf fails at once."""
    if format.parameters == _DEFAULTS:
        return (
            f"CREATE TABLE {TABLE} (\n    key BLOB UNIQUE NOT NULL,\n    value BLOB NOT NULL\n  )"
        )
    check = value_format(format).check_sql("value")
    return (
        f"CREATE TABLE {TABLE} (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL CHECK ({check}) "
        "CHECK (typeof(value)='blob'))"
    )


def exists(connection: sqlite3.Connection) -> bool:
    row = connection.execute(
        "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND lower(name) = lower(?)", (TABLE,)
    ).fetchone()
    return row is not None


def require_nothing_else(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file with anything in it that a copy of the one table would lose. Raises UnsupportedSchema."""
    for kind, name in connection.execute(
        "SELECT type, name FROM main.sqlite_schema WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^' ORDER BY name"
    ):
        if name not in (TABLE, MARKER_NAME):
            raise errors.UnsupportedSchema(
                f"there is a {kind} {name!r}, which a shelve file does not have",
                operation="check schema",
                path=path,
                hint=f"Nothing was touched. Move {name!r} to a file of its own.",
            )
    if exists(connection):
        columns = connection.execute(f"PRAGMA main.table_xinfo({TABLE})").fetchall()
        shape = [(str(row[1]).lower(), str(row[2]).upper(), row[6]) for row in columns]
        if shape != [("key", "BLOB", 0), ("value", "BLOB", 0)]:
            raise errors.UnsupportedSchema(
                f"the table {TABLE!r} is not the one of a shelve file",
                operation="check schema",
                path=path,
                hint="Nothing was touched. Check the path.",
            )


def rows_that_do_not_fit(connection: sqlite3.Connection, format: Format) -> str | None:
    """The first row that is not of ``format`` by its types and first bytes, in words."""
    check = value_format(format).check_sql("value")
    row = connection.execute(
        f"SELECT rowid, typeof(key), typeof(value) FROM {quote_name(TABLE)} "
        f"WHERE NOT (typeof(key)='blob' AND typeof(value)='blob' AND ({check})) LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    return f"row {row[0]}: a key of type {row[1]}, a value of type {row[2]} that is no {format}"
