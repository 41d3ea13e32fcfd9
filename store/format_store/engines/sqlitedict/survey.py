"""Looking before anything is written: which format the rows are in, what they need, what stands in the way."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from format_store import errors
from format_store.codecs import CodecError
from format_store.engines.base import Obstacle, Survey
from format_store.engines.sqlitedict import schema, values
from format_store.formats import Format
from format_store.keys import KeyEncoding
from format_store.run import Run
from format_store.sqlitefile import quote_name

#: How much larger than the source a copy can be by its structure alone: CHECKs, other page fill.
_STRUCTURE_FACTOR = 1.25
_SAMPLE_ROWS = 64


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
        if not _all_fit(connection, table.name, format):
            raise errors.MarkerMismatch(
                f"the marker says {format}, but table {table.name!r} has rows of another format",
                operation="check",
                path=path,
                hint="Nothing was touched. An application that does not know the format has made the table. "
                "Move its records over with the new release, then drop it.",
            )


def identify(
    run: Run, connection: sqlite3.Connection, candidates: Sequence[Format]
) -> tuple[Format, ...]:
    """Those of ``candidates`` that every row of every table of theirs fits.

    First by type and first bytes, in SQL. Where that leaves several, every row is decoded.
    """
    fitting = []
    for candidate in candidates:
        found = schema.tables(connection)
        names = candidate.parameters["tables"]
        selected = [table for table in found if names is None or table.name in names]
        if selected and all(_all_fit(connection, table.name, candidate) for table in selected):
            fitting.append(candidate)
    if len(fitting) < 2:
        return tuple(fitting)
    return tuple(
        candidate
        for candidate in fitting
        if not values.undecodable(run, connection, candidate, limit=1)
    )


def _all_fit(connection: sqlite3.Connection, table: str, format: Format) -> bool:
    encoding = schema.key_encoding(format)
    guard = encoding.guard("key") or "1"
    value_check = schema.value_format(format).check_sql("value")
    name = quote_name(table)
    misfit = connection.execute(
        f"SELECT 1 FROM {name} WHERE NOT (({guard}) AND ({value_check})) LIMIT 1"
    ).fetchone()
    return misfit is None and _keys_are_canonical(connection, name, encoding)


def _keys_are_canonical(connection: sqlite3.Connection, name: str, encoding: KeyEncoding) -> bool:
    if encoding.affinity == "TEXT":
        return (
            True  # nothing but the type can be wrong; invalid UTF-8 is named when it is converted
        )
    try:
        for (stored,) in connection.execute(f"SELECT key FROM {name}"):
            encoding.decode(stored)
    except ValueError:
        return False
    return True


def survey(run: Run, connection: sqlite3.Connection, source: Format, target: Format) -> Survey:
    """Count rows, estimate bytes, refuse what types and the schema already tell.

    Raises UnsupportedSchema, UnconvertibleKey, UnconvertibleValue.
    """
    tables = schema.selected(connection, source, target, run.primary)
    schema.refuse_dependents(connection, tables, run.primary)
    counted = []
    for table in tables:
        for obstacle in _by_type(connection, table.name, source, target):
            raise values.refusal(run.primary, obstacle)
        name = quote_name(table.name)
        rows = connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        counted.append((table.name, int(rows)))
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    page_size = connection.execute("PRAGMA page_size").fetchone()[0]
    growth = _STRUCTURE_FACTOR * max(
        [1.0, *(_expansion(connection, name, source, target) for name, _ in counted)]
    )
    return Survey(tuple(counted), int(pages * page_size * growth))


def _by_type(
    connection: sqlite3.Connection, table: str, source: Format, target: Format
) -> Iterator[Obstacle]:
    """Rows that cannot be converted whatever their content, found in SQL."""
    name = quote_name(table)
    if schema.create_statement(table, target) == schema.create_statement(table, source):
        return
    encoding = schema.key_encoding(source)
    guard = encoding.guard("key") or "1"
    for rowid, kind in connection.execute(
        f"SELECT rowid, typeof(key) FROM {name} WHERE NOT ({guard})"
    ):
        what = f"its key is {_article(kind)}, which is no {encoding.name} key"
        yield Obstacle("key", table, rowid, f"(row {rowid})", what)
    if values.are_copied(source, target) and not schema.is_plain(target):
        check = schema.value_format(target).check_sql("value")
        for rowid, kind in connection.execute(
            f"SELECT rowid, typeof(value) FROM {name} WHERE NOT ({check})"
        ):
            what = f"its value is {_article(kind)}, which is no {_name(target)}"
            yield Obstacle("value", table, rowid, f"(row {rowid})", what)


def _article(kind: str) -> str:
    return "NULL" if kind == "null" else f"an {kind}" if kind == "integer" else f"a {kind}"


def _name(format: Format) -> str:
    """What a single value of it is called."""
    codec, compression = format.parameters["valueCodec"], format.parameters["compression"]
    return f"{codec} value" if compression == "none" else f"{codec} value in {compression}"


def _expansion(connection: sqlite3.Connection, table: str, source: Format, target: Format) -> float:
    """By how much values grow when they are decompressed, from a sample spread over the table."""
    found, wanted = schema.value_format(source), schema.value_format(target)
    if not found.compressed or found.compression.name == wanted.compression.name:
        return 1.0
    name = quote_name(table)
    stored = plain = 1
    for (value,) in connection.execute(
        f"SELECT value FROM {name} WHERE rowid IN "
        f"(SELECT rowid FROM {name} ORDER BY rowid * 2654435761 % 4294967296 LIMIT {_SAMPLE_ROWS})"
    ):
        try:
            plain += len(found.plain_bytes(value))
            stored += len(value)
        except CodecError:
            continue
    return 1.5 * plain / stored


def obstacles(
    run: Run, connection: sqlite3.Connection, source: Format, target: Format, limit: int
) -> list[Obstacle]:
    """Every key and value that the target cannot hold, up to ``limit``; decodes all of them."""
    found: list[Obstacle] = []
    for table in schema.selected(connection, source, target, run.primary):
        for obstacle in _by_type(connection, table.name, source, target):
            found.append(obstacle)
            if len(found) >= limit:
                return found
        found += values.unconvertible(
            run, connection, table.name, source, target, limit=limit - len(found)
        )
        if len(found) >= limit:
            return found[:limit]
    return found
