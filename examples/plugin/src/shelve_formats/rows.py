"""The values of all rows, through the store's worker processes: a pickle may do nothing to ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from format_store import Format, errors
from format_store.codecs import BadValue, Interrupted, WorkerError
from format_store.codecs import jobs as work
from format_store.codecs.pool import WorkerPool
from format_store.codecs.recode import Options
from format_store.engines.base import Obstacle
from format_store.run import Run
from shelve_formats.table import TABLE, value_format

ALL = f"SELECT rowid, value FROM {TABLE} ORDER BY rowid"


def options(run: Run, *, tolerate_forbidden: bool = False) -> Options:
    return Options(
        pickle_allow=tuple(run.pickle_allow),
        memory_limit=run.worker_memory,
        tolerate_forbidden=tolerate_forbidden,
    )


def through_workers(run: Run, job: work.Job, rows: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """The job's result for chunk after chunk. Raises BadValue, Aborted, WorkerFailed."""
    with _workers(run) as pool:
        for result in pool.map_ordered(job, work.chunks(rows)):
            run.check_abort("convert")
            yield result


@contextmanager
def _workers(run: Run) -> Iterator[WorkerPool]:
    with (
        WorkerPool(memory_limit=run.worker_memory) as pool,
        run.abort.interrupting(pool.interrupt),
    ):
        try:
            yield pool
        except Interrupted:
            run.check_abort("convert")
            raise
        except WorkerError as error:
            run.check_abort("convert")
            raise errors.WorkerFailed(
                str(error),
                operation="decode values",
                path=run.primary,
                hint="The database is as it was. If memory is short, give the process more.",
            ) from error


def recoded(
    run: Run, connection: sqlite3.Connection, source: Format, target: Format
) -> Iterator[list[tuple[int, bytes]]]:
    """(rowid, new value) in rowid order; text codecs' values as UTF-8, which is what a dbm gives back."""
    job = work.Job.recode(value_format(source), value_format(target), options(run))
    try:
        for chunk in through_workers(run, job, connection.execute(ALL)):
            yield [(rowid, new.encode() if isinstance(new, str) else new) for rowid, new in chunk]
    except BadValue as error:
        raise errors.UnconvertibleValue(
            f"key {key_of(connection, error.rowid)}: {error.why}",
            operation="convert",
            path=run.primary,
            hint="The database is as it was. Change the record with the application, or choose another format.",
        ) from error


def compare(run: Run, connection: sqlite3.Connection, source: Format, target: Format) -> None:
    """Old and new value of every row mean the same; ``source`` is attached. Raises BadValue …"""
    job = work.Job.compare(value_format(source), value_format(target), options(run))
    pairs = connection.execute(
        f"SELECT a.rowid, b.value, a.value FROM main.{TABLE} AS a NOT INDEXED "
        f"JOIN source.{TABLE} AS b NOT INDEXED ON a.rowid = b.rowid ORDER BY a.rowid"
    )
    for _ in through_workers(run, job, pairs):
        pass


def undecodable(
    run: Run, connection: sqlite3.Connection, format: Format, *, tolerate_forbidden: bool = False
) -> BadValue | None:
    """The first value that does not decode, or None."""
    job = work.Job.decode(value_format(format), options(run, tolerate_forbidden=tolerate_forbidden))
    try:
        for _ in through_workers(run, job, connection.execute(ALL)):
            pass
    except BadValue as error:
        return error
    return None


def obstacles(
    run: Run, connection: sqlite3.Connection, source: Format, target: Format, limit: int
) -> list[Obstacle]:
    """Every value that ``target`` cannot hold, up to ``limit``."""
    job = work.Job.examine(value_format(source), value_format(target), options(run), limit=limit)
    found: list[Obstacle] = []
    for bad in through_workers(run, job, connection.execute(ALL)):
        found += [
            Obstacle("value", TABLE, one.rowid, key_of(connection, one.rowid), one.why)
            for one in bad
        ]
        if len(found) >= limit:
            break
    return found[:limit]


def key_of(connection: sqlite3.Connection, rowid: int) -> str:
    row = connection.execute(f"SELECT key FROM {TABLE} WHERE rowid = ?", (rowid,)).fetchone()
    return f"(row {rowid})" if row is None else repr(row[0])[:120]
