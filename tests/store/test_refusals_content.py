"""Refused before anything is written: files that are no database, journals of elsewhere, dependent objects."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from format_store import Format, Outcome, convert, errors, inspect, open_store, verify
from tests.crash.strace import traceable
from tests.support.databases import execute, leftovers, records_on_disk, sample, write_plain
from tests.support.openers import kill_writer
from tests.support.refusals import HIERARCHICAL, refused, require_plan_refuses
from tests.support.requirements import requires
from tests.support.trees import unchanged

RECORDS = sample(30)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


# --- no database, or a newer one ------------------------------------------------------------------------


def text_file(path: Path) -> None:
    path.write_text("orders: none yet\n" * 500, encoding="ascii")


def encrypted(path: Path) -> None:
    path.write_bytes(random.Random(7).randbytes(16384))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def one_byte(path: Path) -> None:
    path.write_bytes(b"S")


@pytest.mark.parametrize("make", [text_file, encrypted, zeros, cut_in_the_header, one_byte])
def test_foreign_file(database: Path, make: Callable[[Path], None]) -> None:
    """What is no SQLite database (or an encrypted one, which looks like noise) is said to be none."""
    make(database)
    with refused(database, errors.NotASQLiteDatabase, "orders.db", "not a SQLite database"):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, errors.NotASQLiteDatabase)
    with unchanged(database.parent):
        assert inspect(database).state == "foreign"


@pytest.mark.parametrize(
    ("offset", "data", "says"),
    [
        pytest.param(18, b"\x03", "file version 3/1", id="write version"),
        pytest.param(18, b"\x03\x03", "file version 3/3", id="read and write version"),
        pytest.param(44, struct.pack(">I", 5), "schema format 5", id="schema format"),
    ],
)
def test_written_by_a_newer_sqlite(database: Path, offset: int, data: bytes, says: str) -> None:
    """The file format says which versions must not write, or not even read, the file."""
    patch(database, offset, data)
    with refused(database, errors.NewerSQLiteFormat, "orders.db", says):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, errors.NewerSQLiteFormat)


@pytest.mark.parametrize(("offset", "data"), [(19, b"\x03"), (44, struct.pack(">I", 5))])
def test_inspecting_what_a_newer_sqlite_wrote(database: Path, offset: int, data: bytes) -> None:
    """A file that our SQLite cannot even read is not called damaged, and not called foreign."""
    patch(database, offset, data)
    with unchanged(database.parent), pytest.raises(errors.NewerSQLiteFormat):
        inspect(database)


def test_cut_short(database: Path) -> None:
    """A database that lost its second half is damaged, which is another thing than foreign: exit code 1."""
    data = database.read_bytes()
    database.write_bytes(data[: len(data) // 2])
    with refused(database, errors.CorruptDatabase, "orders.db", "damage", code=1):
        convert(database, HIERARCHICAL)


# --- super-journals -------------------------------------------------------------------------------------

_COMMIT_OVER_TWO = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("ATTACH DATABASE ? AS other", (sys.argv[2],))
connection.execute("BEGIN")
connection.execute("UPDATE main.unnamed SET value = x'80044b012e'")
connection.execute("UPDATE other.unnamed SET value = x'80044b012e'")
connection.execute("COMMIT")
"""


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """Two databases whose common transaction was killed just before its commit point.

    That is the removal of the super-journal: both files are written by then, both journals are hot.
    """
    volume = tmp_path / "volume"
    volume.mkdir()
    paths = [volume / "orders.db", volume / "other.db"]
    for path in paths:
        write_plain(path, RECORDS)
    done = subprocess.run(
        [
            *("strace", "-qq", "-o", "/dev/null", "-e", "trace=?unlink,?unlinkat"),
            *("-e", "inject=?unlink,?unlinkat:signal=KILL:when=1"),
            *(sys.executable, "-I", "-S", "-c", _COMMIT_OVER_TWO, *map(str, paths)),
        ],
        check=False,
    )
    assert done.returncode == -9
    names = sorted(entry.name for entry in volume.iterdir() if "mj" not in entry.name)
    assert names == ["orders.db", "orders.db-journal", "other.db", "other.db-journal"]
    return paths[0]


needs_strace = requires("strace", how="apt-get install strace", available=traceable)


@needs_strace
def test_super_journal_in_place(interrupted: Path) -> None:
    """Where it belongs, the transaction over two files is rolled back in both, whoever comes first."""
    assert convert(interrupted, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert records_on_disk(interrupted) == RECORDS
    assert leftovers(interrupted) == []
    assert records_on_disk(interrupted.with_name("other.db")) == RECORDS


@needs_strace
def test_super_journal_elsewhere(interrupted: Path, tmp_path: Path) -> None:
    """At another mount path SQLite would take the transaction for committed and tear it: not opened."""
    moved = interrupted.parent.rename(tmp_path / "moved") / "orders.db"
    with refused(moved, errors.SuperJournalElsewhere, "orders.db-journal", str(interrupted.parent)):
        convert(moved, HIERARCHICAL)
    require_plan_refuses(moved, errors.SuperJournalElsewhere)
    for operation in (verify, open_store):
        with unchanged(moved.parent), pytest.raises(errors.SuperJournalElsewhere):
            operation(moved)
    with unchanged(moved.parent):
        assert inspect(moved).state == "busy"
    # Back where it belongs, everything is still there to be rolled back.
    back = moved.parent.rename(interrupted.parent) / "orders.db"
    assert convert(back, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert records_on_disk(back) == RECORDS


def hot_journal_naming(database: Path, super_journal: bytes) -> None:
    """A hot journal with the record of a super-journal at its end, as pager.c writes it."""
    kill_writer(
        database,
        "PRAGMA cache_size=1",
        "PRAGMA cache_spill=1",
        "BEGIN IMMEDIATE",
        "UPDATE unnamed SET value = x'80044b012e'",
        "CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 2000) "
        "SELECT randomblob(200) FROM n",
    )
    journal = database.with_name(f"{database.name}-journal")
    assert journal.stat().st_size > 0
    lock_page = struct.pack(">I", (1 << 30) // 4096 + 1)
    checksum = sum(byte - 256 if byte > 127 else byte for byte in super_journal) & 0xFFFFFFFF
    with open(journal, "ab") as file:
        file.write(lock_page + super_journal)
        file.write(struct.pack(">II", len(super_journal), checksum))
        file.write(bytes.fromhex("d9d505f920a163d7"))


@pytest.mark.parametrize("name", ["orders.db-mj0123ABCD9", "größer-mj0123ABCD9"])
def test_a_journal_of_another_path(database: Path, name: str) -> None:
    """The journal's own words are enough: no second database is needed, nor plain ASCII."""
    hot_journal_naming(database, f"/somewhere/else/{name}".encode())
    with refused(database, errors.SuperJournalElsewhere, "/somewhere/else/"):
        convert(database, HIERARCHICAL)


def test_a_journal_without_a_super_journal(database: Path) -> None:
    """An ordinary hot journal is rolled back: no reason to refuse."""
    kill_writer(
        database,
        "PRAGMA cache_size=1",
        "BEGIN IMMEDIATE",
        "UPDATE unnamed SET value = x'80044b012e'",
        "CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 2000) "
        "SELECT randomblob(200) FROM n",
    )
    assert database.with_name("orders.db-journal").stat().st_size > 0
    assert convert(database, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS


def test_a_journal_that_is_a_symbolic_link(database: Path) -> None:
    """A link in the journal's place is not followed."""
    elsewhere = database.with_name("elsewhere")
    elsewhere.write_bytes(b"x" * 600)
    os.symlink(elsewhere, f"{database}-journal")
    with unchanged(
        database.parent, besides={".orders.db.storageformat", ".orders.db.storageformat/lock"}
    ):
        with pytest.raises(errors.StoreError, match=r"orders\.db") as caught:
            convert(database, HIERARCHICAL)
        assert caught.value.hint


# --- what hangs on a converted table --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "kind", "name"),
    [
        ("CREATE INDEX by_size ON unnamed (length(value))", "index", "by_size"),
        ("CREATE UNIQUE INDEX once ON unnamed (key DESC)", "index", "once"),
        (
            "CREATE TRIGGER audit AFTER DELETE ON unnamed BEGIN SELECT 1; END",
            "trigger",
            "audit",
        ),
        (
            "CREATE TRIGGER copying AFTER INSERT ON log BEGIN INSERT INTO unnamed VALUES (new.line, x''); END",
            "trigger",
            "copying",
        ),
        ("CREATE VIEW keys AS SELECT key FROM unnamed", "view", "keys"),
        ('CREATE VIEW quoted AS SELECT key FROM "Unnamed"', "view", "quoted"),
        ("CREATE TABLE child (parent TEXT REFERENCES unnamed (key))", "table", "child"),
        (
            "CREATE TABLE generated (key, size AS (1), CHECK (key <> 'unnamed'))",
            "table",
            "generated",
        ),
    ],
)
def test_objects_that_depend_on_a_converted_table(
    database: Path, statement: str, kind: str, name: str
) -> None:
    """An object that reads a converted table would mean something else afterwards: refused by name."""
    execute(database, "CREATE TABLE log (line TEXT)", statement)
    with refused(database, errors.UnsupportedSchema, "orders.db", f"{kind} '{name}'"):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, errors.UnsupportedSchema)
    with pytest.raises(errors.UnsupportedSchema) as caught:
        convert(database, HIERARCHICAL)
    assert name in caught.value.hint


def test_objects_that_only_look_related(database: Path) -> None:
    """A name that merely contains the table's, and objects on other tables, are no obstacle."""
    execute(
        database,
        "CREATE TABLE unnamed_too (line TEXT, unnamed2 INTEGER)",
        "CREATE INDEX on_too ON unnamed_too (unnamed2)",
        "CREATE VIEW too AS SELECT line FROM unnamed_too",
    )
    assert convert(database, HIERARCHICAL).outcome is Outcome.CONVERTED


@pytest.mark.parametrize(
    "columns",
    [
        "key PEXT PRIMARY KEY, value BLOB",
        "key TEXT PRIMARY KEY, value CLOB",
        "key VARCHAR(64) PRIMARY KEY, value",
        "key TEXT, value BLOB",
        "value BLOB, key TEXT PRIMARY KEY",
    ],
)
def test_records_in_a_table_that_is_declared_otherwise(database: Path, columns: str) -> None:
    """Left alone they would be in the old format below the new marker: refused by name, unless ``tables`` says so."""
    execute(
        database,
        f"CREATE TABLE more ({columns})",
        "INSERT INTO more (key, value) SELECT key, value FROM unnamed",
        "INSERT INTO more (key, value) VALUES ('no record', NULL)",
    )
    with refused(
        database, errors.UnsupportedSchema, "'more'", "records of sqlitedict(natural pickle)"
    ):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, errors.UnsupportedSchema)
    named = Format.sqlitedict(key_encoding="hierarchical", tables=["unnamed"])
    assert convert(database, named).outcome is Outcome.CONVERTED


@pytest.mark.parametrize(
    ("declared", "damaged", "target"),
    [
        ("TEXT", "PEXT", {"sqlite": {}, "sqlitedict": {"keyEncoding": "hierarchical"}}),
        ("BLOB", "JLOB", {"sqlitedict": {}}),
    ],
)
def test_a_declaration_with_a_bit_that_was_flipped(
    database: Path, declared: str, damaged: str, target: dict[str, Any]
) -> None:
    """SQLite finds nothing wrong in it, and no record may be taken for converted that is not; there and back."""
    if declared == "BLOB":
        convert(database, HIERARCHICAL)
    data = database.read_bytes()
    sound, flipped = f"(key {declared} PRIMARY".encode(), f"(key {damaged} PRIMARY".encode()
    assert data.count(sound) == 1
    database.write_bytes(data.replace(sound, flipped))
    with refused(database, errors.UnsupportedSchema, "'unnamed'", "not declared as sqlitedict"):
        convert(database, Format.from_spec(target))


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("key TEXT PRIMARY KEY, value TEXT", "'colour', 'red'"),
        ("key INTEGER PRIMARY KEY, value BLOB", "1, x'80044e2e'"),
        ("key TEXT PRIMARY KEY, value TEXT", ""),
        ("key TEXT PRIMARY KEY, value TEXT, more TEXT", "'colour', 'red', ''"),
    ],
)
def test_settings_of_the_application(database: Path, columns: str, row: str) -> None:
    """A table of the same columns that holds anything but records is the application's own, and stays as it is."""
    execute(database, f"CREATE TABLE settings ({columns})")
    if row:
        execute(database, f"INSERT INTO settings VALUES ({row})")
    assert convert(database, HIERARCHICAL).outcome is Outcome.CONVERTED


@pytest.mark.parametrize("name", ["orders", "Unnamed", "log"])
def test_named_table_that_is_missing(database: Path, name: str) -> None:
    """A table that ``tables`` names and the file does not have (in that shape): named, with what there is."""
    execute(database, "CREATE TABLE log (line TEXT)")
    with refused(database, errors.UnsupportedSchema, f"'{name}'", "unnamed"):
        convert(database, Format.sqlitedict(key_encoding="hierarchical", tables=["unnamed", name]))


def test_tables_that_differ_between_the_formats(database: Path) -> None:
    """A file that is marked for some tables cannot be converted for others: both lists are named."""
    write_plain(database, RECORDS, table="second")
    one = Format.sqlitedict(key_encoding="hierarchical", tables=["unnamed"])
    convert(database, one)
    other = Format.sqlitedict(value_codec="json", tables=["second"])
    with refused(database, errors.UnsupportedSchema, "unnamed", "second"):
        convert(database, other)


def test_another_engine(database: Path) -> None:
    """There is no such engine: the declaration is wrong, which is for whoever wrote it to correct."""
    with unchanged(database.parent), pytest.raises(errors.InvalidFormat, match="leveldb") as caught:
        convert(database, Format.from_spec({"leveldb": {}}))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_an_error_of_sqlites_that_is_no_text(database: Path) -> None:
    """A damaged schema whose bytes SQLite quotes in its message: an error of ours, and the file as it was."""
    execute(database, "CREATE TABLE other_table (a)")
    data = database.read_bytes()
    at = data.index(b"other_table", data.index(b"CREATE TABLE other_table"))
    database.write_bytes(data[:at] + b"\xd5ther'tabl\xff" + data[at + 11 :])
    before = database.read_bytes()
    for use in (
        lambda: convert(database, HIERARCHICAL),
        lambda: inspect(database),
        lambda: verify(database),
    ):
        with pytest.raises(errors.StoreError):
            use()
    assert database.read_bytes() == before
