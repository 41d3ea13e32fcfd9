"""What a conversion keeps: other tables and objects, rowids, the file's own properties, owner and mode."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlitedict import SqliteDict

from format_store import PLAIN_SQLITEDICT, Format, Outcome, convert, inspect
from tests.support.databases import (
    decode_hierarchical,
    execute,
    leftovers,
    marker_of,
    read_table,
    records_on_disk,
    rows,
    sample,
    write_plain,
)
from tests.support.openers import kill_writer
from tests.support.refusals import HIERARCHICAL
from tests.support.requirements import require_now, requires

RECORDS = sample(40)
BOTH = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
TARGETS = pytest.mark.parametrize("target", [HIERARCHICAL, BOTH], ids=["keys", "keys and values"])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


# --- tables ---------------------------------------------------------------------------------------------


@TARGETS
def test_several_tables(database: Path, target: Format) -> None:
    """Every table of sqlitedict's shape is converted, whatever its name."""
    names = ["second", "with space", 'with "quotes"', "größer", "select"]
    for seed, name in enumerate(names, 1):
        if '"' not in name:
            write_plain(database, sample(10, seed=seed), table=name)
    execute(database, 'CREATE TABLE "with ""quotes""" (key TEXT PRIMARY KEY, value BLOB)')
    result = convert(database, target)
    assert result.rows == 40 + 4 * 10
    parameters = target.to_spec()["sqlitedict"]
    assert read_table(database, parameters) == RECORDS
    for seed, name in enumerate(names, 1):
        if '"' not in name:
            assert read_table(database, parameters, name) == sample(10, seed=seed)
    assert set(SqliteDict.get_tablenames(str(database))) == {"unnamed", *names}


@TARGETS
def test_some_of_the_tables(database: Path, target: Format) -> None:
    """``tables`` names those to convert; the others stay plain, and their applications go on with them."""
    write_plain(database, sample(10, seed=1), table="second")
    some = Format.from_spec(
        {"sqlitedict": {**target.to_spec()["sqlitedict"], "tables": ["second"]}}
    )
    before = rows(database, "SELECT rowid, key, value FROM unnamed")
    assert convert(database, some).rows == 10
    assert rows(database, "SELECT rowid, key, value FROM unnamed") == before
    assert records_on_disk(database, "second") == sample(10, seed=1)
    write_plain(database, [("/later", 1)])
    assert read_table(database, {}) == [*RECORDS, ("/later", 1)]
    assert convert(database, some).outcome is Outcome.UNCHANGED
    back = Format.sqlitedict(tables=["second"])
    convert(database, back)
    assert read_table(database, {}, "second") == sample(10, seed=1)


OTHERS = [
    "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT COLLATE NOCASE, size REAL, raw BLOB)",
    "INSERT INTO log (line, size, raw) VALUES ('abc', 1, x'00'), ('ABC', 1.5, NULL), (NULL, -0.0, 'text')",
    "DELETE FROM log WHERE id = 2",
    "CREATE TABLE pairs (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "INSERT INTO pairs VALUES (1, 'x'), ('1', 'x'), (x'31', 1.0), (2, '')",
    "CREATE TABLE loose (anything)",
    "INSERT INTO loose VALUES (1), (1.0), ('1'), (x'31'), (NULL), (NULL)",
    "CREATE TABLE three (key TEXT PRIMARY KEY, value BLOB, more)",
    "INSERT INTO three VALUES ('k', x'00', 3)",
    "CREATE TABLE hidden (rowid TEXT, oid TEXT, _rowid_ TEXT)",
    "INSERT INTO hidden VALUES ('a', 'b', 'c'), ('a', 'b', 'c')",
    "CREATE TABLE computed (n INTEGER, twice AS (n * 2) STORED, thrice AS (n * 3))",
    "INSERT INTO computed (n) VALUES (1), (2)",
    "CREATE INDEX by_line ON log (line, size DESC) WHERE line IS NOT NULL",
    "CREATE INDEX by_expression ON log (length(raw))",
    "CREATE VIEW lines AS SELECT line FROM log",
    "CREATE TRIGGER logged AFTER INSERT ON pairs BEGIN INSERT INTO log (line) VALUES (new.b); END",
    "CREATE VIRTUAL TABLE words USING fts5 (text)",
    "INSERT INTO words (text) VALUES ('quick brown fox'), ('lazy dog')",
    "CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1)",
    "INSERT INTO boxes VALUES (1, 0.5, 1.5)",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    "CREATE TABLE child (parent INTEGER REFERENCES parent (id))",
    "INSERT INTO parent VALUES (1)",
    "INSERT INTO child VALUES (1)",
    "ANALYZE log",
]
CONTENT = {
    name: f"SELECT {columns} FROM {name} ORDER BY 1, 2"
    for name, columns in {
        "log": "id, typeof(line), line, typeof(size), size, typeof(raw), raw",
        "pairs": "typeof(a), typeof(b), a, b",
        "loose": "rowid, typeof(anything), anything",
        "three": "*, typeof(value)",
        "hidden": "*",
        "computed": "*",
        "lines": "typeof(line), line",
        "words": "rowid, text",
        "boxes": "*",
        "child": "*, 0",
        "sqlite_sequence": "*",
        "sqlite_stat1": "*",
    }.items()
}


@TARGETS
def test_other_tables_and_objects(database: Path, target: Format) -> None:
    """Tables of every other kind, indexes, views, triggers and virtual tables are there as they were."""
    execute(database, *OTHERS)
    content = {name: rows(database, query) for name, query in CONTENT.items()}
    schema = rows(
        database, "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name <> 'unnamed'"
    )
    for step in (target, PLAIN_SQLITEDICT, target):
        convert(database, step)
        assert {name: rows(database, query) for name, query in CONTENT.items()} == content
        assert sorted(
            rows(
                database,
                "SELECT type, name, tbl_name, sql FROM sqlite_schema "
                "WHERE tbl_name NOT IN ('unnamed', '_storageformat')",
            )
        ) == sorted(schema)
        assert records_on_disk(database) == RECORDS
    assert rows(database, "SELECT text FROM words WHERE words MATCH 'brown'") == [
        ("quick brown fox",)
    ]
    execute(database, "INSERT INTO pairs VALUES (9, 'triggered')")
    assert rows(database, "SELECT id FROM log WHERE line = 'triggered'") == [(4,)]


@TARGETS
def test_rowids(tmp_path: Path, target: Format) -> None:
    """Rowids stay, gaps and the ends of 64 bits included: they are the order in which things were inserted."""
    path = tmp_path / "orders.db"
    write_plain(path, [])
    rowids = [-(2**63), -5, 0, 1, 3, 7, 10**12, 2**63 - 2, 2**63 - 1]
    with closing(sqlite3.connect(path)) as connection, connection:
        # In another order than that of the rowids, so that the two can be told apart.
        for number, rowid in sorted(enumerate(rowids), key=lambda pair: pair[0] * 5 % 9):
            connection.execute(
                "INSERT INTO unnamed (rowid, key, value) VALUES (?, ?, x'80044b012e')",
                (rowid, f"/{9 - number}"),
            )
    before = rows(path, "SELECT rowid, key FROM unnamed ORDER BY rowid")
    convert(path, target)
    found = rows(path, "SELECT rowid, key FROM unnamed ORDER BY rowid")
    assert [(rowid, decode_hierarchical(key)) for rowid, key in found] == before
    convert(path, PLAIN_SQLITEDICT)
    assert rows(path, "SELECT rowid, key FROM unnamed ORDER BY rowid") == before


def test_insertion_order(database: Path) -> None:
    """Iteration is in the order of insertion, replaced records last, deleted ones gone: as before."""
    with SqliteDict(str(database)) as store:
        del store[RECORDS[3][0]]
        store[RECORDS[1][0]] = "replaced"
        store.commit()
        expected = list(store.items())
    convert(database, BOTH)
    assert records_on_disk(database) == expected
    convert(database, PLAIN_SQLITEDICT)
    with SqliteDict(str(database), flag="r") as store:
        assert list(store.items()) == expected


# --- the file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [False, True], ids=["only its tables", "other tables too"])
@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("page_size", 1024),
        ("page_size", 65536),
        ("encoding", "UTF-16le"),
        ("encoding", "UTF-16be"),
        ("auto_vacuum", 1),
        ("auto_vacuum", 2),
        ("user_version", -7),
        ("application_id", 0x0F05_5AA5),
    ],
)
def test_properties_of_the_file(tmp_path: Path, pragma: str, value: Any, *, others: bool) -> None:
    """Page size, text encoding, auto-vacuum and the application's own numbers stay."""
    path = tmp_path / "orders.db"
    literal = f"'{value}'" if isinstance(value, str) else value
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA {pragma} = {literal}")
        connection.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
    if others:
        execute(path, "CREATE TABLE log (line TEXT)", "INSERT INTO log VALUES ('größer')")
    write_plain(path, [*RECORDS, ("/ü/\U0001f600", "ü")])
    for target in (HIERARCHICAL, PLAIN_SQLITEDICT, BOTH):
        convert(path, target)
        assert rows(path, f"PRAGMA {pragma}") == [(value,)]
        assert records_on_disk(path) == [*RECORDS, ("/ü/\U0001f600", "ü")]


@TARGETS
def test_write_ahead_log_mode(tmp_path: Path, target: Format) -> None:
    """A database in WAL mode is in WAL mode afterwards; nothing lies beside it."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode="WAL")
    for step in (target, PLAIN_SQLITEDICT):
        convert(path, step)
        assert path.read_bytes()[18:20] == b"\x02\x02"
        assert leftovers(path) == []
        assert inspect(path).journal_mode == "wal"
        assert records_on_disk(path) == RECORDS


def test_rollback_mode(database: Path) -> None:
    """And one that was not is not."""
    convert(database, BOTH)
    assert database.read_bytes()[18:20] == b"\x01\x01"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o4755])
def test_mode(database: Path, mode: int) -> None:
    """Mode bits stay, special ones too."""
    database.chmod(mode)
    convert(database, HIERARCHICAL)
    assert database.stat().st_mode & 0o7777 == mode


@requires("root", how="run as root", available=lambda: os.geteuid() == 0)
def test_owner(database: Path) -> None:
    """Owner and group stay, set-id bits with them; the state directory does not belong to a stranger."""
    os.chown(database, 1234, 4321)
    database.chmod(0o2660)
    convert(database, HIERARCHICAL)
    found = database.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 4321, 0o2660)


def takes_attributes(directory: Path) -> bool:
    try:
        os.setxattr(directory, "user.storageformat", b"1")
    except OSError:
        return False
    return True


def test_extended_attributes(database: Path) -> None:
    """Extended attributes go over to the new file."""
    require_now(
        "user attributes",
        how="put TMPDIR on ext4, xfs or btrfs",
        available=lambda: takes_attributes(database.parent),
    )
    os.setxattr(database, "user.origin", b"\x00\xff")
    convert(database, HIERARCHICAL)
    assert os.getxattr(database, "user.origin") == b"\x00\xff"


def test_time_of_modification_is_new(database: Path) -> None:
    """Tools that copy what is newer must see that the file is another one."""
    os.utime(database, (1, 1))
    convert(database, HIERARCHICAL)
    assert database.stat().st_mtime > time.time() - 3600


# --- what was not at rest -------------------------------------------------------------------------------

_FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 400) "
    "INSERT INTO unnamed SELECT '/new/' || i, x'80044b012e' FROM n"
)


def test_hot_journal(database: Path) -> None:
    """A writer that was killed in mid-transaction: rolled back, then converted."""
    kill_writer(database, "PRAGMA cache_size=1", "BEGIN IMMEDIATE", "DELETE FROM unnamed", _FILL)
    assert database.with_name("orders.db-journal").stat().st_size > 512
    convert(database, BOTH)
    assert records_on_disk(database) == RECORDS
    assert leftovers(database) == []


def test_frames_in_the_write_ahead_log(tmp_path: Path) -> None:
    """What a killed writer committed is only in the log: it is in the converted file."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode="WAL")
    kill_writer(
        path, "INSERT INTO unnamed VALUES ('/last', x'80044b072e')", "BEGIN", "DELETE FROM unnamed"
    )
    assert path.with_name("orders.db-wal").stat().st_size > 0
    convert(path, BOTH)
    assert records_on_disk(path) == [*RECORDS, ("/last", 7)]
    assert leftovers(path) == []


@pytest.mark.parametrize("mode", ["PERSIST", "TRUNCATE"])
def test_an_ended_journal(database: Path, mode: str) -> None:
    """These journal modes leave an ended journal behind: it is removed, not replayed."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("PRAGMA user_version=4")
    assert database.with_name("orders.db-journal").exists()
    convert(database, BOTH)
    assert records_on_disk(database) == RECORDS
    assert leftovers(database) == []


# --- markers and guards ---------------------------------------------------------------------------------


def test_an_unmarked_file_in_the_target_format(tmp_path: Path) -> None:
    """Already in the target format and never marked: it gets its marker and its guards."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, encode=json.dumps)
    target = Format.sqlitedict(value_codec="json")
    result = convert(path, target)
    assert (result.outcome, result.source) == (Outcome.CONVERTED, target)
    marker = marker_of(path)
    assert marker is not None
    assert marker["conversion"] == result.conversion_id
    assert "CHECK" in rows(path, "SELECT sql FROM sqlite_schema WHERE name = 'unnamed'")[0][0]


@pytest.mark.parametrize(
    "target",
    [
        HIERARCHICAL,
        BOTH,
        Format.sqlitedict(value_codec="json"),
        Format.sqlitedict(compression="zlib"),
    ],
    ids=str,
)
def test_an_unaware_application_fails_instead_of_mixing(database: Path, target: Format) -> None:
    """Plain SqliteDict on a converted table: its write fails, and nothing of it is in the file."""
    convert(database, target)
    before = rows(database, "SELECT rowid, key, value FROM unnamed")
    with pytest.raises(sqlite3.IntegrityError):
        write_plain(database, [("/mixed", {"a": 1})])
    assert rows(database, "SELECT rowid, key, value FROM unnamed") == before
    assert convert(database, target).outcome is Outcome.UNCHANGED


def test_the_way_back_removes_the_guards(database: Path) -> None:
    """Back in plain sqlitedict the schema is sqlitedict's own, to the letter, and it can write again."""
    before = rows(database, "SELECT name, sql FROM sqlite_schema")
    convert(database, BOTH)
    convert(database, PLAIN_SQLITEDICT)
    after = rows(database, "SELECT name, sql FROM sqlite_schema WHERE name <> '_storageformat'")
    assert after == before
    write_plain(database, [("/again", 1)])
    assert records_on_disk(database) == [*RECORDS, ("/again", 1)]
