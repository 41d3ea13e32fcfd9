"""The keys of rows: as SQL where an encoding can say itself so, as SQL functions otherwise, and what is wrong with one."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from format_store import errors, keys
from format_store.abort import Abort
from format_store.engines.base import Job, Obstacle
from format_store.engines.sqlitedict import schema
from format_store.formats import Format
from format_store.sqlitefile import connect, quote_name

Stored = str | bytes
_FORWARD = "storageformat_key"
_BACK = "storageformat_key_back"


def key_converter(source: Format, target: Format) -> Callable[[Stored], Stored]:
    """From a key as the source stores it to the target's form. Raises ValueError for what is none."""
    found, wanted = schema.key_encoding(source), schema.key_encoding(target)
    if found.name == wanted.name:
        return lambda stored: stored
    decode, encode = found.decode, wanted.encode
    # Natural keys are the keys themselves; the other side's function looks at them just as closely.
    if isinstance(found, keys.Natural):
        return encode  # type: ignore[return-value]  # refuses whatever is no string
    if isinstance(wanted, keys.Natural):
        return decode
    return lambda stored: encode(decode(stored))


@dataclass(frozen=True)
class KeySql:
    """An expression, and what it wants bound. ``text_unseen``: no Python has looked whether the keys are text."""

    expression: str
    parameters: Mapping[str, bytes] = field(default_factory=dict)
    text_unseen: bool = False


def register_key_function(connection: sqlite3.Connection, source: Format, target: Format) -> KeySql:
    """Make the conversion of keys available to SQL: an expression over the column ``key``."""
    found, wanted = schema.key_encoding(source), schema.key_encoding(target)
    if found.name == wanted.name:
        return KeySql("key")
    connection.create_function(_FORWARD, 1, key_converter(source, target), deterministic=True)
    call = f"{_FORWARD}(key)"
    if _spoken_by_sql(connection, found, wanted) and isinstance(wanted, keys.SqlKeyEncoding):
        return KeySql(wanted.encode_sql("key", call), wanted.sql_parameters, text_unseen=True)
    return KeySql(call)


def register_key_comparison(
    connection: sqlite3.Connection, source: Format, target: Format
) -> KeySql:
    """SQL that is true where the copy's key (``a.key``) means the source's (``b.key``).

    Through the inverse function: an encoder that loses something cannot hide it from its own inverse.
    """
    found, wanted = schema.key_encoding(source), schema.key_encoding(target)
    if found.name == wanted.name:
        return KeySql("typeof(a.key) = typeof(b.key) AND a.key IS b.key COLLATE BINARY")
    connection.create_function(_BACK, 1, key_converter(target, source), deterministic=True)
    call = f"{_BACK}(a.key)"
    if _spoken_by_sql(connection, found, wanted) and isinstance(wanted, keys.SqlKeyEncoding):
        return KeySql(wanted.decodes_sql("a.key", "b.key", call), wanted.sql_parameters)
    return KeySql(f"{call} IS b.key COLLATE BINARY")


def _spoken_by_sql(
    connection: sqlite3.Connection, found: keys.KeyEncoding, wanted: keys.KeyEncoding
) -> bool:
    utf8 = connection.execute("PRAGMA encoding").fetchone() == ("UTF-8",)
    return utf8 and isinstance(found, keys.Natural) and isinstance(wanted, keys.SqlKeyEncoding)


def first_that_is_no_text(job: Job, tables: Sequence[str], stop: Abort) -> str | None:
    """The first table with a key that is TEXT and not UTF-8, which SQLite stores and moves unseen.

    Reading the keys is enough: the binding decodes them. Raises sqlite3.Error.
    """
    with (
        closing(connect(job.source_path, mode="ro")) as source,
        job.run.abort.connection(source),
        stop.connection(source),
    ):
        for table in tables:
            try:
                deque(source.execute(f"SELECT key FROM {quote_name(table)}"), maxlen=0)
            except sqlite3.OperationalError as error:
                if "decode" not in str(error):
                    raise
                return table
    return None


def refusal(path: Path, obstacle: Obstacle) -> errors.Refused:
    """The error for a row that the target cannot hold."""
    kind = errors.UnconvertibleKey if obstacle.column == "key" else errors.UnconvertibleValue
    return kind(
        f"table {obstacle.table!r}, key {obstacle.key}: {obstacle.what}",
        operation="convert",
        path=path,
        hint="The database is as it was. `storageformat plan` lists every such row; change or remove "
        "them with the application, or choose another target format.",
    )


def first_obstacle(
    job: Job, connection: sqlite3.Connection, table: str, after: int | None
) -> errors.Refused | None:
    """Find the row that SQLite stumbled over, the slow way, so that the error can name it.

    None if every key converts: then it was something else.
    """
    convert = key_converter(job.source, job.target)
    where = "" if after is None else f"WHERE rowid > {after}"
    rows = connection.execute(
        f"SELECT rowid, typeof(key), CAST(key AS BLOB) FROM source.{quote_name(table)} {where} "
        "ORDER BY rowid"
    )
    for rowid, kind, raw in rows:
        what = _wrong_with_key(connection, convert, kind, raw)
        if what is not None:
            return refusal(job.source_path, Obstacle("key", table, rowid, f"(row {rowid})", what))
    return None


def _wrong_with_key(
    connection: sqlite3.Connection,
    convert: Callable[[Stored], Stored],
    kind: str,
    raw: bytes | None,
) -> str | None:
    if kind == "text" and raw is not None:
        encoding = str(connection.execute("PRAGMA encoding").fetchone()[0])
        try:
            stored: Stored = raw.decode(encoding.lower())
        except UnicodeDecodeError:
            return f"its key is text that is not valid {encoding}"
    elif kind == "blob" and raw is not None:
        stored = raw
    else:
        return f"its key is of type {kind}"
    try:
        convert(stored)
    except ValueError as error:
        return f"its key cannot be converted: {error}"
    return None


def undecodable(
    connection: sqlite3.Connection, table: str, format: Format, limit: int
) -> list[Obstacle]:
    decode = schema.key_encoding(format).decode
    found: list[Obstacle] = []
    rows = connection.execute(
        f"SELECT rowid, typeof(key), CAST(key AS BLOB) FROM {quote_name(table)}"
    )
    for rowid, kind, raw in rows:
        what = _wrong_with_key(connection, decode, kind, raw)
        if what is not None:
            found.append(Obstacle("key", table, rowid, f"(row {rowid})", what))
            if len(found) >= limit:
                break
    return found
