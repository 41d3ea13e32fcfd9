"""An application's way in: ``open_store`` converts, creates, recovers, scans, and refuses to weaken a file."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlitedict import SqliteDict

from format_store import (
    PLAIN_SQLITEDICT,
    Failpoints,
    Format,
    Outcome,
    convert,
    errors,
    history,
    inspect,
    open_store,
)
from tests.crash.strace import command
from tests.support.databases import (
    execute,
    format_on_disk,
    leftovers,
    read_table,
    records_on_disk,
    sample,
    write_plain,
)
from tests.support.openers import can_write, opened
from tests.support.refusals import HIERARCHICAL
from tests.support.trees import unchanged

RECORDS = sample(40)
BOTH = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


# --- ensure ---------------------------------------------------------------------------------------------


def test_converts(database: Path) -> None:
    """With ``ensure`` alone an application gets its file converted, and goes on with what it wrote."""
    with open_store(database, ensure=BOTH) as store:
        assert isinstance(store, SqliteDict)
        assert store.format == BOTH
        assert list(store.items()) == RECORDS
        store["/later"] = {"a": [1, 2]}
        store.commit()
    assert format_on_disk(database) == BOTH.to_spec()["sqlitedict"]
    assert records_on_disk(database) == [*RECORDS, ("/later", {"a": [1, 2]})]


def test_creates(tmp_path: Path) -> None:
    """A file that is not there is made in the format, guards and marker included."""
    path = tmp_path / "orders.db"
    with open_store(path, ensure=BOTH) as store:
        store["/first"] = 1
        store.commit()
    assert inspect(path).format == BOTH
    assert records_on_disk(path) == [("/first", 1)]
    assert leftovers(path) == []
    assert_guarded(path, "unnamed")


def assert_guarded(path: Path, table: str) -> None:
    """A row of plain sqlitedict is not taken."""
    with pytest.raises(sqlite3.IntegrityError):
        execute(path, f"INSERT INTO {table} VALUES ('/plain', x'80044b012e')")


def test_named_tables_of_a_new_file(tmp_path: Path) -> None:
    """A new replica's format may name tables that are yet to be made: they get their guards then."""
    path = tmp_path / "orders.db"
    named = Format.sqlitedict(key_encoding="hierarchical", tables=["orders"])
    path.touch()
    assert convert(path, named).outcome is Outcome.CONVERTED
    with open_store(path, "orders", ensure=named) as store:
        store["/first"] = 1
        store.commit()
    assert_guarded(path, "orders")
    assert records_on_disk(path, "orders") == [("/first", 1)]


def test_a_new_table_gets_the_guards(database: Path) -> None:
    """Another table in a marked file is made as the marker says."""
    with open_store(database, "second", ensure=HIERARCHICAL) as store:
        store["/x"] = 1
        store.commit()
    assert_guarded(database, "second")
    assert records_on_disk(database, "second") == [("/x", 1)]
    assert convert(database, HIERARCHICAL).outcome is Outcome.UNCHANGED


def test_a_table_that_the_marker_does_not_name(database: Path) -> None:
    """A marker for some tables says nothing of the others: they are plain, and stay so."""
    write_plain(database, [("/s", 1)], table="second")
    convert(database, Format.sqlitedict(key_encoding="hierarchical", tables=["second"]))
    with open_store(database) as store:
        assert store.format == PLAIN_SQLITEDICT
        assert list(store.items()) == RECORDS
        store["/later"] = 1
        store.commit()
    assert read_table(database, {}) == [*RECORDS, ("/later", 1)]
    with open_store(database, "second") as store:
        assert list(store.items()) == [("/s", 1)]


def test_without_ensure_the_marker_counts(database: Path) -> None:
    """The file is opened in whatever format it has; without a marker that is plain sqlitedict's."""
    with open_store(database) as store:
        assert list(store.items()) == RECORDS
        assert store.format == PLAIN_SQLITEDICT
    convert(database, BOTH)
    with open_store(database) as store:
        assert store.format == BOTH
        assert list(store.items()) == RECORDS
        assert store[RECORDS[3][0]] == RECORDS[3][1]
        assert RECORDS[4][0] in store
        assert "/nowhere" not in store
        del store[RECORDS[0][0]]
        store.commit()
    assert records_on_disk(database) == RECORDS[1:]


def test_pending_work_is_recovered_first(database: Path) -> None:
    """What a crash left is ended before the application sees the file, with or without ``ensure``."""
    for place, ensure in (("build.after-staging", None), ("swap.after-rename", HIERARCHICAL)):
        done = subprocess.run(
            command(["convert", str(database), "--failpoint", place, "kill"]),
            capture_output=True,
            check=False,
        )
        assert done.returncode == -9
        assert inspect(database).pending != ()
        with open_store(database, ensure=ensure) as store:
            assert list(store.items()) == RECORDS
        assert inspect(database).pending == ()
    totals = history.read(database).totals
    assert (totals["recoveries.discarded"], totals["recoveries.completed"]) == (1, 1)


def test_a_refusal_opens_nothing(database: Path) -> None:
    """What cannot be converted is not opened in its old format behind the application's back."""
    write_plain(database, [("/odd", (1, 2))])
    with pytest.raises(errors.UnconvertibleValue):
        open_store(database, ensure=BOTH)
    with SqliteDict(str(database), flag="r") as store:
        assert store["/odd"] == (1, 2)


def test_two_in_one_process(database: Path) -> None:
    """Once the format is right, ``ensure`` asks nobody to close the file: any number can be open."""
    with open_store(database, ensure=BOTH) as one, open_store(database, ensure=BOTH) as two:
        one["/one"] = 1
        one.commit()
        assert two["/one"] == 1
        two["/two"] = 2
        two.commit()
        assert one["/two"] == 2
    assert records_on_disk(database)[-2:] == [("/one", 1), ("/two", 2)]


def test_two_in_one_process_that_differ(database: Path) -> None:
    """A second one that wants another format is put off, and the first one's locks stay."""
    with open_store(database, ensure=HIERARCHICAL, flag="c") as store:
        store["/uncommitted"] = 1
        assert store["/uncommitted"] == 1
        assert not can_write(database)
        with pytest.raises(errors.InUse, match="this process"):
            open_store(database, ensure=BOTH)
        assert not can_write(database)
        store.commit()
    assert records_on_disk(database)[-1] == ("/uncommitted", 1)


def test_workers_that_start_at_once(database: Path) -> None:
    """Of several that open at once one converts, and the others wait for it and find it done."""
    waiting: list[threading.Thread] = []
    seen: list[Any] = []

    def open_too() -> None:
        with open_store(database, ensure=BOTH, flag="r") as store:
            seen.append(len(store))

    def start_another() -> None:
        waiting.append(threading.Thread(target=open_too))
        waiting[0].start()

    with open_store(
        database, ensure=BOTH, failpoints=Failpoints({"build.after-staging": start_another})
    ):
        waiting[0].join()
    assert seen == [len(RECORDS)]
    assert history.read(database).totals["conversions.succeeded"] == 1


def test_nobody_waits_longer_than_asked(database: Path) -> None:
    """With no time to wait, a conversion under way is told at once: Locked."""
    caught: list[errors.Locked] = []

    def open_too() -> None:
        with pytest.raises(errors.Locked) as locked:
            open_store(database, ensure=BOTH, wait=0)
        caught.append(locked.value)

    convert(database, BOTH, failpoints=Failpoints({"build.after-staging": open_too}))
    assert [error.exit_code for error in caught] == [75]


# --- how it is opened -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"), [(None, 2), ("FULL", 2), ("NORMAL", 1), ("OFF", 0), ("EXTRA", 3)]
)
def test_synchronous(database: Path, asked: str | None, found: int) -> None:
    """FULL unless asked otherwise, where sqlitedict would turn it off."""
    options: dict[str, Any] = {} if asked is None else {"synchronous": asked}
    with open_store(database, **options) as store:
        assert store.conn.select_one("PRAGMA synchronous") == (found,)


@pytest.mark.parametrize(("mode", "found"), [("WAL", "wal"), ("DELETE", "delete")])
def test_journal_mode(tmp_path: Path, mode: str, found: str) -> None:
    """The file's own journal mode is kept, before and after a conversion."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode=mode)
    for ensure in (None, HIERARCHICAL):
        with open_store(path, ensure=ensure) as store:
            assert store.conn.select_one("PRAGMA journal_mode") == (found,)


@pytest.mark.parametrize("flag", ["n", "w", "x", ""])
def test_flags_that_are_refused(database: Path, flag: str) -> None:
    """Flags that throw rows or guards away are refused, before anything is looked at."""
    with unchanged(database.parent), pytest.raises(errors.UsageError, match="flag") as caught:
        open_store(database, flag=flag, ensure=HIERARCHICAL)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_read_only(database: Path) -> None:
    """``flag='r'`` reads, and writes neither a record nor a table."""
    convert(database, HIERARCHICAL)
    before = database.read_bytes()
    with open_store(database, flag="r") as store:
        assert list(store.items()) == RECORDS
        with pytest.raises(RuntimeError):
            store["/x"] = 1
    with pytest.raises(RuntimeError):
        open_store(database, "second", flag="r")
    assert database.read_bytes() == before


def test_restricted_pickles(database: Path) -> None:
    """Values are read with the restricted unpickler, here as in a conversion."""
    import datetime as dt

    day = dt.date(2026, 11, 23)
    write_plain(database, [("/day", day)])
    with open_store(database) as store, pytest.raises(ValueError, match=r"datetime\.date"):
        store["/day"]
    with open_store(database, pickle_allow=["datetime.date"]) as store:
        assert store["/day"] == day


def test_in_use_elsewhere(database: Path) -> None:
    """A file that needs no conversion is opened beside others; one that does is not."""
    with opened(database):
        with open_store(database) as store:
            assert len(store) == len(RECORDS)
        with pytest.raises(errors.InUse):
            open_store(database, ensure=HIERARCHICAL)


@pytest.mark.parametrize("flag", ["c", "r"])
def test_a_closed_store_leaves_the_file_to_others(tmp_path: Path, flag: str) -> None:
    """Nothing of it stays open, garbage collector or not: the same process may convert at once."""
    path = tmp_path / "orders.db"
    write_plain(path, sample(5))
    gc.disable()
    try:
        with open_store(path, flag=flag) as store:
            assert len(list(store.items())) == 5
            assert store.flag == flag
        assert convert(path, HIERARCHICAL).outcome is Outcome.CONVERTED
    finally:
        gc.enable()
