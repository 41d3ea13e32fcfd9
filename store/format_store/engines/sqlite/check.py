"""Verifying a staging copy against its source, and checking a database by itself.

Whatever a migration has touched is for the migration's own checks; everything else has to be what it was: every
row, every object of the schema, the numbers in the header.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from format_store import beside
from format_store.abort import Abort
from format_store.engines import kept
from format_store.engines.base import Job
from format_store.engines.sqlite import survey
from format_store.engines.sqlite.authorizer import HEADER
from format_store.engines.sqlite.survey import Work, pragma
from format_store.engines.sqlitedict import check as sqlitedict
from format_store.engines.sqlitedict import schema, structure
from format_store.formats import Format
from format_store.run import Run
from format_store.sqlitefile import (
    attach_source,
    connect,
    marker_of,
    sqlite_errors,
)

_OPERATION = "verify"
_SEQUENCE = "sqlite_sequence"
_Object = tuple[str, str, str, str | None]


def verify(job: Job) -> None:
    """Compare the staging copy, opened anew, with the source. Raises VerificationFailed, Aborted …

    Beside it, on a connection and a core of its own, runs SQLite's look at the whole file.
    """
    with (
        sqlite_errors(_OPERATION, job.staging_path),
        closing(connect(job.staging_path)) as staging,
        job.run.abort.connection(staging),
    ):
        with closing(connect(job.source_path, mode="ro")) as source:
            work = survey.work(source, job.source, job.target, job.source_path)
            converted = (
                [] if work.part is None else schema.selected(source, *work.part, job.source_path)
            )
        names = [table.name for table in converted]
        # Innermost: where two connections are closed at the same moment, the write-ahead log stays.
        with beside.running(lambda stop: _check_structure(job, names, stop)):
            staging.execute("PRAGMA query_only=ON")
            attach_source(staging, job.source_path)
            if marker_of(staging, job.staging_path) != job.marker:
                raise job.wrong("its marker does not read back")
            _compare_header(job, staging, work)
            _compare_schema(job, staging, converted)
            done = _compare_converted(job, staging, work, names)
            _compare_tables(job, staging, {schema.fold(name) for name in names}, done)


def _check_structure(job: Job, converted: list[str], stop: Abort) -> None:
    with (
        sqlite_errors(_OPERATION, job.staging_path),
        closing(connect(job.staging_path)) as staging,
        job.run.abort.connection(staging),
        stop.connection(staging),
    ):
        staging.execute("PRAGMA query_only=ON")
        others = [name for name, _ in survey.counted(staging) if name not in converted]
        found = structure.findings(staging, converted, others)
        if found:
            raise job.wrong(f"integrity_check: {found}")


def _compare_header(job: Job, staging: sqlite3.Connection, work: Work) -> None:
    mode = job.target.parameters["journalMode"] or job.journal_mode
    wanted = {
        "page_size": work.page_size,
        "auto_vacuum": work.auto_vacuum,
        # Of the others (TRUNCATE, PERSIST …) a file knows nothing.
        "journal_mode": "wal" if mode == "wal" else "delete",
    }
    for name in ("encoding", *HEADER):
        if name not in job.notes.get("header", ()):
            wanted[name] = staging.execute(f"PRAGMA source.{name}").fetchone()[0]
    for name, value in wanted.items():
        found = pragma(staging, name)
        if found != value:
            raise job.wrong(f"its {name} is {found}, not {value}")


def _compare_schema(job: Job, staging: sqlite3.Connection, converted: list[schema.Table]) -> None:
    """Every object that nothing has touched is there, word for word, and there are no others."""
    before, after = (
        {(one[0], one[1]): one for one in schema.other_objects(staging, converted, database)}
        for database in ("source", "main")
    )
    for key in before.keys() | after.keys():
        was, is_ = before.get(key), after.get(key)
        if was == is_ or any(_is_touched(job, one) for one in (was, is_) if one is not None):
            continue
        # ALTER TABLE rewrites what speaks of the table: triggers, views, foreign keys, the names of its indexes. What
        # it has made of them was noted when it had been run.
        if job.notes.get("altered") and repr(is_) in job.notes["schema"]:
            continue
        raise job.wrong(f"the {key[0]} {key[1]!r} is not as it was")
    there = {table.name for table in schema.tables(staging)}
    if not there.issuperset(table.name for table in converted):
        raise job.wrong("a converted table is missing")


def _is_touched(job: Job, found: _Object) -> bool:
    return _touched(job, found[1]) or _touched(job, found[2])


def _touched(job: Job, name: str) -> bool:
    """By itself, or as the shadow of a virtual table that was (see ``running``)."""
    touched = job.notes.get("touched", set())
    folded = schema.fold(name)
    return folded in touched or any(
        folded.startswith(f"{one}_") and folded in job.notes.get("shadows", set())
        for one in touched
    )


def _compare_converted(job: Job, staging: sqlite3.Connection, work: Work, names: list[str]) -> int:
    done = 0
    if work.part is not None:
        before, after = work.part
        for name in names:
            done += sqlitedict.compare_table(
                replace(job, source=before, target=after), staging, name, done
            )
            job.run.check_abort(_OPERATION)
    return done


def _compare_tables(job: Job, staging: sqlite3.Connection, converted: set[str], done: int) -> None:
    """Every row of every table that is neither converted nor touched by a migration."""
    for kind, name, _, _ in schema.other_objects(staging, [], "source"):
        folded = schema.fold(name)
        if kind != "table" or folded in converted or folded.startswith("sqlite_stat"):
            continue
        if folded == _SEQUENCE:
            _compare_sequences(job, staging)
        elif not _touched(job, name) and kept.stores_rows(staging, name, "source"):
            done += kept.require_same_table(job, staging, name)
            job.run.observer.progress(done, max(done, job.survey.rows))
            job.run.check_abort(_OPERATION)


def _compare_sequences(job: Job, staging: sqlite3.Connection) -> None:
    """The highest rowid that each AUTOINCREMENT table has ever had."""
    query = f"SELECT name, seq FROM {{}}.{_SEQUENCE}"
    found = set(staging.execute(query.format("main")).fetchall())
    for name, highest in staging.execute(query.format("source")).fetchall():
        if (name, highest) not in found and not _touched(job, str(name)):
            raise job.wrong(f"the next rowid of table {name!r} is not what it was")


def check(run: Run, path: Path, format: Format, *, tolerate_forbidden: bool = False) -> int:
    """Check the file's structure, and decode every row of sqlitedict's tables where the format tells how.

    Returns the number of all rows. Raises CorruptDatabase, VerificationFailed, MarkerMismatch.
    """
    part = survey.part_of(format)
    if part is not None:
        sqlitedict.check(run, path, part, tolerate_forbidden=tolerate_forbidden)
    with (
        sqlite_errors(_OPERATION, path),
        closing(connect(path)) as connection,
        run.abort.connection(connection),
    ):
        if part is None:
            sqlitedict.require_integrity(connection, path)
        return sum(rows for _, rows in survey.counted(connection))
