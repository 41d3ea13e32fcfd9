"""How a copy is built: the index after the rows, the schema's text after the index, two things at a time."""

from __future__ import annotations

import _thread
import errno
import os
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from format_store import Format, Outcome, beside, convert, durable, errors
from format_store.abort import Abort
from format_store.engines.base import Job
from format_store.engines.sqlitedict import bare, build, check, schema, structure
from format_store.sqlitefile import connect
from tests.support.databases import leftovers, records_on_disk, rows, sample, write_plain
from tests.support.refusals import HIERARCHICAL, traces
from tests.support.trees import unchanged

RECORDS = sample(60)
BOTH = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
TARGETS = pytest.mark.parametrize("target", [HIERARCHICAL, BOTH], ids=["keys", "keys and values"])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def as_created(folder: Path, target: Format, *tables: str) -> list[tuple[object, ...]]:
    """What the schema says where SQLite itself has made the tables."""
    path = folder / "created.db"
    with closing(sqlite3.connect(path)) as connection:
        for table in tables:
            connection.execute(schema.create_statement(table, target))
    return rows(path, _SCHEMA)


_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type <> 'view' ORDER BY rowid"


@TARGETS
def test_the_schema_is_the_one_that_sqlite_writes(
    database: Path, target: Format, tmp_path: Path
) -> None:
    """A converted table has its own CREATE statement and its primary key's own index, under that name."""
    assert convert(database, target).outcome is Outcome.CONVERTED
    assert rows(database, _SCHEMA) == as_created(tmp_path, target, "unnamed")
    plan = rows(database, "EXPLAIN QUERY PLAN SELECT value FROM unnamed WHERE key = x'0000'")
    assert "sqlite_autoindex_unnamed_1" in str(plan)
    with closing(sqlite3.connect(database)) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            connection.execute("INSERT INTO unnamed VALUES ('text', x'80')")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            connection.execute("INSERT INTO unnamed SELECT key, value FROM unnamed LIMIT 1")


def test_names_that_are_in_the_way(tmp_path: Path) -> None:
    """Several tables, quotes in a name, and one that is called as the index is for a moment."""
    path = tmp_path / "orders.db"
    names = ["unnamed", 'a "b" c', "_storageformat_key_unnamed", "Ünïcode"]
    for name in names:
        with closing(sqlite3.connect(path)) as connection, connection:
            quoted = '"' + name.replace('"', '""') + '"'
            connection.execute(f"CREATE TABLE {quoted} (key TEXT PRIMARY KEY, value BLOB)")
            connection.execute(f"INSERT INTO {quoted} VALUES ('/a/b', x'80054b012e')")
    assert convert(path, HIERARCHICAL).outcome is Outcome.CONVERTED
    found = rows(path, _SCHEMA)
    assert sorted(found, key=str) == sorted(as_created(tmp_path, HIERARCHICAL, *names), key=str)


@TARGETS
def test_a_sqlite_whose_schema_cannot_be_edited(
    database: Path, target: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built to be defensive, SQLite fills the table with its key in place: slower, and the same."""
    monkeypatch.setattr(bare, "possible", lambda: False)
    assert convert(database, target).outcome is Outcome.CONVERTED
    assert rows(database, _SCHEMA) == as_created(tmp_path, target, "unnamed")
    assert records_on_disk(database) == RECORDS


def test_this_sqlite_can() -> None:
    """Otherwise the other tests of this module would be about the slow way only."""
    assert bare.possible()


@TARGETS
def test_an_fsync_that_fails_beside_the_verification(
    database: Path, target: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as final as ever: nothing is swapped, the copy is discarded, the next run converts."""

    def failing(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(descriptor)

    with (
        monkeypatch.context() as patched,
        unchanged(database.parent, besides=_remembered(database)),
    ):
        patched.setattr(durable, "fsync_descriptor", failing)
        with pytest.raises(errors.StorageError, match="sync") as caught:
            convert(database, target)
        assert caught.value.exit_code == 1
    assert leftovers(database) == []
    assert convert(database, target).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS


def _remembered(database: Path) -> set[str]:
    return {*traces(database, built=True), f".{database.name}.storageformat/history.jsonl"}


def damaged_index(path: Path) -> None:
    """One byte of one key in the index is another, which only a comparison of index and table tells."""
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_unnamed_1'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (count,) = connection.execute("PRAGMA page_count").fetchone()
    data = bytearray(path.read_bytes())
    for page in range(root, count + 1):
        start = (page - 1) * size
        if data[start] == 0x0A:  # a leaf of an index
            at = data.index(b"file-0000", start)
            data[at + 4] ^= 1
            path.write_bytes(data)
            return
    raise AssertionError("there is no leaf of the index")


@pytest.mark.parametrize("large", [False, True], ids=["integrity_check", "sorted batches"])
@pytest.mark.parametrize("wrong", ["nothing", "a key in the index", "an entry too many", "a CHECK"])
@TARGETS
def test_the_structure_of_large_copies_is_checked_in_sorted_batches(
    database: Path, target: Format, wrong: str, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    """What `integrity_check` finds in a small copy is found in a large one: entries, their number, CHECKs."""
    if large:
        monkeypatch.setattr(structure, "_LARGE_BYTES", 0)
        monkeypatch.setattr(structure, "_BATCH", 7)
    real = build.build

    def built(job: Job) -> None:
        real(job)
        if wrong == "a key in the index":
            damaged_index(job.staging_path)
        elif wrong != "nothing":
            with closing(sqlite3.connect(job.staging_path)) as connection, connection:
                connection.execute("PRAGMA ignore_check_constraints=ON")
                if wrong == "a CHECK":
                    connection.execute("UPDATE unnamed SET value = x'' WHERE rowid = 5")
                else:
                    connection.execute("PRAGMA writable_schema=ON")
                    # While the schema knows no index, a row goes without taking its entry along.
                    saved = connection.execute(
                        "SELECT rowid, sql FROM sqlite_schema WHERE name = 'unnamed'"
                    ).fetchone()
                    index = connection.execute(
                        "SELECT rowid, * FROM sqlite_schema WHERE type = 'index'"
                    ).fetchone()
                    connection.execute("DELETE FROM sqlite_schema WHERE type = 'index'")
                    connection.execute(
                        "UPDATE sqlite_schema SET sql = 'CREATE TABLE unnamed (key, value)' "
                        "WHERE name = 'unnamed'"
                    )
                    connection.execute("PRAGMA writable_schema=RESET")
                    connection.execute("DELETE FROM unnamed WHERE rowid = 9")
                    connection.execute("PRAGMA writable_schema=ON")
                    connection.execute(
                        "UPDATE sqlite_schema SET sql = ? WHERE rowid = ?", (saved[1], saved[0])
                    )
                    connection.execute(
                        "INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", index[1:]
                    )

    monkeypatch.setattr(build, "build", built)
    # What is wrong with rows is found by their comparison; here it is the structure that has to tell.
    monkeypatch.setattr(check, "compare_table", lambda *_: len(RECORDS))
    if wrong == "nothing":
        assert convert(database, target).outcome is Outcome.CONVERTED
        assert records_on_disk(database) == RECORDS
        return
    with pytest.raises(errors.VerificationFailed, match="integrity_check"):
        convert(database, target)
    assert leftovers(database) == []
    assert records_on_disk(database) == RECORDS


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_without_digests_values_are_compared(
    database: Path, monkeypatch: pytest.MonkeyPatch, *, wrong: bool
) -> None:
    """Where a chunk has no digest (or another one, as sets may cause), each of its values is looked at."""
    real = build.build

    def built(job: Job) -> None:
        real(job)
        assert sum(count for count, _ in job.digests["unnamed"]) == len(RECORDS)
        job.digests["unnamed"] = [(count, b"") for count, _ in job.digests["unnamed"]]
        if wrong:
            with closing(sqlite3.connect(job.staging_path)) as connection, connection:
                connection.execute(
                    "UPDATE unnamed SET value = (SELECT value FROM unnamed WHERE rowid = 8) "
                    "WHERE rowid = 7"
                )

    monkeypatch.setattr(build, "build", built)
    if not wrong:
        assert convert(database, BOTH).outcome is Outcome.CONVERTED
        assert records_on_disk(database) == RECORDS
        return
    with pytest.raises(errors.VerificationFailed, match=re.escape(repr(RECORDS[6][0]))):
        convert(database, BOTH)
    assert leftovers(database) == []
    assert records_on_disk(database) == RECORDS


def test_connections_to_the_copy_are_closed_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In WAL mode the last one removes the log; of two that are closed at the same moment neither is the last."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode="WAL")
    order: list[str] = []
    stops: list[Abort] = []
    begun, awaited = threading.Event(), threading.Event()
    join, looked, compared = beside.Task.join, check._check_structure, check.compare_table

    def joining(task: beside.Task[object]) -> None:
        if task._stop_request in stops:
            awaited.set()
        join(task)

    def structure_(job: Job, stop: Abort) -> None:
        stops.append(stop)
        begun.set()
        looked(job, stop)
        assert awaited.wait(30)
        order.append("structure")

    def comparison(*arguments: Any) -> int:
        assert begun.wait(30)
        return compared(*arguments)

    def connecting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        if threading.current_thread() is threading.main_thread():
            close = connection.close

            def closing_() -> None:
                order.append("comparison")
                close()

            monkeypatch.setattr(connection, "close", closing_)
        return connection

    monkeypatch.setattr(beside.Task, "join", joining)
    monkeypatch.setattr(check, "_check_structure", structure_)
    monkeypatch.setattr(check, "compare_table", comparison)
    monkeypatch.setattr(check, "connect", connecting)
    assert convert(path, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert order == ["structure", "comparison"]
    assert records_on_disk(path) == RECORDS


def test_two_things_at_a_time() -> None:
    """The result of the one beside; its error after a body without one; told to stop by an error of the body."""
    with beside.running(lambda _: threading.get_ident()) as task:
        assert task.result() != threading.get_ident()

    def failing(_: Abort) -> None:
        raise LookupError("beside")

    reached = []
    with pytest.raises(LookupError, match="beside"), beside.running(failing):
        reached.append(True)
    assert reached

    told = threading.Event()

    def waiting(stop: Abort) -> None:
        with stop.interrupting(told.set):
            assert told.wait(30)

    with pytest.raises(ValueError, match="body"), beside.running(waiting):
        raise ValueError("body")
    assert told.is_set()


@pytest.mark.parametrize("how", ["none can be started", "it dies before its first line"])
def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Where memory or processes run out there is no second thread: the first does it, and nobody waits for ever."""

    def start(function: Any, arguments: tuple[Any, ...]) -> None:
        del function, arguments
        if how == "none can be started":
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start)
    with beside.running(lambda _: threading.get_ident()) as task:
        assert task.result() == threading.get_ident()
    with pytest.raises(ValueError, match="body"), beside.running(lambda _: 0 / 0):
        raise ValueError("body")
