"""Tables of sqlitedict's shape: finding them, writing their CREATE statement, refusing what hangs on them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from format_store import errors, keys
from format_store.codecs.combined import ValueFormat
from format_store.formats import MARKER_NAME, Format
from format_store.sqlitefile import has_rows, quote_name


@dataclass(frozen=True)
class Table:
    """A table of sqlitedict's shape; ``statement`` is its SQL as the schema has it."""

    name: str
    statement: str


def value_format(format: Format, pickle_allow: Sequence[str] = ()) -> ValueFormat:
    return ValueFormat.named(
        format.parameters["valueCodec"], format.parameters["compression"], pickle_allow=pickle_allow
    )


def key_encoding(format: Format) -> keys.KeyEncoding:
    return keys.get(format.parameters["keyEncoding"])


def is_plain(format: Format) -> bool:
    """What sqlitedict writes by itself: its tables carry no guards."""
    names = (format.parameters[name] for name in ("keyEncoding", "valueCodec", "compression"))
    return tuple(names) == ("natural", "pickle", "none")


def create_statement(table: str, format: Format) -> str:
    """The table as this format has it. For plain sqlitedict it is sqlitedict's own statement."""
    if is_plain(format):
        return f"CREATE TABLE {quote_name(table)} (key TEXT PRIMARY KEY, value BLOB)"
    encoding = key_encoding(format)
    guard = encoding.guard("key")
    key_check = f" CHECK ({guard})" if guard else ""
    return (
        f"CREATE TABLE {quote_name(table)} (key {encoding.affinity} PRIMARY KEY{key_check}, "
        f"value BLOB CHECK ({value_format(format).check_sql('value')}))"
    )


def tables(connection: sqlite3.Connection, schema: str = "main") -> list[Table]:
    """Every table of sqlitedict's shape, by name: key (TEXT or BLOB, primary key) and value, with rowids."""
    found = []
    without_rowid = {
        name
        for (_, name, kind, _, no_rowid, strict) in connection.execute(
            f"SELECT schema, name, type, ncol, wr, strict FROM pragma_table_list WHERE schema = '{schema}'"
        )
        if kind != "table" or no_rowid or strict
    }
    for name, statement in connection.execute(
        f"SELECT name, sql FROM {schema}.sqlite_schema WHERE type = 'table' ORDER BY name"
    ).fetchall():
        if name.lower().startswith("sqlite_") or name in without_rowid:
            continue
        columns = connection.execute(f"PRAGMA {schema}.table_xinfo({quote_name(name)})").fetchall()
        if _has_shape(columns):
            found.append(Table(name, statement))
    return found


def _has_shape(columns: list[tuple[object, ...]]) -> bool:
    if len(columns) != 2:
        return False
    (_, key, key_type, _, _, key_primary, key_hidden) = columns[0]
    (_, value, _, _, _, value_primary, value_hidden) = columns[1]
    return (
        (str(key).lower(), str(value).lower()) == ("key", "value")
        and str(key_type).upper() in ("TEXT", "BLOB")
        and (key_primary, value_primary, key_hidden, value_hidden) == (1, 0, 0, 0)
    )


def selected(
    connection: sqlite3.Connection, source: Format, target: Format, path: Path, schema: str = "main"
) -> list[Table]:
    """The tables that a conversion is about. Raises UnsupportedSchema for a named one that is not there."""
    present = tables(connection, schema)
    wanted = target.parameters["tables"] or source.parameters["tables"]
    if wanted is None:
        return present
    before = source.parameters["tables"]
    if before is not None and set(before) != set(wanted):
        raise errors.UnsupportedSchema(
            f"the present format covers the tables {sorted(before)}, the target {sorted(wanted)}",
            operation="check schema",
            path=path,
            hint="Nothing was touched. Both formats must name the same tables (or the target none).",
        )
    by_name = {table.name: table for table in present}
    missing = [name for name in wanted if name not in by_name]
    # A database without rows is a new replica's: its tables are yet to be made.
    if missing and has_rows(connection, schema):
        raise errors.UnsupportedSchema(
            f"there is no table {missing[0]!r} of sqlitedict's shape; there are "
            f"{sorted(by_name) or 'none'}",
            operation="check schema",
            path=path,
            hint="Nothing was touched. Correct `tables`, or leave it out to convert every such table.",
        )
    return [by_name[name] for name in wanted if name in by_name]


def refuse_dependents(connection: sqlite3.Connection, converted: list[Table], path: Path) -> None:
    """Refuse indexes, triggers, views and foreign keys that read a table which would be converted.

    They would silently mean something else afterwards. The search is by name in the object's SQL, so it may
    refuse one that only looks as if it did; it never passes one that does. Raises UnsupportedSchema.
    """
    names = {table.name.lower() for table in converted}
    if not names:
        return
    word = re.compile(
        r"(?<!\w)(" + "|".join(re.escape(name) for name in sorted(names)) + r")(?!\w)",
        re.IGNORECASE,
    )
    for kind, name, on_table, statement in connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    ):
        if name.lower() == MARKER_NAME or (kind == "table" and name.lower() in names):
            continue
        if on_table.lower() in names or word.search(statement):
            raise errors.UnsupportedSchema(
                f"the {kind} {name!r} depends on a table that would be converted",
                operation="check schema",
                path=path,
                hint=f"Nothing was touched. Drop {name!r} and create it anew after the conversion, or "
                "name the tables to convert in `tables`.",
            )


def other_objects(
    connection: sqlite3.Connection, converted: list[Table], schema: str = "main"
) -> list[tuple[str, str, str, str | None]]:
    """What else the schema holds: (type, name, table, sql), sorted; the marker and converted tables not."""
    names = {table.name.lower() for table in converted}
    rows = connection.execute(
        f"SELECT type, name, tbl_name, sql FROM {schema}.sqlite_schema ORDER BY type, name"
    ).fetchall()
    return [
        row for row in rows if row[1].lower() != MARKER_NAME and str(row[2]).lower() not in names
    ]
