"""The sqlite engine: how the file lies, on databases as applications leave them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from format_store import Abort, Failpoints, Format, Outcome, convert, errors, inspect, undo, verify
from format_store.engines.sqlite import build
from format_store.layout import Layout
from tests.support.databases import execute, leftovers, rows
from tests.support.openers import kill_writer
from tests.support.refusals import refused, require_plan_refuses
from tests.support.sqlite_files import everything, pragma, sqlite_format, write_sql

AS_IT_IS = sqlite_format()
FILE_LEVEL: list[dict[str, Any]] = [
    {"pageSize": 512},
    {"pageSize": 65536},
    {"autoVacuum": "full"},
    {"autoVacuum": "incremental"},
    {"journalMode": "wal"},
    {"pageSize": 16384, "autoVacuum": "full", "journalMode": "wal"},
    {},
]
#: What the pragma answers, by what the format says.
TELLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "pageSize": ("page_size", lambda value: value),
    "autoVacuum": ("auto_vacuum", ("none", "full", "incremental").index),
    "journalMode": ("journal_mode", lambda value: value),
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_sql(tmp_path / "app.db")


def require_told(path: Path, spec: dict[str, Any]) -> None:
    for name, value in spec.items():
        asked, expected = TELLS[name]
        assert pragma(path, asked) == expected(value), name


@pytest.mark.parametrize("spec", FILE_LEVEL, ids=str)
def test_there_and_back(database: Path, spec: dict[str, Any]) -> None:
    """Page size, auto-vacuum and journal mode are what the format says; every row and object is what it was."""
    before = everything(database)
    result = convert(database, sqlite_format(**spec))
    assert result.outcome is Outcome.CONVERTED
    require_told(database, spec)
    assert everything(database) == before
    assert inspect(database).format == sqlite_format(**spec)
    assert leftovers(database) == []
    assert verify(database) == result.rows
    assert convert(database, sqlite_format(**spec)).outcome is Outcome.UNCHANGED
    back = {"pageSize": 4096, "autoVacuum": "none", "journalMode": "delete"}
    convert(database, sqlite_format(**back))
    require_told(database, back)
    assert everything(database) == before


def test_what_is_left_out_stays(database: Path) -> None:
    """A format that does not speak of the page size, auto-vacuum or journal mode leaves them as they are."""
    whole = {"pageSize": 8192, "autoVacuum": "incremental", "journalMode": "wal"}
    convert(database, sqlite_format(**whole))
    for spec in ({"pageSize": 2048}, {"autoVacuum": "full"}, {"journalMode": "delete"}, {}):
        whole |= spec
        convert(database, sqlite_format(**spec))
        require_told(database, whole)


def test_undo(database: Path) -> None:
    """The way back is the format before; what the application wrote since is kept."""
    convert(database, sqlite_format(pageSize=8192, journalMode="delete"))
    convert(database, sqlite_format(pageSize=1024, journalMode="wal"))
    execute(database, "INSERT INTO far (word) SELECT 'since' WHERE 0", "DELETE FROM hidden")
    after = everything(database)
    assert undo(database).outcome is Outcome.CONVERTED
    require_told(database, {"pageSize": 8192, "journalMode": "delete"})
    assert everything(database) == after


# --- sources as applications leave them ------------------------------------------------------------------


@pytest.mark.parametrize("spec", FILE_LEVEL, ids=str)
@pytest.mark.parametrize(
    "before",
    [
        ["PRAGMA encoding = 'UTF-16le'"],
        ["PRAGMA encoding = 'UTF-16be'", "PRAGMA page_size = 512"],
        ["PRAGMA auto_vacuum = FULL", "PRAGMA page_size = 65536"],
        ["PRAGMA auto_vacuum = INCREMENTAL"],
        ["PRAGMA journal_mode = WAL"],
    ],
    ids=["UTF-16le", "UTF-16be, 512", "auto-vacuumed, 65536", "incremental", "WAL"],
)
def test_files_of_every_kind(tmp_path: Path, before: list[str], spec: dict[str, Any]) -> None:
    """Whatever encoding, page size, auto-vacuum and journal mode the file comes with."""
    path = write_sql(tmp_path / "app.db", before=before)
    content = everything(path)
    convert(path, sqlite_format(**spec))
    require_told(path, spec)
    assert everything(path) == content
    assert leftovers(path) == []


@pytest.mark.parametrize("spec", [{"pageSize": 8192}, {"journalMode": "delete"}], ids=str)
def test_a_log_that_a_killed_application_left(database: Path, spec: dict[str, Any]) -> None:
    """Frames of a write-ahead log that are not in the file yet are in the result, and the log is gone."""
    kill_writer(database, "PRAGMA journal_mode = WAL", "INSERT INTO loose VALUES ('in the log')")
    assert os.stat(f"{database}-wal").st_size > 0
    convert(database, sqlite_format(**spec))
    assert ("in the log",) in rows(database, "SELECT anything FROM loose")
    assert leftovers(database) == []


def test_a_hot_journal_that_a_killed_application_left(database: Path) -> None:
    """A transaction that was not committed is rolled back, and is not in the result."""
    before = everything(database)
    kill_writer(
        database, "PRAGMA cache_size = 1", "BEGIN", "DELETE FROM log", "DELETE FROM far",
        "CREATE TABLE bulk AS WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000) "
        "SELECT x, hex(randomblob(50)) FROM n",
    )  # fmt: skip
    assert os.path.exists(f"{database}-journal")
    convert(database, sqlite_format(pageSize=8192))
    assert everything(database) == before


@pytest.mark.parametrize("spec", FILE_LEVEL, ids=str)
def test_an_empty_file(tmp_path: Path, spec: dict[str, Any]) -> None:
    """A file of 0 bytes becomes an empty database that is as the format says."""
    path = tmp_path / "app.db"
    path.touch()
    assert convert(path, sqlite_format(**spec)).outcome is Outcome.CONVERTED
    require_told(path, spec)
    assert inspect(path).format == sqlite_format(**spec)
    execute(path, "CREATE TABLE t (a)")
    assert convert(path, sqlite_format(**spec)).outcome is Outcome.UNCHANGED


def test_many_tables_and_columns(tmp_path: Path) -> None:
    """Tens of tables, a table of almost as many columns as SQLite allows, and names that have to be quoted."""
    wide = ", ".join(f'"column {number}"' for number in range(1999))
    script = f'CREATE TABLE wide ({wide}); INSERT INTO wide ("column 7") VALUES (7), (8);'
    for number in range(60):
        script += f'CREATE TABLE "ta""ble {number}" (a, b); INSERT INTO "ta""ble {number}" VALUES ({number}, x\'00\');'
    path = write_sql(tmp_path / "app.db", script)
    before = everything(path)
    convert(path, sqlite_format(pageSize=1024))
    assert everything(path) == before


def test_large_blobs(tmp_path: Path) -> None:
    """Values of some hundred megabytes, compared to the last byte."""
    path = write_sql(
        tmp_path / "app.db",
        "CREATE TABLE b (x); INSERT INTO b VALUES (zeroblob(300000000)), (randomblob(40000000))",
    )
    (before,) = rows(path, "SELECT count(*), sum(length(x)), hex(substr(max(x), -64)) FROM b")
    convert(path, sqlite_format(pageSize=65536))
    assert rows(path, "SELECT count(*), sum(length(x)), hex(substr(max(x), -64)) FROM b") == [
        before
    ]


# --- refused ---------------------------------------------------------------------------------------------


FOREIGN = {
    "index": ("CREATE TABLE t (a); CREATE INDEX i ON t (mine(a))", "mine"),
    "partial index": ("CREATE TABLE t (a); CREATE INDEX i ON t (a) WHERE mine(a)", "mine"),
    "CHECK": ("CREATE TABLE t (a CHECK (mine(a) IS NOT NULL))", "mine"),
    "column, written anew": ("CREATE TABLE t (a TEXT COLLATE ours)", "ours"),
    "generated column": ("CREATE TABLE t (a, b AS (mine(a)))", "mine"),
    "collation of an index": ("CREATE TABLE t (a); CREATE INDEX i ON t (a COLLATE ours)", "ours"),
    "collation of a key": ("CREATE TABLE t (a TEXT COLLATE ours PRIMARY KEY)", "ours"),
}


def with_words_of_its_own(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("mine", 1, lambda value: value, deterministic=True)
        connection.create_collation("ours", lambda one, other: (one > other) - (one < other))
        connection.executescript(script)
        connection.execute("INSERT INTO t (a) VALUES ('x')")
        connection.commit()
    return path


@pytest.mark.parametrize("name", FOREIGN)
def test_words_of_the_application_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """A function or collation that only the application has, where an index or a column takes it."""
    script, word = FOREIGN[name]
    path = with_words_of_its_own(tmp_path / "app.db", script)
    target = sqlite_format(pageSize=8192)
    require_plan_refuses(path, errors.UnsupportedSchema, target=target)
    with refused(path, errors.UnsupportedSchema, "'t'", word):
        convert(path, target)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE t (a DEFAULT (mine(1)))",
        "CREATE TABLE t (a); CREATE VIEW v AS SELECT mine(a) FROM t",
        "CREATE TABLE t (a); CREATE TRIGGER r AFTER DELETE ON t BEGIN SELECT mine(1); END",
    ],
)
@pytest.mark.parametrize("spec", [{"pageSize": 8192}, {"journalMode": "wal"}], ids=str)
def test_words_that_nobody_asks_for_stay(tmp_path: Path, script: str, spec: dict[str, Any]) -> None:
    """In defaults, views and triggers they are text, and stay as they are."""
    path = with_words_of_its_own(tmp_path / "app.db", script)
    schema = rows(path, "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
    convert(path, sqlite_format(**spec))
    found = rows(
        path,
        "SELECT type, name, sql FROM sqlite_schema WHERE name <> '_storageformat' ORDER BY 1, 2",
    )
    assert found == schema
    assert rows(path, "SELECT rowid, typeof(a), a FROM t") == [(1, "text", "x")]


@pytest.mark.parametrize(
    ("offset", "value", "kind"),
    [(0, b"S", errors.NotASQLiteDatabase), (18, b"\x03\x03", errors.NewerSQLiteFormat)],
    ids=["encrypted", "newer"],
)
def test_encrypted_and_newer_files(
    database: Path, offset: int, value: bytes, kind: type[errors.StoreError]
) -> None:
    """A file that is no database as far as can be told, and one that only a newer SQLite may write."""
    data = bytearray(database.read_bytes())
    data[offset : offset + len(value)] = (
        bytes(byte ^ 0x55 for byte in value) if offset == 0 else value
    )
    database.write_bytes(data)
    with refused(database, kind):
        convert(database, sqlite_format(pageSize=8192))


def test_a_damaged_file_is_left_alone(database: Path) -> None:
    """Damage inside a page is found before anything is replaced."""
    data = bytearray(database.read_bytes())
    data[4096 * 3 : 4096 * 3 + 200] = b"\xa5" * 200
    database.write_bytes(data)
    with pytest.raises(errors.StoreError):
        convert(database, sqlite_format(pageSize=8192))
    assert database.read_bytes() == data
    assert Layout.of(database).pending() == []


# --- the verification --------------------------------------------------------------------------------------


SPOILT = {
    "a value": "UPDATE far SET word = 'B' WHERE word = 'b'",
    "a type": "UPDATE loose SET anything = 1 WHERE typeof(anything) = 'real' AND anything = 1",
    "the case of a key": "UPDATE pairs SET b = 'X' WHERE a = '1'",
    "a row less": "DELETE FROM child WHERE parent = 1",
    "a row more": "INSERT INTO hidden VALUES ('a', 'b', 'c')",
    "a rowid": "UPDATE far SET rowid = 18 WHERE rowid = 17",
    "an index": "DROP INDEX by_line",
    "a trigger": "DROP TRIGGER logged",
    "a table": "DROP TABLE loose",
    "a table more": "CREATE TABLE more (x)",
    "a document": "UPDATE words SET text = 'lazy cat' WHERE rowid = 2",
    "a box": "UPDATE boxes SET x1 = 2 WHERE id = 1",
    "a sequence": "UPDATE sqlite_sequence SET seq = 2",
    "the user version": "PRAGMA user_version = 8",
    "auto-vacuum": "PRAGMA auto_vacuum = 2",
    "the marker": "DROP VIEW _storageformat",
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize(
    "spec", [{"pageSize": 8192, "autoVacuum": "full"}, {"autoVacuum": "full"}], ids=str
)
def test_a_wrong_copy_never_takes_its_place(
    database: Path, what: str, spec: dict[str, Any]
) -> None:
    """Whatever is not as it was, or not as the format says, is found, and the database is as it was."""
    before = database.read_bytes()

    def spoil() -> None:
        (work,) = Layout.of(database).pending()
        execute(work.staging, SPOILT[what])

    with pytest.raises(errors.VerificationFailed):
        convert(
            database, sqlite_format(**spec), failpoints=Failpoints({"build.after-staging": spoil})
        )
    assert database.read_bytes() == before
    assert Layout.of(database).pending() == []


def test_stopped_while_pages_are_written(database: Path) -> None:
    """A request to stop ends the copying of pages, and leaves the database as it was."""
    before = database.read_bytes()
    abort = Abort()
    with pytest.raises(errors.Aborted):
        convert(
            database,
            sqlite_format(pageSize=8192, journalMode="wal"),
            abort=abort,
            failpoints=Failpoints({"build.after-pages": abort.request}),
        )
    assert database.read_bytes() == before
    assert leftovers(database) == []


def test_the_volume_is_asked_for_enough_space(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The survey's estimate is at least what the copy takes, also with large pages and many small tables."""
    sizes: list[int] = []
    real = build.build

    def noting(job: Any) -> None:
        real(job)
        sizes.append(os.stat(job.staging_path).st_size)
        assert job.survey.staging_bytes >= sizes[-1]

    monkeypatch.setattr(build, "build", noting)
    for size in (65536, 512, 4096):
        convert(database, sqlite_format(pageSize=size))
    assert len(sizes) == 3


def test_a_copy_of_a_marked_file_says_so_itself(database: Path, tmp_path: Path) -> None:
    """The marker is in the file: a copy elsewhere needs nothing else to be known."""
    convert(database, sqlite_format(pageSize=8192))
    copy = Path(shutil.copy(database, tmp_path / "copy.db"))
    assert convert(copy, sqlite_format(pageSize=8192)).outcome is Outcome.UNCHANGED
    assert inspect(copy).format == Format.from_spec({"sqlite": {"pageSize": 8192}})


def test_a_collation_that_nobody_asks_for_stays(tmp_path: Path) -> None:
    """As long as no page is written anew, a column without an index is compared byte for byte."""
    path = with_words_of_its_own(tmp_path / "app.db", "CREATE TABLE t (a TEXT COLLATE ours)")
    convert(path, sqlite_format(journalMode="wal"))
    assert rows(path, "SELECT rowid, typeof(a), a FROM t") == [(1, "text", "x")]
