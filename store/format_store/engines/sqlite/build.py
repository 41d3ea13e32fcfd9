"""Writing the staging copy: its pages, then sqlitedict's tables, then migrations, then the marker.

    pages             how they are made
    as they are       one by one (SQLite's backup API)
    another size,     by ``VACUUM INTO``, which writes every page anew and keeps every rowid
    auto-vacuum on or off
    none that stay    an empty file: where all tables are sqlitedict's, and all of them are converted

The journal is off: any error discards the copy, which is all that a rollback could do.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

from format_store import durable, errors
from format_store.engines.base import Job
from format_store.engines.sqlite import running, survey
from format_store.engines.sqlite.survey import Work, pragma
from format_store.engines.sqlitedict import build as sqlitedict
from format_store.engines.sqlitedict import schema
from format_store.sqlitefile import connect, marker_of, sqlite_errors, uri

_OPERATION = "build"


def build(job: Job) -> None:
    """Build ``job.staging_path``, marker included. Raises MigrationFailed, UnconvertibleKey, OutOfSpace, Failed …"""
    with sqlite_errors(_OPERATION, job.staging_path):
        with (
            closing(connect(job.source_path, mode="ro")) as source,
            job.run.abort.connection(source),
        ):
            work = survey.work(source, job.source, job.target, job.source_path)
            protected = survey.protected(source, job.source)
            converted = [] if work.part is None else _converted(source, job, work)
            _write_pages(job, source, work, converted)
        durable.start_writeback(job.staging_path)
        if work.part is not None:
            before, after = work.part
            with _staging(job) as staging, job.run.abort.connection(staging):
                sqlitedict.configure(staging)
                sqlitedict.convert_tables(
                    replace(job, source=before, target=after),
                    staging,
                    [table.name for table in converted],
                )
        with _staging(job) as staging, job.run.abort.connection(staging):
            sqlitedict.configure(staging)
            if int(pragma(staging, "auto_vacuum")) != work.auto_vacuum:
                staging.execute(f"PRAGMA main.auto_vacuum={work.auto_vacuum}")
            running.run(job, staging, work.steps, protected)
            _require_names_of_its_own(job, staging, protected)
            mode = job.target.parameters["journalMode"] or job.journal_mode
            sqlitedict.mark(replace(job, journal_mode=mode), staging)


def _staging(job: Job) -> closing[sqlite3.Connection]:
    return closing(connect(job.staging_path))


def _converted(source: sqlite3.Connection, job: Job, work: Work) -> list[schema.Table]:
    assert work.part is not None
    return schema.selected(source, *work.part, job.source_path)


def _write_pages(
    job: Job, source: sqlite3.Connection, work: Work, converted: list[schema.Table]
) -> None:
    """What stays of the source, in pages as the target has them."""
    if not schema.other_objects(source, converted):
        with closing(connect(job.staging_path, mode="rwc")) as staging:
            sqlitedict.configure(staging)
            sqlitedict.create_like(
                source, staging, page_size=work.page_size, auto_vacuum=work.auto_vacuum
            )
    elif work.repack:
        source.execute(f"PRAGMA main.page_size={work.page_size}")
        if (work.auto_vacuum == 0) != (int(pragma(source, "auto_vacuum")) == 0):
            # Otherwise SQLite would write it into the source's header at once; `build` sets it on the copy.
            source.execute(f"PRAGMA main.auto_vacuum={work.auto_vacuum}")
        # For the file that is written: it is made durable as a whole later.
        source.execute("PRAGMA main.synchronous=OFF")
        source.execute(f"PRAGMA main.cache_size=-{sqlitedict.CACHE_KIB}")
        source.execute("VACUUM main INTO ?", (uri(job.staging_path, "rwc"),))
    else:
        with closing(connect(job.staging_path, mode="rwc")) as staging:
            sqlitedict.copy_pages(job, source, staging)
    if __debug__:
        job.run.failpoints.hit("build.after-pages")


def _require_names_of_its_own(
    job: Job, staging: sqlite3.Connection, before: frozenset[str]
) -> None:
    """A table of sqlitedict's shape that a migration has made would not be in the format that the marker tells;
    and nothing but the marker has its name.
    """
    made = survey.protected(staging, job.target) - before
    what = f"the table {min(made)!r} of sqlitedict's shape, whose format" if made else ""
    if not what:
        try:
            marker_of(staging, job.staging_path)
        except errors.UnreadableMarker as error:
            what = f"something whose name ({error.message})"
    if what:
        raise errors.MigrationFailed(
            f"a migration makes {what} is not its own to choose",
            operation="migrate",
            path=job.source_path,
            hint="The copy that it ran on was discarded; the database is as it was. Leave sqlitedict's tables to "
            "the application, or name those that are in its format in `tables`.",
        )
