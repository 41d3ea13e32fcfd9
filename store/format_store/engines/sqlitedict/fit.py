"""Which format rows are in: by type and first bytes, in SQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from format_store import errors, sqlitefile
from format_store.engines.sqlitedict import schema
from format_store.formats import Format
from format_store.keys.base import BINARY
from format_store.sqlitefile import quote_name


def require_as_marked(connection: sqlite3.Connection, format: Format, path: Path) -> None:
    """Refuse a file whose tables are not in the format that its marker tells. Raises MarkerMismatch.

    A table with the format's guards can hold nothing else. One without (an application made it that knows
    the format, but not the guards) is looked at row by row.
    """
    names = format.parameters["tables"]
    for table in schema.tables(connection):
        if names is not None and table.name not in names:
            continue
        if schema.is_plain(format) or table.statement == schema.create_statement(
            table.name, format
        ):
            continue
        found = first_misfit(connection, table, format)
        if found is not None:
            raise errors.MarkerMismatch(
                f"the marker says {format}, but there are rows of another format ({found})",
                operation="check",
                path=path,
                hint="Nothing was touched. An application that does not know the format has made the table. "
                "Move its records over with the new release, then drop it.",
            )


def misfit(connection: sqlite3.Connection, format: Format) -> str | None:
    """The first row found that is not of ``format``, in words; None where every row fits or no table is there."""
    names = format.parameters["tables"]
    for table in schema.tables(connection):
        if names is None or table.name in names:
            found = first_misfit(connection, table, format)
            if found is not None:
                return found
    return None


def wrong_collation(table: schema.Table, format: Format) -> str | None:
    """That the table's keys are declared with another collation than the format's, in words."""
    expected = schema.collation(format)
    if table.collation == expected:
        return None
    name = schema.key_encoding(format).name
    return f"table {table.name!r}: its keys have the collation {table.collation}, {name} ones {expected}"


def first_misfit(connection: sqlite3.Connection, found: schema.Table, format: Format) -> str | None:
    """The first row found that is not of ``format``, or the key column that is not, in words."""
    unlike = wrong_collation(found, format)
    if unlike is not None:
        return unlike
    table = found.name
    encoding = schema.key_encoding(format)
    guard = encoding.guard("key") or "1"
    value_check = schema.value_format(format).check_sql("value")
    row = connection.execute(
        f"SELECT rowid, typeof(key), {guard}, typeof(value) FROM {quote_name(table)} "
        f"WHERE NOT (({guard}) AND ({value_check})) LIMIT 1"
    ).fetchone()
    if row is not None:
        rowid, key_type, key_fits, value_type = row
        what = (
            f"its value is {article(value_type)} that is no {name_of(format)}"
            if key_fits
            else f"its key is {article(key_type)}, which is no {encoding.name} key"
        )
        return f"table {table!r}, row {rowid}: {what}"
    if encoding.affinity == "TEXT":
        return None  # only the type can be wrong; invalid UTF-8 is named when it is converted
    for rowid, stored in connection.execute(f"SELECT rowid, key FROM {quote_name(table)}"):
        try:
            encoding.decode(stored)
        except ValueError as error:
            return f"table {table!r}, row {rowid}: {error}"
    return None


def refuse_lookalikes(
    connection: sqlite3.Connection, source: Format, target: Format, path: Path
) -> None:
    """Refuse, by name, a table that holds records of ``source`` and is not declared as sqlitedict's.

    A bit of the schema that was flipped is enough. Left alone its records would be in another format than the marker
    says. One of whose rows none is a record is the application's own. Raises UnsupportedSchema.
    """
    named = target.parameters["tables"]
    guard = schema.key_encoding(source).guard("key") or "1"
    record = f"({guard}) AND ({schema.value_format(source).check_sql('value')})"
    for table in schema.lookalikes(connection):
        if named is not None and table not in named:
            continue
        found = f"SELECT EXISTS (SELECT 1 FROM {quote_name(table)} WHERE {record})"
        if connection.execute(found).fetchone()[0]:
            raise errors.UnsupportedSchema(
                f"table {table!r} holds records of {source}, and is not declared as sqlitedict declares its tables",
                operation="check schema",
                path=path,
                hint="Nothing was touched. Recreate it as sqlitedict makes it, or, if it is none of sqlitedict's, "
                "name the tables to convert in `tables`, without this one.",
            )


def article(kind: str) -> str:
    return "NULL" if kind == "null" else f"an {kind}" if kind == "integer" else f"a {kind}"


def name_of(format: Format) -> str:
    """What a single value of it is called."""
    codec, compression = format.parameters["valueCodec"], format.parameters["compression"]
    return f"{codec} value" if compression == "none" else f"{codec} value in {compression}"


def has_rows(connection: sqlite3.Connection) -> bool:
    """Whether there is anything to identify: rows in a table of ours, or rows and no such table at all.

    An application whose other tables already have rows (a schema version) is as new as an empty file. A table
    whose keys have a collation tells its format by that alone.
    """
    tables = schema.tables(connection)
    if not tables:
        return sqlitefile.has_rows(connection)
    return any(
        table.collation != BINARY
        or connection.execute(f"SELECT EXISTS (SELECT 1 FROM {quote_name(table.name)})").fetchone()[
            0
        ]
        for table in tables
    )
