"""Both engines in one file: sqlitedict's tables and others, converted together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from format_store import (
    PLAIN_SQLITEDICT,
    Failpoints,
    Format,
    Outcome,
    convert,
    errors,
    inspect,
    open_store,
    plan,
    undo,
    verify,
)
from format_store.layout import Layout
from tests.support.databases import execute, leftovers, read_table, rows, sample, write_plain
from tests.support.refusals import refused
from tests.support.sqlite_files import EVERY_KIND, everything, pragma, sqlite_format, write_sql

RECORDS = sample(60)
PART = {"keyEncoding": "hierarchical", "valueCodec": "msgpack", "compression": "zstd"}
KEYS = {"keyEncoding": "hierarchical", "valueCodec": "pickle"}
MIGRATION = {
    "number": 1,
    "sql": "CREATE TABLE notes (text); INSERT INTO notes SELECT line FROM log",
    "down": "DROP TABLE notes",
    "checks": ["SELECT count(*) FROM sqlite_schema WHERE name = 'notes'"],
}
TARGETS: dict[str, dict[str, Any]] = {
    "page size and codec": {"pageSize": 16384, "sqlitedict": PART},
    "keys, auto-vacuum and journal": {
        "autoVacuum": "full",
        "journalMode": "wal",
        "sqlitedict": KEYS,
    },
    "migration and codec": {"migrations": [MIGRATION], "sqlitedict": PART},
    "all of it": {
        "pageSize": 1024,
        "autoVacuum": "incremental",
        "journalMode": "wal",
        "migrations": [MIGRATION],
        "sqlitedict": PART,
    },
}


@pytest.fixture(params=["other tables too", "nothing else"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    if request.param == "other tables too":
        write_sql(path, EVERY_KIND)
    write_plain(path, RECORDS)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = write_sql(tmp_path / "app.db", EVERY_KIND)
    write_plain(path, RECORDS)
    return path


def others(path: Path) -> dict[str, Any]:
    """All that is not sqlitedict's, and not the migration's."""
    found = everything(path)
    found["schema"] = [row for row in found["schema"] if row[2] not in {"unnamed", "notes"}]
    return {
        name: value for name, value in found.items() if name not in {"table unnamed", "table notes"}
    }


@pytest.mark.parametrize("name", TARGETS)
def test_there_and_back(mixed: Path, name: str) -> None:
    """sqlitedict's records are in the new format, everything else is as it was; and back, with later writes."""
    target = sqlite_format(**TARGETS[name])
    before = others(mixed)
    assert convert(mixed, target).outcome is Outcome.CONVERTED
    part = target.to_spec()["sqlitedict"]
    assert read_table(mixed, part) == RECORDS
    assert others(mixed) == before
    assert inspect(mixed).format == target
    assert convert(mixed, target).outcome is Outcome.UNCHANGED
    assert verify(mixed) > len(RECORDS)
    assert leftovers(mixed) == []
    with open_store(mixed) as store:
        store["/later"] = 1
        store.commit()
    undo(mixed)
    assert read_table(mixed, {}) == [*RECORDS, ("/later", 1)]
    assert others(mixed) == before


@pytest.mark.parametrize(
    "spec", [{"pageSize": 16384}, {"autoVacuum": "full"}, {"journalMode": "wal"}], ids=str
)
def test_with_the_part_changed(database: Path, spec: dict[str, Any]) -> None:
    """How the file lies and how the records lie change in one conversion, whatever else is in the file."""
    before = others(database)
    convert(database, sqlite_format(**spec, sqlitedict=PART))
    assert read_table(database, PART) == RECORDS
    assert others(database) == before
    for name, value in spec.items():
        asked = {
            "pageSize": "page_size",
            "autoVacuum": "auto_vacuum",
            "journalMode": "journal_mode",
        }
        assert pragma(database, asked[name]) == (1 if value == "full" else value)


def test_only_the_file_changes(database: Path) -> None:
    """The same part before and after: sqlitedict's tables are tables like any others, compared row for row."""
    before = everything(database)
    convert(database, sqlite_format(pageSize=8192, sqlitedict={}))
    assert everything(database) == before
    assert pragma(database, "page_size") == 8192


def test_a_sqlitedict_file_is_a_sqlite_file_of_which_nothing_else_is_said(database: Path) -> None:
    """The same format in other words is no conversion."""
    convert(database, Format.sqlitedict(key_encoding="hierarchical"))
    same = sqlite_format(sqlitedict={"keyEncoding": "hierarchical"})
    assert same.same_bytes_as(Format.sqlitedict(key_encoding="hierarchical"))
    assert Format.sqlitedict(key_encoding="hierarchical").same_bytes_as(same)
    assert convert(database, same).outcome is Outcome.UNCHANGED
    assert (
        convert(database, sqlite_format(pageSize=8192, sqlitedict=KEYS)).outcome
        is Outcome.CONVERTED
    )
    assert convert(database, PLAIN_SQLITEDICT).outcome is Outcome.CONVERTED
    assert read_table(database, {}) == RECORDS
    assert inspect(database).format == PLAIN_SQLITEDICT


def test_an_empty_file(tmp_path: Path) -> None:
    """A file of 0 bytes takes both parts; what sqlitedict then writes into it is in its format."""
    path = tmp_path / "app.db"
    path.touch()
    target = sqlite_format(
        pageSize=8192, sqlitedict=PART, migrations=[MIGRATION | {"sql": "CREATE TABLE notes (a)"}]
    )
    convert(path, target)
    with open_store(path) as store:
        store["/a/b"] = {"x": 1}
        store.commit()
    assert read_table(path, PART) == [("/a/b", {"x": 1})]
    assert verify(path) == 1


def test_tables_without_rows_and_rows_elsewhere(tmp_path: Path) -> None:
    """Without a record nothing tells how they lie: sqlitedict's own way, whatever is in other tables."""
    path = write_sql(tmp_path / "app.db", EVERY_KIND)
    write_plain(path, [])
    convert(path, sqlite_format(pageSize=8192, sqlitedict=PART))
    with open_store(path) as store:
        store["/a"] = 1
        store.commit()
    assert read_table(path, PART) == [("/a", 1)]


def test_a_part_on_one_side_only_is_refused(mixed: Path) -> None:
    """A format that does not tell how the records lie can neither follow nor precede one that does."""
    convert(mixed, Format.sqlitedict(value_codec="msgpack"))
    with pytest.raises(errors.UnsupportedSchema, match="the present format tells how") as caught:
        convert(mixed, sqlite_format(pageSize=8192))
    assert "beside" in caught.value.hint


def test_the_records_are_what_tells_the_format(mixed: Path) -> None:
    """Without a marker the rows are looked at: what is declared must be what they are."""
    with refused(mixed, errors.UndeclaredFormat, "unnamed"):
        convert(mixed, sqlite_format(sqlitedict=PART), unmarked=[sqlite_format(sqlitedict=KEYS)])


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM unnamed",
        "DROP TABLE unnamed",
        "CREATE INDEX i ON unnamed (value)",
        "CREATE TRIGGER t AFTER INSERT ON unnamed BEGIN SELECT 1; END",
        "ALTER TABLE unnamed RENAME TO named",
        "CREATE TABLE more (key TEXT PRIMARY KEY, value BLOB)",
    ],
)
def test_migrations_leave_the_records_alone(mixed: Path, sql: str) -> None:
    """A format that tells how sqlitedict's tables lie has them in it: a migration may read them, and no more."""
    target = sqlite_format(migrations=[{"number": 1, "sql": sql}], sqlitedict={})
    with refused(mixed, errors.MigrationFailed, built=True):
        convert(mixed, target)


def test_migrations_may_read_the_records(mixed: Path) -> None:
    """They see them as the target has them."""
    sql = "CREATE TABLE names AS SELECT key FROM unnamed"
    convert(mixed, sqlite_format(migrations=[{"number": 1, "sql": sql}], sqlitedict=KEYS))
    assert rows(mixed, "SELECT count(DISTINCT key), typeof(key) FROM names") == [(60, "blob")]


def test_what_cannot_be_converted_is_planned_for(mixed: Path) -> None:
    """A value that the target's codec cannot hold is named by plan, and refused; nothing is changed."""
    write_plain(mixed, [("/odd", {1, 2})])
    target = sqlite_format(pageSize=8192, sqlitedict=PART)
    planned = plan(mixed, target)
    assert planned.action == "refuse"
    assert [obstacle.key for obstacle in planned.obstacles] == ["'/odd'"]
    with refused(mixed, errors.UnconvertibleValue, "/odd", built=True):
        convert(mixed, target)


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE unnamed SET value = (SELECT value FROM unnamed LIMIT 1) WHERE rowid = 7",
        "DELETE FROM unnamed WHERE rowid = 7",
        "UPDATE far SET word = 'B' WHERE word = 'b'",
        "DROP TABLE unnamed",
    ],
)
def test_a_wrong_copy_never_takes_its_place(mixed: Path, spoil: str) -> None:
    """Records and everything else are compared, each in its way."""
    before = mixed.read_bytes()

    def now() -> None:
        (work,) = Layout.of(mixed).pending()
        execute(work.staging, spoil)

    with pytest.raises(errors.VerificationFailed):
        convert(
            mixed,
            sqlite_format(pageSize=8192, sqlitedict=PART),
            failpoints=Failpoints({"build.after-staging": now}),
        )
    assert mixed.read_bytes() == before
