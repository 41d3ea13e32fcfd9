"""Keys and values between two formats: SQL functions for keys, worker processes for values."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from format_store import codecs, errors
from format_store.codecs import BadValue
from format_store.codecs import jobs as work
from format_store.codecs.pool import WorkerPool
from format_store.codecs.recode import Options
from format_store.engines.base import Job, Obstacle
from format_store.engines.sqlitedict import schema
from format_store.formats import Format
from format_store.run import Run
from format_store.sqlitefile import quote_name

Stored = str | bytes
#: A worker costs some 50 ms to start: fewer rows than this are not worth a second one.
_ROWS_PER_WORKER = 5_000
_KEY_SHOWN = 120
_FORWARD = "storageformat_key"
_BACK = "storageformat_key_back"


def are_copied(source: Format, target: Format) -> bool:
    """Whether values stay as they lie: the codec and the compression do not change."""
    return schema.value_format(source) == schema.value_format(target)


def key_converter(source: Format, target: Format) -> Callable[[Stored], Stored]:
    """From a key as the source stores it to the target's form. Raises ValueError for what is none."""
    found, wanted = schema.key_encoding(source), schema.key_encoding(target)
    if found.name == wanted.name:
        return lambda stored: stored
    decode, encode = found.decode, wanted.encode
    return lambda stored: encode(decode(stored))


def register_key_function(connection: sqlite3.Connection, source: Format, target: Format) -> str:
    """Make the conversion of keys available to SQL; returns the expression over the column ``key``."""
    if schema.key_encoding(source).name == schema.key_encoding(target).name:
        return "key"
    connection.create_function(_FORWARD, 1, key_converter(source, target), deterministic=True)
    return f"{_FORWARD}(key)"


def register_key_comparison(connection: sqlite3.Connection, source: Format, target: Format) -> str:
    """SQL that is true where the copy's key (``a.key``) means the source's (``b.key``).

    Through the inverse function: an encoder that loses something cannot hide it from its own inverse.
    """
    if schema.key_encoding(source).name == schema.key_encoding(target).name:
        return "typeof(a.key) = typeof(b.key) AND a.key IS b.key COLLATE BINARY"
    connection.create_function(_BACK, 1, key_converter(target, source), deterministic=True)
    return f"{_BACK}(a.key) IS b.key COLLATE BINARY"


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


def recoded(
    job: Job, connection: sqlite3.Connection, table: str
) -> Iterator[tuple[list[Stored], list[tuple[int, Stored]]]]:
    """Chunk after chunk of the source's table in rowid order: stored keys, and (rowid, new value).

    Raises UnconvertibleValue, UnconvertibleKey, WorkerFailed, Aborted.
    """
    reading = connection.cursor()
    keys: list[list[Stored]] = []

    def chunks() -> Iterator[list[tuple[int, Any]]]:
        rows = reading.execute(
            f"SELECT rowid, value, key FROM source.{quote_name(table)} ORDER BY rowid"
        )
        for chunk in work.chunks(rows):
            keys.append([key for _, _, key in chunk])
            yield [(rowid, value) for rowid, value, _ in chunk]

    task = work.Job.recode(
        schema.value_format(job.source),
        schema.value_format(job.target),
        _options(job.run, job.target),
    )
    with _workers(job.run, job.survey.rows) as pool, _named(job.run, connection, "source", table):
        for number, rows in enumerate(
            pool.map_ordered(task, _decodable(job, connection, table, chunks()))
        ):
            yield keys[number], rows
            keys[number] = []


def _decodable(
    job: Job, connection: sqlite3.Connection, table: str, chunks: Iterator[Any]
) -> Iterator[Any]:
    """The chunks; where SQLite's binding cannot decode a row's text, an error that names the row."""
    try:
        yield from chunks
    except sqlite3.OperationalError as error:
        obstacle = first_obstacle(job, connection, table, None)
        if obstacle is not None:
            raise obstacle from error
        value = _undecodable_text(connection, "source", table)
        if value is not None:
            raise refusal(job.source_path, value) from error
        raise


def _undecodable_text(connection: sqlite3.Connection, database: str, table: str) -> Obstacle | None:
    """The first value that is TEXT and no text: SQLite stores it, its binding cannot read it."""
    encoding = str(connection.execute("PRAGMA encoding").fetchone()[0])
    for rowid, raw in connection.execute(
        f"SELECT rowid, CAST(value AS BLOB) FROM {database}.{quote_name(table)} "
        "WHERE typeof(value) = 'text' ORDER BY rowid"
    ):
        try:
            raw.decode(encoding.lower())
        except UnicodeDecodeError:
            key = _key(connection, database, table, rowid)
            what = f"its value is text that is not valid {encoding}"
            return Obstacle("value", table, rowid, key, what)
    return None


def compare(job: Job, connection: sqlite3.Connection, table: str, done: int) -> None:
    """Decode every value of the source and of the copy, read back from the files, and compare them.

    Raises VerificationFailed, WorkerFailed, Aborted.
    """
    name = quote_name(table)
    rows = connection.cursor().execute(
        f"SELECT a.rowid, b.value, a.value FROM main.{name} AS a "
        f"JOIN source.{name} AS b ON a.rowid = b.rowid ORDER BY a.rowid"
    )
    task = work.Job.compare(
        schema.value_format(job.source),
        schema.value_format(job.target),
        _options(job.run, job.target),
    )

    def counted() -> Iterator[Any]:
        seen = done
        for chunk in work.chunks(rows):
            seen += len(chunk)
            job.run.check_abort("verify")
            yield chunk
            job.run.observer.progress(seen, job.survey.rows)

    with _workers(job.run, job.survey.rows) as pool:
        try:
            for _ in pool.map_ordered(task, counted()):
                pass
        except sqlite3.OperationalError as error:
            if _undecodable_text(connection, "main", table) is None:
                raise
            raise errors.VerificationFailed(
                f"the converted copy is wrong: table {table!r} has text that is none",
                operation="verify",
                path=job.source_path,
                hint="The copy was discarded; the database is as it was. Please report this.",
            ) from error
        except BadValue as error:
            raise errors.VerificationFailed(
                f"the converted copy is wrong: table {table!r}, "
                f"key {_key(connection, 'source', table, error.rowid)}: {error.why}",
                operation="verify",
                path=job.source_path,
                hint="The copy was discarded; the database is as it was. Please report this.",
            ) from error


def undecodable(
    run: Run,
    connection: sqlite3.Connection,
    format: Format,
    *,
    limit: int,
    tolerate_forbidden: bool = False,
) -> list[Obstacle]:
    """Keys and values, up to ``limit``, that are not of ``format``; decodes every one. Raises WorkerFailed."""
    found: list[Obstacle] = []
    names = format.parameters["tables"]
    for table in schema.tables(connection):
        if names is None or table.name in names:
            found += _undecodable_keys(connection, table.name, format, limit - len(found))
            found += _bad_values(
                run,
                connection,
                table.name,
                format,
                format,
                limit - len(found),
                decode=True,
                tolerate_forbidden=tolerate_forbidden,
            )
        if len(found) >= limit:
            break
    return found[:limit]


def _undecodable_keys(
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


def unconvertible(
    run: Run,
    connection: sqlite3.Connection,
    table: str,
    source: Format,
    target: Format,
    *,
    limit: int,
) -> list[Obstacle]:
    """Keys and values, up to ``limit``, that ``target`` cannot hold. Raises WorkerFailed, Aborted."""
    found: list[Obstacle] = []
    copied = are_copied(source, target)
    # Recoded rows pass through Python with their keys, which must be text there whatever they become.
    if not copied or schema.key_encoding(source).name != schema.key_encoding(target).name:
        found = _undecodable_keys(connection, table, source, limit)
    if not copied and len(found) < limit:
        found += _bad_values(
            run, connection, table, source, target, limit - len(found), decode=False
        )
    return found


def _bad_values(
    run: Run,
    connection: sqlite3.Connection,
    table: str,
    source: Format,
    target: Format,
    limit: int,
    *,
    decode: bool,
    tolerate_forbidden: bool = False,
) -> list[Obstacle]:
    found_format, wanted = schema.value_format(source), schema.value_format(target)
    options = _options(run, target)._replace(tolerate_forbidden=tolerate_forbidden)
    task = (
        work.Job.decode(found_format, options)
        if decode
        else work.Job.examine(found_format, wanted, options, limit=limit)
    )
    name = quote_name(table)
    count = int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0])
    rows = connection.cursor().execute(f"SELECT rowid, value FROM {name} ORDER BY rowid")
    bad: list[BadValue] = []
    with _workers(run, count) as pool:
        try:
            for chunk in pool.map_ordered(task, work.chunks(rows)):
                bad += chunk or []
                if len(bad) >= limit:
                    break
        except BadValue as error:
            bad.append(error)
        except sqlite3.OperationalError:
            obstacle = _undecodable_text(connection, "main", table)
            if obstacle is None:
                raise
            return [obstacle]
    return [
        Obstacle(
            "value", table, error.rowid, _key(connection, "main", table, error.rowid), error.why
        )
        for error in bad[:limit]
    ]


@contextmanager
def _workers(run: Run, rows: int) -> Iterator[WorkerPool]:
    """Worker processes, stopped on an abort; what goes wrong with them is WorkerFailed or Aborted."""
    few = 1 if rows < _ROWS_PER_WORKER else None
    with (
        WorkerPool(few, memory_limit=run.worker_memory) as pool,
        run.abort.interrupting(pool.interrupt),
    ):
        try:
            yield pool
        except codecs.Interrupted:
            run.check_abort("convert")
            raise
        except codecs.WorkerError as error:
            run.check_abort("convert")
            raise errors.WorkerFailed(
                str(error),
                operation="decode values",
                path=run.primary,
                hint="The database is as it was. If memory is short, give the container more.",
            ) from error


@contextmanager
def _named(run: Run, connection: sqlite3.Connection, database: str, table: str) -> Iterator[None]:
    """A value that cannot be converted becomes an error that names table, key and type."""
    try:
        yield
    except BadValue as error:
        # Where the codec could not even tell a type, its words say what is there.
        told = error.type_name in error.why or error.type_name == "Undecodable"
        what = error.why if told else f"{error.why} (type {error.type_name})"
        key = _key(connection, database, table, error.rowid)
        raise refusal(run.primary, Obstacle("value", table, error.rowid, key, what)) from error


def _key(connection: sqlite3.Connection, database: str, table: str, rowid: int) -> str:
    row = connection.execute(
        f"SELECT CAST(key AS BLOB) FROM {database}.{quote_name(table)} WHERE rowid = ?", (rowid,)
    ).fetchone()
    if row is None or row[0] is None:
        return f"(row {rowid})"
    shown = repr(row[0].decode("utf-8", "backslashreplace"))
    return shown if len(shown) <= _KEY_SHOWN else f"{shown[:_KEY_SHOWN]}… (row {rowid})"


def _options(run: Run, target: Format) -> Options:
    return Options(
        pickle_allow=tuple(run.pickle_allow),
        shared_references=target.parameters["sharedReferences"],
        memory_limit=run.worker_memory,
    )
