"""Verifying a staging copy against its source, and checking a database by itself.

In C where SQLite can: rows are joined by rowid, and compared by type and bytes. Plain ``IS`` and EXCEPT would
pass ``'abc'`` for ``'ABC'`` under NOCASE, and 1 for 1.0; ``typeof`` and ``COLLATE BINARY`` do not. Keys go
through the inverse of the function that made them, recoded values are decoded on both sides.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from format_store import errors
from format_store.engines.base import Job
from format_store.engines.sqlitedict import schema, values
from format_store.formats import Format
from format_store.run import Run
from format_store.sqlitefile import connect, marker_of, quote_name, quote_text, sqlite_errors, uri

_OPERATION = "verify"


def verify(job: Job) -> None:
    """Compare the staging copy, opened anew, with the source. Raises VerificationFailed, Aborted …"""
    with (
        sqlite_errors(_OPERATION, job.staging_path),
        closing(connect(job.staging_path)) as staging,
        job.run.abort.connection(staging),
    ):
        staging.execute("PRAGMA query_only=ON")
        staging.execute(f"ATTACH DATABASE {quote_text(uri(job.source_path, 'ro'))} AS source")
        if marker_of(staging, job.staging_path) != job.marker:
            raise _wrong(job, "its marker does not read back")
        converted = schema.selected(staging, job.source, job.target, job.source_path, "source")
        _compare_schema(job, staging, converted)
        done = 0
        for table in converted:
            done += _compare_table(job, staging, table.name, done)
            job.run.check_abort(_OPERATION)
        _require_integrity(staging, job.staging_path)


def check(run: Run, path: Path, format: Format, *, tolerate_forbidden: bool = False) -> int:
    """Decode every row of ``path`` and check its structure; returns the number of rows.

    Raises CorruptDatabase, VerificationFailed, MarkerMismatch.
    """
    with (
        sqlite_errors(_OPERATION, path),
        closing(connect(path)) as connection,
        run.abort.connection(connection),
    ):
        _require_integrity(connection, path)
        names = format.parameters["tables"]
        rows = 0
        for table in schema.tables(connection):
            if names is not None and table.name not in names:
                continue
            quoted = quote_name(table.name)
            rows += int(connection.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0])
        for obstacle in values.undecodable(
            run, connection, format, limit=1, tolerate_forbidden=tolerate_forbidden
        ):
            raise errors.VerificationFailed(
                f"table {obstacle.table!r}, key {obstacle.key}: {obstacle.what}",
                operation=_OPERATION,
                path=path,
                hint="The file was left as it is. Restore the record, or the file, from a backup.",
            )
    return rows


def _compare_schema(job: Job, staging: sqlite3.Connection, converted: list[schema.Table]) -> None:
    kept = schema.other_objects(staging, converted, "source")
    if kept != schema.other_objects(staging, converted, "main"):
        raise _wrong(job, "its schema is not the source's")
    names = [table.name for table in converted]
    if not {table.name for table in schema.tables(staging)}.issuperset(names):
        raise _wrong(job, "a converted table is missing")
    for kind, name, _, _ in kept:
        # SQLite's statistics are no data, and DROP TABLE takes those of a converted table with it.
        if kind == "table" and not name.startswith("sqlite_stat") and _stores_rows(staging, name):
            _compare_kept_table(job, staging, name)


def _stores_rows(staging: sqlite3.Connection, name: str) -> bool:
    """False for virtual tables: what they hold is in their shadow tables, which are compared themselves."""
    kind = staging.execute(
        "SELECT type FROM pragma_table_list WHERE schema = 'source' AND name = ?", (name,)
    ).fetchone()
    return kind is None or kind[0] in ("table", "shadow")


def _compare_kept_table(job: Job, staging: sqlite3.Connection, name: str) -> None:
    """A table that no conversion touches: every column of every row, by rowid or primary key."""
    quoted = quote_name(name)
    columns = staging.execute(f"PRAGMA source.table_xinfo({quoted})").fetchall()
    taken = {str(column[1]).lower() for column in columns}
    rowid = next((word for word in ("rowid", "_rowid_", "oid") if word not in taken), None)
    primary = [quote_name(column[1]) for column in columns if column[5]]
    without_rowid = staging.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'source' AND name = ?", (name,)
    ).fetchone()
    if without_rowid and without_rowid[0]:
        keys = primary
    elif rowid is not None:
        keys = [rowid]
    else:
        _require_equal_bags(job, staging, name, [quote_name(column[1]) for column in columns])
        return
    # Joined under the key's own collation, in which it is unique and has its index; what is joined is then
    # compared byte for byte. Under another collation every row would be looked for in the whole table.
    same = " AND ".join(f"a.{key} = b.{key}" for key in keys)
    equal = " AND ".join(_equal(quote_name(column[1])) for column in columns)
    _require_equal_counts(job, staging, name, same, equal)


def _compare_table(job: Job, staging: sqlite3.Connection, name: str, done: int) -> int:
    key = values.register_key_comparison(staging, job.source, job.target)
    if values.are_copied(job.source, job.target):
        rows = _require_equal_counts(
            job, staging, name, "a.rowid = b.rowid", f"{key} AND {_equal('value')}"
        )
        job.run.observer.progress(done + rows, job.survey.rows)
        return rows
    rows = _require_equal_counts(job, staging, name, "a.rowid = b.rowid", key)
    values.compare(job, staging, name, done)
    return rows


def _equal(column: str) -> str:
    return f"typeof(a.{column}) = typeof(b.{column}) AND a.{column} IS b.{column} COLLATE BINARY"


def _require_equal_bags(
    job: Job, staging: sqlite3.Connection, name: str, columns: list[str]
) -> None:
    """A table whose columns hide the rowid under all its names: every row as often as in the source."""
    shape = ", ".join(f"typeof({column}), {column} COLLATE BINARY" for column in columns)
    bag = f"SELECT {shape}, count(*) FROM {{}}.{quote_name(name)} GROUP BY {shape}"
    for one, other in (("main", "source"), ("source", "main")):
        query = f"{bag.format(one)} EXCEPT {bag.format(other)}"
        if staging.execute(query).fetchone() is not None:
            raise _wrong(job, f"in table {name!r}, rows differ")


def _require_equal_counts(
    job: Job, staging: sqlite3.Connection, name: str, same: str, equal: str
) -> int:
    """As many rows in the copy as in the source, and as many pairs that are equal."""
    quoted = quote_name(name)
    expected, found = (
        int(staging.execute(f"SELECT count(*) FROM {database}.{quoted}").fetchone()[0])
        for database in ("source", "main")
    )
    if found != expected:
        raise _wrong(job, f"table {name!r} has {found:,} rows, the source {expected:,}")
    pairs = int(
        staging.execute(
            f"SELECT count(*) FROM main.{quoted} AS a JOIN source.{quoted} AS b ON {same} WHERE {equal}"
        ).fetchone()[0]
    )
    if pairs != expected:
        raise _wrong(job, f"in table {name!r}, {expected - pairs:,} of {expected:,} rows differ")
    return expected


def _require_integrity(connection: sqlite3.Connection, path: Path) -> None:
    findings = connection.execute("PRAGMA main.integrity_check(5)").fetchall()
    if findings != [("ok",)]:
        raise errors.CorruptDatabase(
            "integrity_check: " + "; ".join(str(finding[0]) for finding in findings),
            operation=_OPERATION,
            path=path,
            hint="The database was left as it is; restore it from a backup if it is the damaged one.",
        )


def _wrong(job: Job, what: str) -> errors.VerificationFailed:
    return errors.VerificationFailed(
        f"the converted copy is wrong: {what}",
        operation=_OPERATION,
        path=job.source_path,
        hint="The copy was discarded; the database is as it was. Please report this with the formats.",
    )
