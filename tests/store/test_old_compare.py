"""Leaving Oxia's first format: text keys under a collation that the application brings."""

from __future__ import annotations

import json
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from format_store import (
    PLAIN_SQLITEDICT,
    Format,
    Outcome,
    Retention,
    convert,
    errors,
    inspect,
    list_backups,
    open_store,
    plan,
    recover,
    undo,
    verify,
)
from tests.crash.strace import command
from tests.support.databases import (
    Records,
    leftovers,
    marker_of,
    records_on_disk,
    sample,
    write_plain,
)
from tests.support.refusals import HIERARCHICAL, refused

ROOT = Path(__file__).parents[2]
OLD = Format.sqlitedict(key_encoding="old-compare-hierarchical")
TARGETS = [
    PLAIN_SQLITEDICT,
    HIERARCHICAL,
    Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd"),
    Format.sqlitedict(value_codec="json"),
]
RECORDS = [*sample(80), ("", {}), ("/", {}), ("//", {}), ("a", {}), ("/ü/\x00/😀", {"ß": 1})]


def applications_comparison(one: str, other: str) -> int:
    """An application's own collation, not ours: the order of spans, the last of which sorts first."""
    left, right = (
        [*((1, span) for span in spans), (0, last)]
        for *spans, last in (one.encode().split(b"/"), other.encode().split(b"/"))
    )
    return (left > right) - (left < right)


def write_old(
    path: Path, records: Records, *, table: str = "unnamed", spelling: str = "slash_span"
) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.create_collation("slash_span", applications_comparison)
        connection.execute(
            f'CREATE TABLE "{table}" (key TEXT COLLATE {spelling} PRIMARY KEY, value BLOB)'
        )
        connection.executemany(
            f'INSERT INTO "{table}" VALUES (?, ?)',
            [(key, pickle.dumps(value)) for key, value in records],
        )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_old(path, RECORDS)
    return path


def schema_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT group_concat(sql) FROM sqlite_schema").fetchone()[0])


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_record_arrives(database: Path, target: Format) -> None:
    """From a file that only the application's own connections could use, in insertion order, collation gone."""
    with closing(sqlite3.connect(database)) as stranger, pytest.raises(sqlite3.OperationalError):
        stranger.execute("SELECT count(*) FROM unnamed")
    result = convert(database, target, unmarked=[OLD, PLAIN_SQLITEDICT, HIERARCHICAL])
    assert result.outcome is Outcome.CONVERTED
    assert result.rows == len(RECORDS)
    assert records_on_disk(database) == RECORDS
    assert "slash_span" not in schema_of(database).split("'", maxsplit=1)[0]
    marker = marker_of(database)
    assert marker is not None
    assert marker["previous"] == {
        "sqlitedict": {"keyEncoding": "old-compare-hierarchical", "valueCodec": "pickle"}
    }
    assert verify(database) == len(RECORDS)
    assert leftovers(database) == []
    assert convert(database, target).outcome is Outcome.UNCHANGED


def test_an_index_in_another_order_does_not_matter(tmp_path: Path) -> None:
    """Rows are read by rowid: that the application's collation sorted otherwise loses nothing.

    ``verify`` of the source, which looks at the index, says so.
    """
    path = tmp_path / "orders.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.create_collation("slash_span", lambda one, other: (one < other) - (one > other))
        connection.execute(
            "CREATE TABLE unnamed (key TEXT COLLATE slash_span PRIMARY KEY, value BLOB)"
        )
        connection.executemany(
            "INSERT INTO unnamed VALUES (?, ?)",
            [(key, pickle.dumps(value)) for key, value in RECORDS],
        )
    with pytest.raises(errors.CorruptDatabase, match="integrity_check"):
        verify(path, expected=OLD)
    assert convert(path, HIERARCHICAL, unmarked=[OLD]).outcome is Outcome.CONVERTED
    assert records_on_disk(path) == RECORDS


def test_beside_other_tables(database: Path) -> None:
    """Copied page by page and dropped there: other tables stay, whatever the index of the old one needs."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE settings (name TEXT, number INTEGER)")
        connection.execute("INSERT INTO settings VALUES ('version', 7)")
    assert convert(database, HIERARCHICAL, unmarked=[OLD]).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT * FROM settings").fetchall() == [("version", 7)]


def test_looking_at_it(database: Path) -> None:
    """``verify``, ``inspect`` and ``plan`` count and check the file as it is."""
    assert verify(database, expected=OLD) == len(RECORDS)
    assert inspect(database).to_dict()["tables"] == [{"name": "unnamed", "rows": len(RECORDS)}]
    planned = plan(database, HIERARCHICAL, unmarked=[OLD], rehearse=True)
    assert (planned.action, planned.source, planned.obstacles) == ("convert", OLD, ())
    with pytest.raises(errors.MarkerMismatch, match="collation slash_span"):
        verify(database, expected=PLAIN_SQLITEDICT)


@pytest.mark.parametrize("name", ["build.after-batch", "verify.after-ready", "swap.after-rename"])
def test_killed_on_the_way(database: Path, name: str) -> None:
    """Recovery gives the old file, usable by its application alone, or the new one, with every record."""
    before = database.read_bytes()
    options = ["--unmarked", json.dumps(OLD.to_spec()), "--failpoint", name, "kill"]
    done = subprocess.run(
        command(["convert", str(database), *options]), capture_output=True, check=False
    )
    assert done.returncode == -9
    recover(database)
    assert leftovers(database) == []
    if name != "swap.after-rename":
        assert database.read_bytes() == before
        assert verify(database, expected=OLD) == len(RECORDS)
        convert(database, HIERARCHICAL, unmarked=[OLD])
    assert records_on_disk(database) == RECORDS


def test_with_a_log_that_is_not_worked_off(database: Path) -> None:
    """In WAL mode, with frames of an application that was killed: they are in the copy, too."""
    program = (
        "import os, sqlite3, sys\n"
        "from tests.store.test_old_compare import applications_comparison\n"
        "c = sqlite3.connect(sys.argv[1]); c.create_collation('slash_span', applications_comparison)\n"
        "c.execute('PRAGMA journal_mode=WAL'); c.execute(\"INSERT INTO unnamed VALUES ('/last', x'80054b072e')\")\n"
        "c.commit(); os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(database)], check=True, cwd=ROOT)
    assert Path(f"{database}-wal").stat().st_size > 0
    assert convert(database, HIERARCHICAL, unmarked=[OLD]).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == [*RECORDS, ("/last", 7)]


def test_the_spelling_of_the_collation(tmp_path: Path) -> None:
    """SQLite does not look at the case of a collation's name, nor do we."""
    path = tmp_path / "orders.db"
    write_old(path, RECORDS, spelling="Slash_SPAN")
    assert convert(path, HIERARCHICAL, unmarked=[OLD]).outcome is Outcome.CONVERTED
    assert records_on_disk(path) == RECORDS


def test_an_empty_table_tells_its_format_by_the_collation(tmp_path: Path) -> None:
    """A table without rows is converted like one with rows; undeclared it is refused, not taken as plain."""
    path = tmp_path / "orders.db"
    write_old(path, [])
    with refused(path, errors.UndeclaredFormat, "collation slash_span", "BINARY"):
        convert(path, HIERARCHICAL)
    assert convert(path, HIERARCHICAL, unmarked=[OLD]).outcome is Outcome.CONVERTED
    assert "key BLOB PRIMARY KEY" in schema_of(path)


@pytest.mark.parametrize("unmarked", [[PLAIN_SQLITEDICT], [HIERARCHICAL]], ids=str)
def test_undeclared_it_is_refused(database: Path, unmarked: list[Format]) -> None:
    """A file whose keys have the collation is none of the other encodings', and the words say why."""
    with refused(database, errors.UndeclaredFormat, "collation slash_span"):
        convert(database, HIERARCHICAL, unmarked=unmarked)


def test_a_plain_file_is_not_taken_for_it(tmp_path: Path) -> None:
    """Text keys without the collation are natural ones."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    with refused(path, errors.UndeclaredFormat, "collation BINARY"):
        convert(path, HIERARCHICAL, unmarked=[OLD])
    assert convert(path, HIERARCHICAL, unmarked=[OLD, PLAIN_SQLITEDICT]).source == PLAIN_SQLITEDICT


def test_tables_of_both_kinds_in_one_file(database: Path) -> None:
    """No format is that of all its tables: refused, until ``tables`` names those to convert."""
    write_plain(database, RECORDS[:3], table="plain")
    with refused(database, errors.UndeclaredFormat, "'plain'"):
        convert(database, HIERARCHICAL, unmarked=[OLD])
    named = [
        Format.sqlitedict(key_encoding=encoding, tables=["unnamed"])
        for encoding in ("old-compare-hierarchical", "hierarchical")
    ]
    assert convert(database, named[1], unmarked=[named[0]]).outcome is Outcome.CONVERTED
    with closing(sqlite3.connect(database)) as connection:
        kinds = connection.execute(
            "SELECT (SELECT group_concat(DISTINCT typeof(key)) FROM unnamed), "
            "(SELECT group_concat(DISTINCT typeof(key)) FROM plain)"
        ).fetchone()
    assert kinds == ("blob", "text")


@pytest.mark.parametrize("marked", [PLAIN_SQLITEDICT, HIERARCHICAL], ids=str)
def test_a_table_that_comes_later(tmp_path: Path, marked: Format) -> None:
    """A table with the collation in a file that is marked as something else is named, never converted along."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    convert(path, marked)
    write_old(path, RECORDS[:3], table="later")
    target = Format.sqlitedict(value_codec="json")
    kind = errors.UnsupportedSchema if marked is PLAIN_SQLITEDICT else errors.MarkerMismatch
    with refused(path, kind, "'later'", "slash_span"):
        convert(path, target)


@pytest.mark.parametrize("written", ["a source in it", "an empty file"])
def test_it_is_never_a_target(tmp_path: Path, written: str) -> None:
    """Refused by name, with what to use instead, and nothing touched."""
    path = tmp_path / "orders.db"
    if written == "an empty file":
        path.touch()
    else:
        write_plain(path, RECORDS)
    with refused(path, errors.InvalidFormat, "'old-compare-hierarchical'", code=2):
        convert(path, OLD)
    with pytest.raises(errors.InvalidFormat) as caught:
        open_store(path, ensure=OLD)
    assert "'hierarchical' or 'natural'" in caught.value.hint


def test_no_store_is_made_in_it(tmp_path: Path) -> None:
    """Where there is no file, ``open_store`` leaves none behind."""
    with pytest.raises(errors.InvalidFormat):
        open_store(tmp_path / "new.db", ensure=OLD)
    assert list(tmp_path.iterdir()) == []


def test_the_way_back_is_a_backup(database: Path) -> None:
    """``undo`` is refused by the same words; the retained backup is the file as it was."""
    before = database.read_bytes()
    convert(database, HIERARCHICAL, unmarked=[OLD], retention=Retention(pinned=True))
    (backup,) = list_backups(database, verify=True)
    assert (backup.sound, backup.source_format) == (True, OLD)
    assert Path(backup.path).read_bytes() == before
    with pytest.raises(errors.InvalidFormat, match="old-compare-hierarchical"):
        undo(database)
    assert records_on_disk(database) == RECORDS


def test_open_store(database: Path) -> None:
    """Opened as it is, it is refused in words; with ``ensure`` it is converted, and sorted level by level."""
    with pytest.raises(errors.UsageError, match="collation slash_span") as caught:
        open_store(database)
    assert "ensure" in caught.value.hint
    with open_store(database, ensure=HIERARCHICAL, unmarked=[OLD]) as store:
        assert dict(store.items()) == dict(RECORDS)
        assert len(list(store.children("/"))) == len(
            [
                key
                for key, _ in RECORDS
                if key.startswith("/") and key.count("/") == 1 and key != "/"
            ]
        )


def test_keys_that_are_no_text(database: Path) -> None:
    """Bytes that are no UTF-8, and blobs, are named and nothing is converted."""
    path = database.with_name("made.db")
    write_plain(path, RECORDS)
    # Nobody's binding can compare such a key: the row is put in before the column has its collation.
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO unnamed VALUES (CAST(x'ff41' AS TEXT), x'80054e2e')")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'key TEXT', 'key TEXT COLLATE slash_span') "
            "WHERE name = 'unnamed'"
        )
    with refused(path, errors.UnconvertibleKey, "not valid UTF-8", built=True):
        convert(path, HIERARCHICAL, unmarked=[OLD])
