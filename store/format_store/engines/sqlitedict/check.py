"""Verifying a staging copy against its source, and checking a database by itself.

In C where SQLite can: rows are joined by rowid, and compared by type and bytes (see ``engines.kept``). Keys go
through the inverse of the function that made them, recoded values are decoded on both sides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from format_store import beside, errors
from format_store.abort import Abort
from format_store.engines import kept
from format_store.engines.base import Job
from format_store.engines.sqlitedict import fit, rowkeys, schema, structure, values
from format_store.formats import Format
from format_store.run import Run
from format_store.sqlitefile import (
    attach_source,
    connect,
    marker_of,
    quote_name,
    sqlite_errors,
)

_OPERATION = "verify"


def verify(job: Job) -> None:
    """Compare the staging copy, opened anew, with the source. Raises VerificationFailed, Aborted …

    Beside it, on a connection and a core of its own, runs SQLite's look at the whole file.
    """
    with (
        sqlite_errors(_OPERATION, job.staging_path),
        closing(connect(job.staging_path)) as staging,
        job.run.abort.connection(staging),
        # Innermost, so that the other connection is closed before this one: where two are closed at the same
        # moment, neither is the last, and the write-ahead log stays.
        beside.running(lambda stop: _check_structure(job, stop)),
    ):
        staging.execute("PRAGMA query_only=ON")
        attach_source(staging, job.source_path)
        if marker_of(staging, job.staging_path) != job.marker:
            raise job.wrong("its marker does not read back")
        converted = schema.selected(staging, job.source, job.target, job.source_path, "source")
        _compare_schema(job, staging, converted)
        done = 0
        for table in converted:
            done += compare_table(job, staging, table.name, done)
            job.run.check_abort(_OPERATION)


def _check_structure(job: Job, stop: Abort) -> None:
    with (
        sqlite_errors(_OPERATION, job.staging_path),
        closing(connect(job.staging_path)) as staging,
        job.run.abort.connection(staging),
        stop.connection(staging),
    ):
        staging.execute("PRAGMA query_only=ON")
        converted = [name for name, _ in job.survey.tables]
        others = [
            name
            for kind, name, _, _ in schema.other_objects(
                staging, [schema.Table(name, "") for name in converted]
            )
            if kind == "table" and kept.stores_rows(staging, name, "main")
        ]
        found = structure.findings(staging, converted, others)
        if found:
            raise job.wrong(f"integrity_check: {found}")


def check(run: Run, path: Path, format: Format, *, tolerate_forbidden: bool = False) -> int:
    """Decode every row of ``path`` and check its structure; returns the number of rows.

    Raises CorruptDatabase, VerificationFailed, MarkerMismatch.
    """
    with (
        sqlite_errors(_OPERATION, path),
        closing(connect(path)) as connection,
        run.abort.connection(connection),
    ):
        require_integrity(connection, path)
        names = format.parameters["tables"]
        counted = 0
        for table in schema.tables(connection):
            if names is not None and table.name not in names:
                continue
            unlike = fit.wrong_collation(table, format)
            if unlike is not None:
                raise errors.MarkerMismatch(
                    f"is not {format}: {unlike}",
                    operation=_OPERATION,
                    path=path,
                    hint="Nothing was touched. Name the format that it is in.",
                )
            quoted = quote_name(table.name)
            counted += int(connection.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0])
        for obstacle in values.undecodable(
            run, connection, format, limit=1, tolerate_forbidden=tolerate_forbidden
        ):
            raise errors.VerificationFailed(
                f"table {obstacle.table!r}, key {obstacle.key}: {obstacle.what}",
                operation=_OPERATION,
                path=path,
                hint="The file was left as it is. Restore the record, or the file, from a backup.",
            )
    return counted


def _compare_schema(job: Job, staging: sqlite3.Connection, converted: list[schema.Table]) -> None:
    others = schema.other_objects(staging, converted, "source")
    if others != schema.other_objects(staging, converted, "main"):
        raise job.wrong("its schema is not the source's")
    names = [table.name for table in converted]
    if not {table.name for table in schema.tables(staging)}.issuperset(names):
        raise job.wrong("a converted table is missing")
    for kind, name, _, _ in others:
        # SQLite's statistics are no data, and DROP TABLE takes those of a converted table with it.
        if (
            kind == "table"
            and not name.startswith("sqlite_stat")
            and kept.stores_rows(staging, name, "source")
        ):
            kept.require_same_table(job, staging, name)


def compare_table(job: Job, staging: sqlite3.Connection, name: str, done: int) -> int:
    key = rowkeys.register_key_comparison(staging, job.source, job.target)
    if not values.are_copied(job.source, job.target):
        compared = _require_equal_rows(job, staging, name, key.expression, key.parameters)
        values.compare(job, staging, name, done)
        return compared
    # Where a CHECK keeps numbers out, no pair is equal that differs in type; the other thread sees to the CHECKs.
    value = (
        kept.equal("value") if schema.is_plain(job.target) else "a.value IS b.value COLLATE BINARY"
    )
    compared = _require_equal_rows(
        job, staging, name, f"{value} AND {key.expression}", key.parameters
    )
    job.run.observer.progress(done + compared, job.survey.rows)
    return compared


def _require_equal_rows(
    job: Job, staging: sqlite3.Connection, name: str, equal: str, parameters: Mapping[str, bytes]
) -> int:
    """By rowid. Both tables as they lie: through the index of one, every row of the other is looked for."""
    quoted = quote_name(name)
    pairs = f"main.{quoted} AS a NOT INDEXED CROSS JOIN source.{quoted} AS b NOT INDEXED"
    return kept.require_equal_pairs(
        job, staging, name, f"{pairs} ON a.rowid = b.rowid WHERE {equal}", parameters
    )


def require_integrity(connection: sqlite3.Connection, path: Path) -> None:
    findings = structure.integrity(connection)
    if findings:
        raise errors.CorruptDatabase(
            f"integrity_check: {findings}",
            operation=_OPERATION,
            path=path,
            hint="The database was left as it is; restore it from a backup if it is the damaged one.",
        )
