"""Looking before anything is written: which format the rows are in, what they need, what stands in the way."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain

from format_store.codecs import CodecError, ValueFormat, ValueTooLarge
from format_store.engines import kept
from format_store.engines.base import Obstacle, Survey
from format_store.engines.sqlitedict import build, fit, rowkeys, schema, values
from format_store.formats import Format
from format_store.run import Run
from format_store.sqlitefile import quote_name

#: How much larger than the source a copy can be by its structure alone: CHECKs, other page fill.
_STRUCTURE_FACTOR = 1.25
_SAMPLE_ROWS = 64
_SAMPLE_BYTES = 4 << 20


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
        if selected and all(
            fit.first_misfit(connection, table, candidate) is None for table in selected
        ):
            fitting.append(candidate)
    if len(fitting) < 2:
        return tuple(fitting)
    return tuple(
        candidate
        for candidate in fitting
        if not values.undecodable(run, connection, candidate, limit=1)
    )


def survey(
    run: Run,
    connection: sqlite3.Connection,
    source: Format,
    target: Format,
    *,
    refuse_rows: bool,
) -> Survey:
    """Count rows, estimate bytes, refuse what the schema and (``refuse_rows``) the rows' types already tell.

    Raises InvalidFormat, UnsupportedSchema, UnconvertibleKey, UnconvertibleValue.
    """
    schema.require_writable(target, run.primary)
    tables = schema.selected(connection, source, target, run.primary)
    schema.refuse_constrained(connection, source, target, run.primary)
    fit.refuse_lookalikes(connection, source, target, run.primary)
    schema.refuse_dependents(connection, tables, run.primary)
    kept.refuse_unknown_words(connection, run.primary, {table.name for table in tables})
    counted = []
    for table in tables:
        if refuse_rows:
            for obstacle in _by_type(connection, table.name, source, target):
                raise rowkeys.refusal(run.primary, obstacle)
        name = quote_name(table.name)
        rows = connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        counted.append((table.name, int(rows)))
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    page_size = connection.execute("PRAGMA page_size").fetchone()[0]
    growth = _STRUCTURE_FACTOR * max(
        [1.0, *(_expansion(connection, name, source, target) for name, _ in counted)]
    )
    sorted_bytes = 0
    # Below this SQLite sorts in memory (its page cache's size, see `build`).
    if pages * page_size > build.CACHE_KIB * 1024:
        sorted_bytes = sum(_sorted_bytes(connection, name) for name, _ in counted)
    return Survey(tuple(counted), int(pages * page_size * growth) + sorted_bytes)


def _sorted_bytes(connection: sqlite3.Connection, table: str) -> int:
    """What the index's entries take while they are sorted: each key, its rowid, and what tells them apart."""
    count, total = connection.execute(
        f"SELECT count(*), total(length(CAST(key AS BLOB))) FROM {quote_name(table)}"
    ).fetchone()
    return int(total) + 24 * int(count)


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
        what = f"its key is {fit.article(kind)}, which is no {encoding.name} key"
        yield Obstacle("key", table, rowid, f"(row {rowid})", what)
    if values.are_copied(source, target) and not schema.is_plain(target):
        check = schema.value_format(target).check_sql("value")
        for rowid, kind in connection.execute(
            f"SELECT rowid, typeof(value) FROM {name} WHERE NOT ({check})"
        ):
            what = f"its value is {fit.article(kind)}, which is no {fit.name_of(target)}"
            yield Obstacle("value", table, rowid, f"(row {rowid})", what)


def _expansion(connection: sqlite3.Connection, table: str, source: Format, target: Format) -> float:
    """By how much values grow when they are decompressed, from a sample spread over the table.

    In this process, so no more than a little of each value: a few bytes can stand for gigabytes.
    """
    found, wanted = schema.value_format(source), schema.value_format(target)
    if not found.compressed or found.compression.name == wanted.compression.name:
        return 1.0
    bounded = ValueFormat(found.codec, found.compression, max_value_bytes=_SAMPLE_BYTES)
    name = quote_name(table)
    stored = plain = 1
    for (value,) in connection.execute(
        f"SELECT value FROM {name} WHERE rowid IN "
        f"(SELECT rowid FROM {name} ORDER BY rowid * 2654435761 % 4294967296 LIMIT {_SAMPLE_ROWS})"
    ):
        try:
            plain += len(bounded.plain_bytes(value))
        except ValueTooLarge:
            plain += _SAMPLE_BYTES
        except CodecError:
            continue
        stored += len(value)
    return 1.5 * plain / stored


def obstacles(
    run: Run, connection: sqlite3.Connection, source: Format, target: Format, limit: int
) -> list[Obstacle]:
    """Every key and value that the target cannot hold, up to ``limit``; decodes all of them."""
    found: dict[tuple[str, str, int], Obstacle] = {}
    for table in schema.selected(connection, source, target, run.primary):
        # A key of a wrong type is seen by its type and again when it is decoded.
        for obstacle in chain(
            _by_type(connection, table.name, source, target),
            values.unconvertible(run, connection, table.name, source, target, limit=limit),
        ):
            found.setdefault((obstacle.table, obstacle.column, obstacle.rowid), obstacle)
            if len(found) >= limit:
                return list(found.values())
    return list(found.values())
