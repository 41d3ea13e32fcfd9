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
from format_store.keys.base import BINARY
from format_store.sqlitefile import has_rows, quote_name


@dataclass(frozen=True)
class Table:
    """A table of sqlitedict's shape; ``statement`` is its SQL as the schema has it.

    ``collation``: the one of its keys. It is BINARY, or that of an encoding which is read only.
    """

    name: str
    statement: str
    collation: str = BINARY


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def fold(name: str) -> str:
    """A name as SQLite compares names: without regard to the case of ASCII letters, and of no others.

    ``str.lower`` would take the tables "é" and "É" for one, and drop the other unseen.
    """
    return text(name).translate(_ASCII_LOWER)


def text(value: str | bytes) -> str:
    """What a schema says, which in a damaged one may be a blob. Raises sqlite3.DatabaseError as SQLite does of damage."""
    if isinstance(value, str):
        return value
    error = sqlite3.DatabaseError("malformed database schema: a blob where there has to be text")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error.sqlite_errorname = "SQLITE_CORRUPT"
    raise error


def value_format(format: Format, pickle_allow: Sequence[str] = ()) -> ValueFormat:
    return ValueFormat.named(
        format.parameters["valueCodec"], format.parameters["compression"], pickle_allow=pickle_allow
    )


def key_encoding(format: Format) -> keys.KeyEncoding:
    return keys.get(format.parameters["keyEncoding"])


def collation(format: Format) -> str:
    """The collation of the key column of this format's tables."""
    return keys.collation_of(key_encoding(format))


def require_writable(format: Format, path: Path) -> None:
    """Refuse a format that is only read, as a target. Raises InvalidFormat, which says what to use instead."""
    encoding = key_encoding(format)
    if isinstance(encoding, keys.ReadOnlyKeyEncoding):
        raise errors.InvalidFormat(
            f"keyEncoding {encoding.name!r} can be left, and not converted to",
            operation="check target",
            path=path,
            hint=f"Nothing was touched. Use {' or '.join(map(repr, encoding.use_instead))} as the target's "
            "keyEncoding.",
        )


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
    by = collation(format)
    collate = "" if by == BINARY else f" COLLATE {by}"
    return (
        f"CREATE TABLE {quote_name(table)} (key {encoding.affinity}{collate} PRIMARY KEY{key_check}, "
        f"value BLOB CHECK ({value_format(format).check_sql('value')}))"
    )


def tables(connection: sqlite3.Connection, schema: str = "main") -> list[Table]:
    """Every table of sqlitedict's shape, by name: key (TEXT or BLOB, primary key) and value, with rowids.

    Also those whose keys have the collation ``slash_span``, which sqlitedict's own have not.
    """
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
        if fold(name).startswith("sqlite_") or name in without_rowid:
            continue
        columns = connection.execute(f"PRAGMA {schema}.table_xinfo({quote_name(name)})").fetchall()
        if not _has_shape(columns) or _constraint(columns, statement):
            continue
        by = _key_collation(connection, schema, name)
        if by in (BINARY, keys.SLASH_SPAN):
            found.append(Table(name, statement, by))
    return found


def _key_collation(connection: sqlite3.Connection, schema: str, name: str) -> str:
    """The collation of the primary key, by its built-in or declared name in the spelling that we use."""
    for _, index, _, origin, _ in connection.execute(
        f"PRAGMA {schema}.index_list({quote_name(name)})"
    ):
        if origin == "pk":
            # The rows of an index end with the rowid, which has no collation of its own.
            row = connection.execute(f"PRAGMA {schema}.index_xinfo({quote_name(index)})").fetchone()
            return keys.SLASH_SPAN if fold(str(row[4])) == keys.SLASH_SPAN else str(row[4])
    return BINARY


def _constraint(columns: list[tuple[object, ...]], statement: str) -> str | None:
    """What a table of the right columns has that sqlitedict's have not, and that a conversion would lose."""
    for _, column, _, not_null, default, _, _ in columns:
        if not_null:
            return f"NOT NULL on {column}"
        if default is not None:
            return f"DEFAULT on {column}"
    if re.search(r"\bON\s+CONFLICT\b", statement, re.IGNORECASE):
        return "ON CONFLICT"
    return None


def refuse_constrained(
    connection: sqlite3.Connection, source: Format, target: Format, path: Path
) -> None:
    """Refuse, by name, a table that is sqlitedict's but for a constraint of its own. Raises UnsupportedSchema.

    Converted it would lose the constraint, left alone it would be the one table in another format. The
    collation that the source's keys have anyway is none.
    """
    expected = collation(source)
    for name, statement in connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL ORDER BY name"
    ).fetchall():
        if target.parameters["tables"] is not None and name not in target.parameters["tables"]:
            continue
        columns = connection.execute(f"PRAGMA table_xinfo({quote_name(name)})").fetchall()
        if not _has_shape(columns):
            continue
        by = _key_collation(connection, "main", name)
        found = _constraint(columns, statement) or (f"COLLATE {by}" if by != expected else None)
        if found is not None:
            raise errors.UnsupportedSchema(
                f"table {name!r} has a constraint of its own ({found}), which the format would lose",
                operation="check schema",
                path=path,
                hint="Nothing was touched. Name the tables to convert in `tables`, without this one, or "
                "recreate it as sqlitedict makes it.",
            )


def lookalikes(connection: sqlite3.Connection) -> list[str]:
    """Names of tables with sqlitedict's two columns, declared otherwise than sqlitedict declares them, with rowids.

    ``SqliteDict`` takes such a table as it finds it. An application's own (a table of settings) may be one as well.
    """
    found = []
    for (name,) in connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND ncol = 2 AND NOT wr "
        "ORDER BY name"
    ).fetchall():
        columns = connection.execute(f"PRAGMA table_xinfo({quote_name(name)})").fetchall()
        names = sorted(fold(column[1]) for column in columns)
        if names == ["key", "value"] and not _has_shape(columns):
            found.append(name)
    return found


def _has_shape(columns: list[tuple[object, ...]]) -> bool:
    if len(columns) != 2:
        return False
    (_, key, key_type, _, _, key_primary, key_hidden) = columns[0]
    (_, value, value_type, _, _, value_primary, value_hidden) = columns[1]
    return (
        (str(key).lower(), str(value).lower()) == ("key", "value")
        and str(key_type).upper() in ("TEXT", "BLOB")
        and str(value_type).upper() == "BLOB"
        and (key_primary, value_primary, key_hidden, value_hidden) == (1, 0, 0, 0)
    )


def selected(
    connection: sqlite3.Connection, source: Format, target: Format, path: Path, schema: str = "main"
) -> list[Table]:
    """The tables that a conversion is about. Raises UnsupportedSchema for a named one that is not there."""
    present = tables(connection, schema)
    before, after = source.parameters["tables"], target.parameters["tables"]
    wanted = after or before
    if wanted is None:
        return present
    everything = {table.name for table in present}
    # One names tables and the other does not: what is in neither would change its format in name only.
    partly = (before is not None and after is None) or (before is None and not is_plain(source))
    if partly and not everything.issubset(wanted):
        raise errors.UnsupportedSchema(
            f"one format is for the tables {sorted(wanted)}, the other for all, which are "
            f"{sorted(everything)}",
            operation="check schema",
            path=path,
            hint="Nothing was touched. Give both formats the same `tables`.",
        )
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
    refuse one that only looks as if it did; it never passes one that does. Raises UnsupportedSchema, sqlite3.Error.
    """
    names = {fold(table.name) for table in converted}
    if not names:
        return
    spellings = sorted(names | {name.replace('"', '""') for name in names})
    # ASCII: SQLite knows no other letters' case, and what it takes for a word's end may only be fewer.
    word = re.compile(
        r"(?<!\w)(" + "|".join(re.escape(name) for name in spellings) + r")(?!\w)",
        re.IGNORECASE | re.ASCII,
    )
    for kind, name, on_table, statement in connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    ):
        if fold(name) == MARKER_NAME or (kind == "table" and fold(name) in names):
            continue
        if fold(on_table) in names or word.search(text(statement)):
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
    names = {fold(table.name) for table in converted}
    rows = connection.execute(
        f"SELECT type, name, tbl_name, sql FROM {schema}.sqlite_schema ORDER BY type, name"
    ).fetchall()
    return [row for row in rows if fold(row[1]) != MARKER_NAME and fold(str(row[2])) not in names]
