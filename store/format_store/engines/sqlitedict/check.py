"""Verifying a staging copy against its source, and checking a database by itself.

In C where SQLite can: rows are joined by rowid, and compared by type and bytes. Plain ``IS`` and EXCEPT would
pass ``'abc'`` for ``'ABC'`` under NOCASE, and 1 for 1.0; ``typeof`` and ``COLLATE BINARY`` do not. Keys go
through the inverse of the function that made them, recoded values are decoded on both sides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from format_store import beside, errors
from format_store.abort import Abort
from format_store.engines.base import Job
from format_store.engines.sqlitedict import fit, rowkeys, schema, structure, values
from format_store.formats import Format
from format_store.run import Run
from format_store.sqlitefile import connect, marker_of, quote_name, quote_text, sqlite_errors, uri

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
        staging.execute(f"ATTACH DATABASE {quote_text(uri(job.source_path, 'ro'))} AS source")
        if marker_of(staging, job.staging_path) != job.marker:
            raise values.wrong(job, "its marker does not read back")
        converted = schema.selected(staging, job.source, job.target, job.source_path, "source")
        _compare_schema(job, staging, converted)
        done = 0
        for table in converted:
            done += _compare_table(job, staging, table.name, done)
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
        kept = [
            name
            for kind, name, _, _ in schema.other_objects(
                staging, [schema.Table(name, "") for name in converted]
            )
            if kind == "table" and _stores_rows(staging, name, "main")
        ]
        found = structure.findings(staging, converted, kept)
        if found:
            raise values.wrong(job, f"integrity_check: {found}")


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
            unlike = fit.wrong_collation(table, format)
            if unlike is not None:
                raise errors.MarkerMismatch(
                    f"is not {format}: {unlike}",
                    operation=_OPERATION,
                    path=path,
                    hint="Nothing was touched. Name the format that it is in.",
                )
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
        raise values.wrong(job, "its schema is not the source's")
    names = [table.name for table in converted]
    if not {table.name for table in schema.tables(staging)}.issuperset(names):
        raise values.wrong(job, "a converted table is missing")
    for kind, name, _, _ in kept:
        # SQLite's statistics are no data, and DROP TABLE takes those of a converted table with it.
        if (
            kind == "table"
            and not name.startswith("sqlite_stat")
            and _stores_rows(staging, name, "source")
        ):
            _compare_kept_table(job, staging, name)


def _stores_rows(staging: sqlite3.Connection, name: str, database: str) -> bool:
    """False for virtual tables: what they hold is in their shadow tables, which are compared themselves."""
    kind = staging.execute(
        "SELECT type FROM pragma_table_list WHERE schema = ? AND name = ?", (database, name)
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
    key = rowkeys.register_key_comparison(staging, job.source, job.target)
    if not values.are_copied(job.source, job.target):
        rows = _require_equal_rows(job, staging, name, key.expression, key.parameters)
        values.compare(job, staging, name, done)
        return rows
    # Where a CHECK keeps numbers out, no pair is equal that differs in type; the other thread sees to the CHECKs.
    value = _equal("value") if schema.is_plain(job.target) else "a.value IS b.value COLLATE BINARY"
    rows = _require_equal_rows(job, staging, name, f"{value} AND {key.expression}", key.parameters)
    job.run.observer.progress(done + rows, job.survey.rows)
    return rows


def _require_equal_rows(
    job: Job, staging: sqlite3.Connection, name: str, equal: str, parameters: Mapping[str, bytes]
) -> int:
    """By rowid. Both tables as they lie: through the index of one, every row of the other is looked for."""
    quoted = quote_name(name)
    pairs = f"main.{quoted} AS a NOT INDEXED CROSS JOIN source.{quoted} AS b NOT INDEXED"
    return _require_equal_pairs(
        job, staging, name, f"{pairs} ON a.rowid = b.rowid WHERE {equal}", parameters
    )


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
            raise values.wrong(job, f"in table {name!r}, rows differ")


def _require_equal_counts(
    job: Job, staging: sqlite3.Connection, name: str, same: str, equal: str
) -> int:
    quoted = quote_name(name)
    return _require_equal_pairs(
        job, staging, name,
        f"main.{quoted} AS a JOIN source.{quoted} AS b ON {same} WHERE {equal}", {},
    )  # fmt: skip


def _require_equal_pairs(
    job: Job, staging: sqlite3.Connection, name: str, pairs: str, parameters: Mapping[str, bytes]
) -> int:
    """As many rows in the copy as in the source, and as many pairs that are equal."""
    expected, found = (
        int(staging.execute(f"SELECT count(*) FROM {database}.{quote_name(name)}").fetchone()[0])
        for database in ("source", "main")
    )
    if found != expected:
        raise values.wrong(job, f"table {name!r} has {found:,} rows, the source {expected:,}")
    equal = int(staging.execute(f"SELECT count(*) FROM {pairs}", parameters).fetchone()[0])
    if equal != expected:
        raise values.wrong(
            job, f"in table {name!r}, {expected - equal:,} of {expected:,} rows differ"
        )
    return expected


def _require_integrity(connection: sqlite3.Connection, path: Path) -> None:
    findings = structure.integrity(connection)
    if findings:
        raise errors.CorruptDatabase(
            f"integrity_check: {findings}",
            operation=_OPERATION,
            path=path,
            hint="The database was left as it is; restore it from a backup if it is the damaged one.",
        )
