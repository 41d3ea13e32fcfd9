"""The values of rows between two formats, through worker processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from format_store import codecs, errors
from format_store.codecs import BadValue
from format_store.codecs import jobs as work
from format_store.codecs.pool import WorkerPool
from format_store.codecs.recode import Options
from format_store.engines.base import Job, Obstacle
from format_store.engines.sqlitedict import rowkeys, schema
from format_store.engines.sqlitedict.rowkeys import Stored
from format_store.formats import Format
from format_store.run import Run
from format_store.sqlitefile import quote_name

#: A worker costs some 50 ms to start: fewer rows than this are not worth a second one.
_ROWS_PER_WORKER = 5_000
_KEY_SHOWN = 120


def are_copied(source: Format, target: Format) -> bool:
    """Whether values stay as they lie: the codec and the compression do not change."""
    return schema.value_format(source) == schema.value_format(target)


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

    task = work.Job.convert(
        schema.value_format(job.source),
        schema.value_format(job.target),
        _options(job.run, job.target),
    )
    with _workers(job.run, job.survey.rows) as pool, _named(job.run, connection, "source", table):
        noted = job.digests.setdefault(table, [])
        for number, (rows, digest) in enumerate(
            pool.map_ordered(task, _decodable(job, connection, table, chunks()))
        ):
            noted.append((len(rows), digest))
            yield keys[number], rows
            keys[number] = []


def _decodable(
    job: Job, connection: sqlite3.Connection, table: str, chunks: Iterator[Any]
) -> Iterator[Any]:
    """The chunks; where SQLite's binding cannot decode a row's text, an error that names the row."""
    try:
        yield from chunks
    except sqlite3.OperationalError as error:
        obstacle = rowkeys.first_obstacle(job, connection, table, None)
        if obstacle is not None:
            raise obstacle from error
        value = _undecodable_text(connection, "source", table)
        if value is not None:
            raise rowkeys.refusal(job.source_path, value) from error
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
    """Read every value of the copy back from the file, and compare what it means with what the source's meant.

    By digests over rowids and values, chunk by chunk; the source's were made of what the workers had read
    there. Where two differ, both sides are decoded once more and compared value by value: sets may list their
    members in another order, anything else is an error. Raises VerificationFailed, WorkerFailed, Aborted.
    """
    found, wanted = schema.value_format(job.source), schema.value_format(job.target)
    options = _options(job.run, job.target)
    noted = job.digests.get(table, [])
    with _workers(job.run, job.survey.rows) as pool, _read_back(job, connection, table):
        rows = connection.cursor().execute(
            f"SELECT rowid, value FROM main.{quote_name(table)} NOT INDEXED ORDER BY rowid"
        )
        spans: list[tuple[int, int]] = []

        def chunks() -> Iterator[Any]:
            seen = done
            for count, _ in noted:
                chunk = list(islice(rows, count))
                if not chunk:
                    return
                spans.append((chunk[0][0], chunk[-1][0]))
                seen += len(chunk)
                job.run.check_abort("verify")
                yield chunk
                job.run.observer.progress(seen, job.survey.rows)

        digests = pool.map_ordered(work.Job.digest(found, wanted, options), chunks())
        unlike = [
            number
            for number, digest in enumerate(digests)
            if not digest or digest != noted[number][1]
        ]
        if len(spans) != len(noted) or next(rows, None) is not None:
            raise job.wrong(f"table {table!r} has other rows than were written")
        pairs = (_pairs(connection, table, *spans[number]) for number in unlike)
        for _ in pool.map_ordered(work.Job.compare(found, wanted, options), pairs):
            job.run.check_abort("verify")


def _pairs(
    connection: sqlite3.Connection, table: str, first: int, last: int
) -> list[tuple[Any, ...]]:
    name = quote_name(table)
    return connection.execute(
        f"SELECT a.rowid, b.value, a.value FROM main.{name} AS a NOT INDEXED "
        f"CROSS JOIN source.{name} AS b NOT INDEXED ON a.rowid = b.rowid "
        "WHERE a.rowid BETWEEN ? AND ? ORDER BY a.rowid",
        (first, last),
    ).fetchall()


@contextmanager
def _read_back(job: Job, connection: sqlite3.Connection, table: str) -> Iterator[None]:
    """What is wrong with a value of the copy is a fault of ours, and named."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if _undecodable_text(connection, "main", table) is None:
            raise
        raise job.wrong(f"table {table!r} has text that is none") from error
    except BadValue as error:
        key = _key(connection, "source", table, error.rowid)
        raise job.wrong(f"table {table!r}, key {key}: {error.why}") from error


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
            found += rowkeys.undecodable(connection, table.name, format, limit - len(found))
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
        found = rowkeys.undecodable(connection, table, source, limit)
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
        raise rowkeys.refusal(
            run.primary, Obstacle("value", table, error.rowid, key, what)
        ) from error


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
