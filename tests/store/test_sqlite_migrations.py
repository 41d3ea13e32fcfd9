"""Migrations: run on a copy, each in its transaction, under an authorizer; and the way back."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Abort,
    Failpoints,
    Format,
    Outcome,
    convert,
    errors,
    inspect,
    plan,
    undo,
    verify,
)
from format_store.layout import Layout
from tests.support.databases import execute, leftovers, rows
from tests.support.refusals import refused
from tests.support.sqlite_files import everything, pragma, sqlite_format, write_sql

CUSTOMERS = {
    "number": 1,
    "name": "customers",
    "sql": "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);\n"
    "INSERT INTO customers (name) SELECT DISTINCT line FROM log WHERE line IS NOT NULL; -- from the log",
    "down": "DROP TABLE customers",
    "checks": ["SELECT count(*) = 1 FROM sqlite_schema WHERE name = 'customers'"],
}
RENAMED = {
    "number": 2,
    "sql": "ALTER TABLE log RENAME TO journal; ALTER TABLE journal ADD COLUMN level TEXT DEFAULT 'info';\n"
    "PRAGMA user_version = 8",
    "down": "ALTER TABLE journal DROP COLUMN level; ALTER TABLE journal RENAME TO log; PRAGMA user_version = 7",
    "checks": ["SELECT count(*) FROM pragma_table_info('journal') WHERE name = 'level'"],
}


def migrated(*migrations: dict[str, Any], **others: Any) -> Format:
    return sqlite_format(migrations=list(migrations), **others)


def one(sql: str, **fields: Any) -> Format:
    """A format of one migration."""
    return migrated({"number": 1, "sql": sql, **fields})


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_sql(tmp_path / "app.db")


# --- forth and back --------------------------------------------------------------------------------------


def test_run_in_their_order(database: Path) -> None:
    """What is not touched is what it was; what is, is what the SQL says."""
    before = everything(database)
    assert convert(database, migrated(CUSTOMERS, RENAMED)).outcome is Outcome.CONVERTED
    after = everything(database)
    assert rows(database, "SELECT id, name FROM customers") == [(1, "ABC")]
    assert rows(database, "SELECT id, line, level FROM journal") == [
        (1, "abc", "info"),
        (2, "ABC", "info"),
    ]
    assert after["user_version"] == 8
    for name in before.keys() - {"schema", "user_version", "table log", "table sqlite_sequence"}:
        assert after[name] == before[name], name
    assert verify(database) > 0
    assert leftovers(database) == []


def test_only_what_is_missing_is_run(database: Path) -> None:
    """The marker tells which ones the database has had; the next release's are run on top."""
    convert(database, migrated(CUSTOMERS))
    execute(database, "INSERT INTO customers (name) VALUES ('new')")
    assert convert(database, migrated(CUSTOMERS)).outcome is Outcome.UNCHANGED
    convert(database, migrated(CUSTOMERS, RENAMED))
    assert rows(database, "SELECT name FROM customers ORDER BY id")[-1] == ("new",)
    assert inspect(database).format == migrated(CUSTOMERS, RENAMED)


def unquoted(found: dict[str, Any]) -> dict[str, Any]:
    """ALTER TABLE puts quotes around names; they mean the same."""
    schema = [[str(field).replace('"', "") for field in row] for row in found["schema"]]
    return found | {"schema": schema}


def test_taken_back(database: Path) -> None:
    """``down`` takes back what the target does not have, the last one first; undo does the same."""
    before = unquoted(everything(database))
    convert(database, migrated(CUSTOMERS, RENAMED))
    convert(database, migrated(CUSTOMERS))
    assert rows(database, "SELECT count(*) FROM customers") == [(1,)]
    convert(database, sqlite_format())
    assert unquoted(everything(database)) == before
    convert(database, migrated(CUSTOMERS, RENAMED))
    undo(database)
    assert unquoted(everything(database)) == before


def test_words_beside_the_sql_may_change(database: Path) -> None:
    """Name and checks are no part of what has been run; white space around the SQL is not either."""
    convert(database, migrated(CUSTOMERS))
    other = CUSTOMERS | {"name": "clients", "checks": []}
    other["sql"] = f"\n  {CUSTOMERS['sql']}  \n"
    assert convert(database, migrated(other)).outcome is Outcome.UNCHANGED


def test_a_mended_way_back(database: Path) -> None:
    """A ``down`` that was wrong is mended by a conversion to the same format with another one."""
    convert(database, migrated(CUSTOMERS | {"down": "DROP TABLE customer"}))
    with pytest.raises(
        errors.MigrationFailed, match=r"the way back of migration 1 \(customers\): no such table"
    ):
        convert(database, sqlite_format())
    assert convert(database, migrated(CUSTOMERS)).outcome is Outcome.CONVERTED
    convert(database, sqlite_format())
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows(database, "SELECT * FROM customers")


def test_as_many_as_a_format_holds(database: Path) -> None:
    """A megabyte of SQL is run, remembered, found to be done, and taken back."""
    filler = "-- " + "x" * 5100 + "\n"
    many = [
        {"number": n, "sql": f"{filler}CREATE TABLE t{n} (a)", "down": f"DROP TABLE t{n}"}
        for n in range(1, 201)
    ]
    convert(database, migrated(*many))
    assert rows(database, "SELECT count(*) FROM sqlite_schema WHERE name GLOB 't[0-9]*'") == [
        (200,)
    ]
    assert convert(database, migrated(*many)).outcome is Outcome.UNCHANGED
    undo(database)
    assert rows(database, "SELECT count(*) FROM sqlite_schema WHERE name GLOB 't[0-9]*'") == [(0,)]


def test_another_way_on_from_an_earlier_one(database: Path) -> None:
    """A release that was taken back and its successor may have different migrations of the same number."""
    convert(database, migrated(CUSTOMERS, RENAMED))
    convert(database, migrated(CUSTOMERS))
    second = {"number": 2, "sql": "CREATE TABLE second (a)"}
    convert(database, migrated(CUSTOMERS, second))
    assert rows(database, "SELECT count(*) FROM second") == [(0,)]


def test_together_with_the_page_size(database: Path) -> None:
    """Pages, journal mode and migrations change in one conversion."""
    convert(database, migrated(CUSTOMERS, pageSize=16384, journalMode="wal", autoVacuum="full"))
    assert pragma(database, "page_size") == 16384
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "auto_vacuum") == 1
    assert rows(database, "SELECT count(*) FROM customers") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO words (text) VALUES ('jumps'); DELETE FROM words WHERE text MATCH 'lazy'",
        "DROP TABLE words",
        "CREATE VIRTUAL TABLE more USING fts5 (a); INSERT INTO more VALUES ('x')",
        "INSERT INTO words (words) VALUES ('optimize')",
        "INSERT INTO boxes VALUES (2, 3, 4)",
        "DROP TABLE boxes",
        "CREATE VIRTUAL TABLE area USING rtree (id, a, b); INSERT INTO area VALUES (1, 2, 3)",
        "INSERT INTO pairs VALUES (3, 'fires a trigger that writes to log')",
        "CREATE TABLE t2 (a INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t2 VALUES (5)",
        "DROP TABLE log",
        "ALTER TABLE parent RENAME COLUMN id TO key",
        (
            "CREATE TABLE child_new (parent INTEGER REFERENCES parent (id), since TEXT); "
            "INSERT INTO child_new SELECT parent, 'always' FROM child WHERE parent = 1; DROP TABLE child; "
            "ALTER TABLE child_new RENAME TO child"
        ),
        "CREATE INDEX far_word ON far (word); ANALYZE; REINDEX far_word",
        "PRAGMA foreign_keys = OFF; PRAGMA defer_foreign_keys = ON; DELETE FROM hidden",
        (
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5) INSERT INTO loose "
            "SELECT 'n' || x FROM n"
        ),
        (
            "CREATE TEMP TABLE scratch AS SELECT * FROM log; DELETE FROM log; "
            "INSERT INTO log SELECT * FROM scratch; DROP TABLE scratch"
        ),
        (
            "CREATE TRIGGER t AFTER DELETE ON loose BEGIN INSERT INTO loose VALUES ('gone; really'); END; "
            "DELETE FROM loose WHERE anything = 1"
        ),
        "SELECT 1; ; /* nothing; */ ; -- the end;",
        "UPDATE far SET rowid = rowid + 1000 WHERE rowid = 17 RETURNING rowid",
    ],
)
def test_what_applications_migrate(database: Path, sql: str) -> None:
    """Virtual tables, triggers, rebuilt tables, temporary ones: what is touched is left to the migration."""
    expected = database.with_name("expected.db")
    expected.write_bytes(database.read_bytes())
    with closing(sqlite3.connect(expected, isolation_level=None)) as connection:
        connection.executescript(sql)
    convert(database, one(sql))
    assert everything(database) == everything(expected)


# --- refused -----------------------------------------------------------------------------------------------


DENIED = {
    "ATTACH DATABASE 'other.db' AS other": "ATTACH is not allowed",
    "SELECT load_extension('x')": "load_extension is not allowed",
    "PRAGMA writable_schema = ON": "PRAGMA writable_schema is not allowed",
    "PRAGMA journal_mode = DELETE": "PRAGMA journal_mode is not allowed",
    "PRAGMA trusted_schema = ON": "PRAGMA trusted_schema is not allowed",
    "PRAGMA main.page_size = 512": "PRAGMA page_size is not allowed",
    "PRAGMA temp_store_directory = '/'": "PRAGMA temp_store_directory is not allowed",
    "BEGIN": "BEGIN, COMMIT and ROLLBACK",
    "COMMIT": "BEGIN, COMMIT and ROLLBACK",
    "SAVEPOINT a": "SAVEPOINT",
    "VACUUM": "cannot VACUUM",
    "VACUUM INTO 'elsewhere.db'": "",
    "DELETE FROM sqlite_schema": "may not be modified",
    "UPDATE sqlite_master SET sql = 'x'": "may not be modified",
    "DROP VIEW _storageformat": "changing _storageformat is not allowed",
    "CREATE TABLE _STORAGEFORMAT (x)": "changing _STORAGEFORMAT is not allowed",
    "ALTER TABLE log RENAME TO _storageformat": "already another",
    "CREATE VIRTUAL TABLE v USING dbstat": "module dbstat is not allowed",
    "CREATE VIRTUAL TABLE v USING nosuch": "module nosuch is not allowed",
    "INSERT INTO nowhere VALUES (1)": "no such table: nowhere",
    "INSERT INTO child VALUES (7)": "row 3 of child has no row in parent",
    "DELETE FROM parent": "row 1 of child has no row in parent",
    "CREATE TABLE c (a REFERENCES log (line)); INSERT INTO c VALUES ('abc')": "foreign key mismatch",
    "INSERT INTO strictly (n) VALUES ('text')": "cannot store TEXT",
    "UPDATE OR ROLLBACK log SET id = 1": "UNIQUE constraint failed",
    "INSERT INTO log VALUES (": "incomplete input",
    "DETACH main": "DETACH is not allowed",
}


@pytest.mark.parametrize("sql", DENIED)
def test_what_a_migration_may_not(
    database: Path, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named with the statement; the database is as it was, and no other file is made."""
    monkeypatch.chdir(database.parent)
    convert(database, sqlite_format())
    with refused(database, errors.MigrationFailed, "migration 1", DENIED[sql], built=True):
        convert(database, one(sql))


def test_the_name_of_the_marker(database: Path) -> None:
    """Nothing else gets it, by whatever way."""
    with refused(database, errors.MigrationFailed, "_storageformat", built=True):
        convert(database, one("ALTER TABLE log RENAME TO _storageformat"))


def test_rows_that_refer_to_nothing_from_before_are_let_be(database: Path) -> None:
    """SQLite enforces foreign keys only where it is asked to: what was wrong before is not the migration's."""
    execute(
        database, "CREATE TABLE broken (a REFERENCES log (line))", "INSERT INTO broken VALUES (1)"
    )
    convert(database, one("INSERT INTO child VALUES (1); INSERT INTO broken VALUES (2)"))
    assert rows(database, "SELECT parent FROM child") == [(1,), (404,), (1,)]


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("SELECT count(*) FROM nothing_new", "gives 0, which is not true"),
        ("SELECT 'yes'", "which is not true"),
        ("SELECT NULL", "which is not true"),
        ("SELECT 1 WHERE 0", "gives None"),
        ("SELECT missing FROM nothing_new", "no such column: missing"),
        ("INSERT INTO nothing_new VALUES (1) RETURNING 1", "anything but a query is not allowed"),
        ("PRAGMA user_version = 1", "PRAGMA user_version is not allowed"),
    ],
)
def test_a_check_that_is_not_true(database: Path, check: str, says: str) -> None:
    """A check must return a number other than 0, and may only ask."""
    with refused(database, errors.MigrationFailed, "migration 1", says, built=True):
        convert(database, one("CREATE TABLE nothing_new (a)", checks=["SELECT 1.5", check]))


def test_changed_sql_of_one_that_has_been_run(database: Path) -> None:
    """What was run under a number stays what it was."""
    convert(database, migrated(CUSTOMERS, RENAMED))
    changed = CUSTOMERS | {"sql": "CREATE TABLE clients (id)"}
    before = database.read_bytes()
    with pytest.raises(errors.MigrationsDiffer, match=r"migration 1 \(customers\) has other SQL"):
        convert(database, migrated(changed, RENAMED))
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ([1, 2, 3], "migration 2 is new, and 3 after it has been run already"),
        ([3], "migration 1 is gone, and 3 after it has been run already"),
    ],
)
def test_nothing_is_put_in_between(database: Path, now: list[int], says: str) -> None:
    """Migrations are added, and taken away, at the end."""

    def format_of(numbers: list[int]) -> Format:
        return migrated(
            *({"number": n, "sql": f"CREATE TABLE t{n} (a)", "down": "SELECT 1"} for n in numbers)
        )

    convert(database, format_of([1, 3]))
    with pytest.raises(errors.MigrationsDiffer, match=says):
        convert(database, format_of(now))


def test_no_way_back(database: Path) -> None:
    """Without ``down`` the format before is refused; plan says so without touching anything."""
    convert(database, one("CREATE TABLE t (a)"))
    before = database.read_bytes()
    with pytest.raises(errors.NoWayBack, match="migration 1 has been run") as caught:
        convert(database, sqlite_format())
    assert "backups" in caught.value.hint
    planned = plan(database, sqlite_format())
    assert planned.action == "refuse"
    assert type(planned.refusal) is errors.NoWayBack
    assert database.read_bytes() == before


def test_planned(database: Path) -> None:
    """``plan`` says which migrations would be run or taken back, and how the file would lie."""

    def steps(target: Format) -> list[str]:
        return [step for step in plan(database, target).steps if step.startswith("on the copy")]

    whole = migrated(CUSTOMERS, RENAMED, pageSize=8192, autoVacuum="full", journalMode="wal")
    assert steps(whole) == [
        "on the copy: pages of 8,192 bytes instead of 4,096",
        "on the copy: auto-vacuum full instead of none",
        "on the copy: journal mode wal instead of delete",
        "on the copy: run migration 1 (customers)",
        "on the copy: run migration 2",
    ]
    convert(database, whole)
    assert steps(migrated(CUSTOMERS)) == ["on the copy: run the way back of migration 2"]


def test_rehearsed(database: Path) -> None:
    """``plan --rehearse`` runs the migrations on a throw-away copy, and tells what goes wrong there."""
    bad = migrated(CUSTOMERS, {"number": 2, "sql": "INSERT INTO customers (name) VALUES (NULL)"})
    before = database.read_bytes()
    assert plan(database, bad).action == "convert"
    planned = plan(database, bad, rehearse=True)
    assert planned.action == "refuse"
    assert "NOT NULL constraint failed" in str(planned.refusal)
    assert plan(database, migrated(CUSTOMERS), rehearse=True).rehearsal is not None
    assert database.read_bytes() == before


def test_stopped_in_a_migration_that_does_not_end(database: Path) -> None:
    """A request to stop interrupts the statement under way."""
    abort = Abort()
    endless = "CREATE TABLE t AS WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    target = migrated(CUSTOMERS, {"number": 2, "sql": endless})
    before = database.read_bytes()
    with pytest.raises(errors.Aborted):
        convert(
            database,
            target,
            abort=abort,
            failpoints=Failpoints({"build.after-migration": abort.request}),
        )
    assert database.read_bytes() == before
    assert Layout.of(database).pending() == []


# --- the verification ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE far SET word = 'B' WHERE word = 'b'",
        "UPDATE words_config SET v = 99",
        "UPDATE boxes_node SET data = zeroblob(length(data))",
        "DROP TRIGGER logged",
        "PRAGMA application_id = 1",
        "UPDATE sqlite_sequence SET seq = 9 WHERE name = 'log'",
        "CREATE TABLE unheard_of (a)",
    ],
)
def test_what_no_migration_has_touched_is_compared(database: Path, spoil: str) -> None:
    """Beside a migration, every other table, object and number still has to be what it was."""
    before = database.read_bytes()

    def now() -> None:
        (work,) = Layout.of(database).pending()
        execute(work.staging, spoil)

    with pytest.raises(errors.VerificationFailed):
        convert(
            database,
            one("CREATE TABLE t (a); INSERT INTO loose VALUES (1)"),
            failpoints=Failpoints({"build.after-staging": now}),
        )
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    "spoil",
    [
        "CREATE TRIGGER other AFTER DELETE ON loose BEGIN DELETE FROM far; END",
        "CREATE TABLE unheard_of (a)",
        "DROP VIEW lines; CREATE VIEW lines AS SELECT 1 AS line",
        "DROP TRIGGER logged",
    ],
)
def test_what_alter_has_rewritten_is_compared_with_what_it_left(database: Path, spoil: str) -> None:
    """ALTER TABLE changes objects that no statement names: as it left them, and no other way."""

    def now() -> None:
        (work,) = Layout.of(database).pending()
        execute(work.staging, *spoil.split("; ", 1) if spoil.startswith("DROP VIEW") else [spoil])

    with pytest.raises(errors.VerificationFailed, match="is not as it was"):
        convert(
            database,
            one("ALTER TABLE parent RENAME TO parents"),
            failpoints=Failpoints({"build.after-staging": now}),
        )


# --- files without a marker ------------------------------------------------------------------------------------


def test_without_a_marker_and_without_a_word(database: Path) -> None:
    """A file about which nothing is declared has had no migration."""
    convert(database, migrated(CUSTOMERS))
    assert rows(database, "SELECT count(*) FROM customers") == [(1,)]


def by_hand(path: Path, *migrations: dict[str, Any]) -> None:
    """What the application, or its earlier tool, has done by itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for migration in migrations:
            connection.executescript(migration["sql"])


def test_checks_tell_what_has_been_run(database: Path) -> None:
    """Of what is declared, and the target, the one with most migrations whose checks are true."""
    by_hand(database, CUSTOMERS)
    convert(database, migrated(CUSTOMERS, RENAMED), unmarked=[migrated(CUSTOMERS), sqlite_format()])
    assert rows(database, "SELECT count(*) FROM journal WHERE level = 'info'") == [(2,)]
    assert rows(database, "SELECT count(*) FROM customers") == [(1,)]


def test_the_target_counts_where_all_of_it_can_be_checked(database: Path) -> None:
    """A file that has had everything gets its marker, and nothing is run twice."""
    by_hand(database, CUSTOMERS, RENAMED)
    before = everything(database)
    assert convert(database, migrated(CUSTOMERS, RENAMED)).outcome is Outcome.CONVERTED
    assert everything(database) == before
    assert inspect(database).format == migrated(CUSTOMERS, RENAMED)


def test_a_migration_without_checks_is_not_taken_for_done(database: Path) -> None:
    """Nothing tells that it has been run: it is run, and fails where it has."""
    silent = CUSTOMERS | {"checks": []}
    by_hand(database, silent)
    with pytest.raises(errors.MigrationFailed, match="already exists"):
        convert(database, migrated(silent))


def test_declared_and_not_true(database: Path) -> None:
    """A declared format whose checks are not true is none that the file is in."""
    with refused(database, errors.UndeclaredFormat, "migration 2"):
        convert(
            database,
            migrated(CUSTOMERS, RENAMED),
            unmarked=[migrated(CUSTOMERS, RENAMED), migrated(RENAMED)],
        )


# --- folders -----------------------------------------------------------------------------------------------------


def test_from_a_folder(database: Path, tmp_path: Path) -> None:
    """Files of a folder, also behind the links of a mounted ConfigMap; the marker holds their text, not their path."""
    data = tmp_path / "..2026"
    data.mkdir()
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "..data").symlink_to(data)
    for name, text in {
        "0001_customers.sql": CUSTOMERS["sql"],
        "0001_customers.down.sql": CUSTOMERS["down"],
        "0001_customers.checks.sql": "SELECT 1; SELECT count(*) FROM customers",
        "0002_renamed.up.sql": RENAMED["sql"],
        "0002_renamed.down.sql": RENAMED["down"],
    }.items():
        (data / name).write_text(str(text), encoding="utf-8")
        (folder / name).symlink_to(Path("..data") / name)
    (folder / "README.md").write_text("not one of them")
    convert(database, sqlite_format(migrationsFrom={"folder": str(folder), "upTo": 1}))
    found = inspect(database).format
    assert found is not None
    (customers,) = found.to_spec()["sqlite"]["migrations"]
    assert customers["checks"] == ["SELECT 1;", "SELECT count(*) FROM customers"]
    convert(database, sqlite_format(migrationsFrom={"folder": str(folder)}))
    assert rows(database, "SELECT count(*) FROM journal") == [(2,)]
    for path in data.iterdir():
        path.unlink()
    os.rmdir(data)
    assert convert(database, migrated(CUSTOMERS, RENAMED)).outcome is Outcome.UNCHANGED
