"""Writing the staging copy: every row under its rowid, keys and values in the target's form.

Where the file holds nothing but sqlitedict tables the copy is a new file. Otherwise it is a page-by-page copy
of the source (SQLite's backup API) in which the converted tables are dropped and written anew, so that
every other object stays as it is.

The journal is off: any error discards the copy, which is all that a rollback could do.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from format_store import beside, durable, errors
from format_store.engines.base import Job
from format_store.engines.sqlitedict import bare, rowkeys, schema, values
from format_store.formats import MARKER_NAME
from format_store.sqlitefile import (
    attach_source,
    connect,
    marker_of,
    quote_name,
    quote_text,
    sqlite_errors,
)

_OPERATION = "build"
#: SQLite's page cache while it builds, which is also how much it sorts at once; more takes longer to sort.
CACHE_KIB = 16 * 1024
#: Rows per statement: often enough for progress, seldom enough to cost nothing.
_BATCH = 50_000
_WRITEBACK_EVERY_BATCHES = 4
_BACKUP_PAGES = 4096


def build(job: Job) -> None:
    """Build ``job.staging_path``, marker included. Raises UnconvertibleKey, UnconvertibleValue, Failed …"""
    with (
        sqlite_errors(_OPERATION, job.staging_path),
        closing(connect(job.staging_path, mode="rwc")) as staging,
        job.run.abort.connection(staging),
    ):
        with closing(connect(job.source_path, mode="ro")) as source:
            converted = schema.selected(source, job.source, job.target, job.source_path)
            if schema.other_objects(source, converted):
                copy_pages(job, source, staging)
                configure(staging)
            else:
                configure(staging)
                create_like(source, staging)
        convert_tables(job, staging, [table.name for table in converted])
        mark(job, staging)


def mark(job: Job, staging: sqlite3.Connection) -> None:
    """Put the marker in, and the journal mode: the source's, or the one that ``job`` was made with."""
    staging.execute("BEGIN")
    if marker_of(staging, job.staging_path) is not None:
        staging.execute(f"DROP VIEW {MARKER_NAME}")
    staging.execute(job.marker.create_statement())
    staging.execute("COMMIT")
    if job.journal_mode == "wal":
        # As the last step, because it makes -wal and -shm files.
        staging.execute("PRAGMA main.locking_mode=NORMAL")
        staging.execute("PRAGMA main.journal_mode=WAL")


def create_like(
    source: sqlite3.Connection, staging: sqlite3.Connection, **instead: str | int
) -> None:
    """Give an empty file the source's page size, text encoding, auto-vacuum and the application's numbers.

    ``instead``: other values, by the pragma's name.
    """
    for pragma in ("page_size", "encoding", "auto_vacuum", "application_id", "user_version"):
        value = instead.get(pragma, source.execute(f"PRAGMA {pragma}").fetchone()[0])
        staging.execute(
            f"PRAGMA {pragma} = {quote_text(value) if isinstance(value, str) else int(value)}"
        )


def copy_pages(job: Job, source: sqlite3.Connection, staging: sqlite3.Connection) -> None:
    """Page by page, by SQLite's backup API: the copy is the source, byte for byte but for its change counter."""

    def stop_when_asked(_status: int, _remaining: int, _total: int) -> None:
        job.run.check_abort(_OPERATION)

    source.backup(staging, pages=_BACKUP_PAGES, progress=stop_when_asked)


def configure(staging: sqlite3.Connection) -> None:
    """No journal, no fsync, nobody else: what goes wrong is discarded, and made durable by whoever calls."""
    # Qualified by `main`: without it they would hold for the source, too, which is attached later.
    staging.execute(
        "PRAGMA main.journal_mode=DELETE"
    )  # a page copy of a WAL database begins as one
    staging.execute("PRAGMA main.journal_mode=OFF")
    staging.execute("PRAGMA main.synchronous=OFF")
    staging.execute("PRAGMA main.locking_mode=EXCLUSIVE")
    staging.execute(f"PRAGMA main.cache_size=-{CACHE_KIB}")
    # Beside this thread, for sorting: an index that does not fit in memory is made in half the time.
    staging.execute(f"PRAGMA threads={2 if len(os.sched_getaffinity(0)) > 1 else 0}")


def convert_tables(job: Job, staging: sqlite3.Connection, tables: list[str]) -> None:
    """Make these tables anew in the target's format, from the source's rows, in one transaction.

    The connection has to be opened anew before it sees them as they are (``bare.finish``).
    """
    attach_source(staging, job.source_path)
    staging.execute("BEGIN")
    done = 0
    for table in tables:
        staging.execute(f"DROP TABLE IF EXISTS main.{quote_name(table)}")
        if bare.possible():
            bare.create(staging, table, job.target)
        else:
            staging.execute(schema.create_statement(table, job.target))
        if __debug__:
            job.run.failpoints.hit("build.after-create-table")
        done = _fill(job, staging, table, done)
        if bare.possible():
            durable.start_writeback(job.staging_path)
            bare.finish(staging, table, job.target)
    staging.execute("COMMIT")
    staging.execute("DETACH DATABASE source")


def _fill(job: Job, staging: sqlite3.Connection, table: str, done: int) -> int:
    if values.are_copied(job.source, job.target):
        batches = _copy_rows(job, staging, table)
    else:
        batches = _recode_rows(job, staging, table)
    for number, rows in enumerate(batches, 1):
        done += rows
        job.run.observer.progress(done, job.survey.rows)
        job.run.check_abort(_OPERATION)
        if __debug__:
            job.run.failpoints.hit("build.after-batch")
        if number % _WRITEBACK_EVERY_BATCHES == 0:
            durable.start_writeback(job.staging_path)
    return done


def _copy_rows(job: Job, staging: sqlite3.Connection, table: str) -> Iterator[int]:
    """Values as they are, keys through SQL: SQLite moves the rows itself. Yields rows per batch."""
    key = rowkeys.register_key_function(staging, job.source, job.target)
    if not key.text_unseen:
        yield from _moved_rows(job, staging, table, key)
        return
    with beside.running(
        lambda stop: rowkeys.first_that_is_no_text(job, [table], stop)
    ) as unreadable:
        yield from _moved_rows(job, staging, table, key)
        if unreadable.result() is not None:
            obstacle = rowkeys.first_obstacle(job, staging, table, None)
            if obstacle is None:
                raise errors.CorruptDatabase(
                    f"table {table!r} has a key that is no text, in its index or in the table only",
                    operation="build",
                    path=job.source_path,
                    hint="The database is as it was. Restore it from a backup, or save what can be read "
                    "(sqlite3 .recover) and convert that.",
                )
            raise obstacle


def _moved_rows(
    job: Job, staging: sqlite3.Connection, table: str, key: rowkeys.KeySql
) -> Iterator[int]:
    name = quote_name(table)
    last: int | None = None
    while True:
        since = "" if last is None else f"WHERE rowid > {last}"
        try:
            inserted = staging.execute(
                f"INSERT INTO main.{name} (rowid, key, value) SELECT rowid, {key.expression}, value "
                f"FROM source.{name} {since} ORDER BY rowid LIMIT {_BATCH}",
                key.parameters,
            ).rowcount
        except sqlite3.Error as error:
            obstacle = rowkeys.first_obstacle(job, staging, table, last)
            if obstacle is not None:
                raise obstacle from error
            raise
        if inserted <= 0:
            return
        yield inserted
        if inserted < _BATCH:
            return
        last = int(staging.execute(f"SELECT max(rowid) FROM main.{name}").fetchone()[0])


def _recode_rows(job: Job, staging: sqlite3.Connection, table: str) -> Iterator[int]:
    """Values through worker processes, in order. Yields rows per chunk."""
    encode_key = rowkeys.key_converter(job.source, job.target)
    name = quote_name(table)
    insert = f"INSERT INTO main.{name} (rowid, key, value) VALUES (?, ?, ?)"
    for keys, recoded in values.recoded(job, staging, table):
        try:
            staging.executemany(
                insert,
                [
                    (rowid, encode_key(key), value)
                    for key, (rowid, value) in zip(keys, recoded, strict=True)
                ],
            )
        except (sqlite3.Error, ValueError) as error:
            obstacle = rowkeys.first_obstacle(job, staging, table, recoded[0][0] - 1)
            if obstacle is not None:
                raise obstacle from error
            raise errors.Failed(
                f"a row of table {table!r} was not taken: {error}",
                operation=_OPERATION,
                path=Path(job.source_path),
                hint="The staging copy was discarded; the database is as it was. Please report this.",
            ) from error
        yield len(recoded)
