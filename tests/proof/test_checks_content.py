"""What is verified of the content and was missed by no test until the mutation gate left it out; each test names one."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from format_store import Format, Outcome, convert, errors, sqlitefile, verify
from format_store.engines.sqlitedict import build
from tests.proof.test_checks import at, work_of
from tests.proof.test_order import DICT, RECORDS
from tests.support.databases import execute, write_plain
from tests.support.sqlite_files import sqlite_format, write_sql


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "orders.db"
    write_plain(file, RECORDS)
    return file


def spoilt(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    real = build.build

    def spoil(job: Any) -> None:
        real(job)
        execute(job.staging_path, *statements)

    monkeypatch.setattr(build, "build", spoil)


def test_a_marker_of_another_format(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that can be read, and is not this conversion's, is found."""
    other = path.with_name("other.db")
    write_plain(other, RECORDS)
    convert(other, DICT)
    with closing(sqlite3.connect(other)) as connection:
        (marker,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE type = 'view'"
        ).fetchone()
    spoilt(monkeypatch, "DROP VIEW _storageformat", marker)
    with pytest.raises(errors.VerificationFailed, match="marker"):
        convert(path, DICT)


def test_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row too many in a kept table, with a rowid or without, is found."""
    execute(path, "CREATE TABLE log (a)", "INSERT INTO log VALUES (1)")
    execute(path, "CREATE TABLE hid (rowid, oid, _rowid_)", "INSERT INTO hid VALUES (1, 2, 3)")
    for statement in (
        "INSERT INTO log VALUES (2)",
        "INSERT INTO hid VALUES (1, 2, 3)",
        "DELETE FROM hid",
    ):
        with monkeypatch.context() as patch:
            spoilt(patch, statement)
            with pytest.raises(errors.VerificationFailed):
                convert(path, DICT)
    assert convert(path, DICT).outcome is Outcome.CONVERTED


@pytest.mark.parametrize(
    "target",
    [DICT, sqlite_format(sqlitedict={"keyEncoding": "hierarchical"})],
    ids=["sqlitedict", "sqlite"],
)
def test_a_converted_table_is_missing(path: Path, target: Format) -> None:
    """A table that was to be converted has to be there, and its absence is the copy's fault."""
    write_plain(path, [], table="second")

    def drop() -> None:
        execute(work_of(path).staging, "DROP TABLE second")

    with pytest.raises(errors.VerificationFailed):
        convert(path, target, failpoints=at("build.after-staging", drop))


def harm_index(path: Path) -> None:
    """Rows as they were, and an index of others: no comparison of rows sees it."""
    row = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = 'i'"
    for statements in (
        ("UPDATE t SET a = a + 10",),
        (
            "PRAGMA writable_schema=ON",
            "CREATE TABLE kept AS " + row,
            "DELETE FROM sqlite_schema WHERE name = 'i'",
        ),
        ("UPDATE t SET a = a - 10",),
        ("PRAGMA writable_schema=ON", "INSERT INTO sqlite_schema SELECT * FROM kept"),
        ("DROP TABLE kept",),
    ):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)


SCRIPT = "CREATE TABLE t (a, b); CREATE INDEX i ON t (a); INSERT INTO t VALUES (1, 5), (2, 6)"


def test_a_damaged_index(tmp_path: Path) -> None:
    """A copy whose rows are right and whose index is not is discarded."""
    path = write_sql(tmp_path / "app.db", SCRIPT)
    with pytest.raises(errors.VerificationFailed, match="integrity_check"):
        convert(
            path,
            sqlite_format(pageSize=1024),
            failpoints=at("build.after-staging", lambda: harm_index(work_of(path).staging)),
        )


def test_verify_sees_damage(tmp_path: Path) -> None:
    """So does a later look at the database."""
    path = write_sql(tmp_path / "app.db", SCRIPT)
    target = sqlite_format(pageSize=1024)
    convert(path, target)
    verify(path)
    harm_index(path)
    with pytest.raises(errors.CorruptDatabase):
        verify(path)


def test_altered_tables_exempt_no_others(tmp_path: Path) -> None:
    """Beside an ALTER TABLE, an index of another table that is gone is found."""
    path = write_sql(tmp_path / "app.db", f"{SCRIPT}; CREATE TABLE u (a); CREATE INDEX j ON u (a)")
    target = sqlite_format(migrations=[{"number": 1, "sql": "ALTER TABLE t ADD COLUMN c"}])
    with pytest.raises(errors.VerificationFailed):
        convert(
            path,
            target,
            failpoints=at(
                "build.after-staging", lambda: execute(work_of(path).staging, "DROP INDEX j")
            ),
        )


def test_schema_text_is_not_trusted(tmp_path: Path) -> None:
    """A view of a file that nobody vouches for calls no function with side effects."""
    path = write_sql(tmp_path / "app.db", "CREATE VIEW v AS SELECT load_extension('/nowhere')")
    with closing(sqlitefile.connect(path)) as connection:
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
        connection.create_function("told", 0, lambda: signal.SIGTERM, deterministic=True)
        connection.execute("CREATE VIEW w AS SELECT told() AS a")
        with pytest.raises(sqlite3.OperationalError, match="unsafe use"):
            connection.execute("SELECT a FROM w").fetchone()


def test_rows_that_refer_to_nothing(tmp_path: Path) -> None:
    """A migration that takes away what a row refers to fails, although SQLite enforces nothing meanwhile."""
    script = (
        "CREATE TABLE parent (id INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1); "
        "CREATE TABLE child (parent REFERENCES parent (id)); INSERT INTO child VALUES (1)"
    )
    path = write_sql(tmp_path / "app.db", script)
    target = sqlite_format(migrations=[{"number": 1, "sql": "DELETE FROM parent"}])
    with pytest.raises(errors.MigrationFailed, match="foreign_key_check"):
        convert(path, target)
