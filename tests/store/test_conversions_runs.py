"""A conversion from its first phase to its last: what it tells, how it is stopped, what it remembers."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from format_store import (
    PLAIN_SQLITEDICT,
    Abort,
    Backup,
    Failpoints,
    Format,
    Observer,
    Outcome,
    Phase,
    Recovery,
    Retention,
    convert,
    errors,
    history,
    new_conversion_id,
    recover,
)
from format_store.engines.base import Job
from format_store.engines.sqlitedict import build
from tests.crash.strace import command
from tests.support.databases import (
    execute,
    leftovers,
    marker_of,
    records_on_disk,
    sample,
    write_plain,
)
from tests.support.refusals import HIERARCHICAL, traces
from tests.support.trees import unchanged

RECORDS = sample(60)
MSGPACK = Format.sqlitedict(value_codec="msgpack")
TARGETS = pytest.mark.parametrize("target", [HIERARCHICAL, MSGPACK], ids=["keys", "values"])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def remembered(database: Path) -> set[str]:
    """What a conversion that did not happen leaves: its lock, and a line in the history."""
    return {*traces(database, built=True), f".{database.name}.storageformat/history.jsonl"}


# --- what it tells --------------------------------------------------------------------------------------


class Recorder(Observer):
    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.rows: list[tuple[Phase, int, int]] = []
        self.backups: list[tuple[str, Backup]] = []
        self.recoveries: list[Recovery] = []

    def phase(self, phase: Phase) -> None:
        self.phases.append(phase)

    def progress(self, done: int, total: int) -> None:
        self.rows.append((self.phases[-1], done, total))

    def recovered(self, recovery: Recovery) -> None:
        self.recoveries.append(recovery)

    def backup_created(self, backup: Backup) -> None:
        self.backups.append(("created", backup))

    def backup_deleted(self, backup: Backup) -> None:
        self.backups.append(("deleted", backup))


@TARGETS
def test_phases_and_progress(database: Path, target: Format) -> None:
    """Phases come in the order of the protocol; progress grows up to all rows, twice."""
    write_plain(database, sample(50, seed=1), table="second")
    recorder = Recorder()
    result = convert(database, target, observer=recorder)
    assert recorder.phases == [
        Phase.LOCKING,
        Phase.CHECKING,
        Phase.SETTLING,
        Phase.BUILDING,
        Phase.SYNCING,
        Phase.VERIFYING,
        Phase.SWAPPING,
        Phase.CLEANING,
        Phase.IDLE,
    ]
    for phase in (Phase.BUILDING, Phase.VERIFYING):
        done = [count for where, count, _ in recorder.rows if where is phase]
        assert done == sorted(done)
        assert done[-1] == 110
    assert {total for _, _, total in recorder.rows} == {110}
    (created, backup), (deleted, same) = recorder.backups
    assert (created, deleted) == ("created", "deleted")
    assert backup.conversion_id == same.conversion_id == result.conversion_id


def test_a_caller_may_name_the_conversion(database: Path) -> None:
    """The id is that of the result, the history, the marker and the backup; the next conversion needs another."""
    name = new_conversion_id()
    result = convert(database, MSGPACK, retention=Retention(pinned=True), conversion_id=name)
    assert result.conversion_id == name
    assert result.backup is not None
    assert result.backup.conversion_id == name
    assert (marker_of(database) or {})["conversion"] == name
    assert [entry["conversionID"] for entry in history.read(database).entries] == [name]
    again = convert(database, MSGPACK, conversion_id=new_conversion_id())
    assert (again.outcome, again.conversion_id) == (Outcome.UNCHANGED, None)


@pytest.mark.parametrize("name", ["", "x", "../../etc", "20261123T104639Z-3f9a1c2b/..", "."])
def test_an_id_that_is_none_is_refused(database: Path, name: str) -> None:
    """It becomes a directory's name: nothing but an id of ours is taken, and nothing was touched."""
    with unchanged(database.parent), pytest.raises(errors.UsageError, match="is no id"):
        convert(database, MSGPACK, conversion_id=name)


def test_nothing_to_do_is_told_as_well(database: Path) -> None:
    """With nothing to do the observer sees the look, and the end of it."""
    convert(database, HIERARCHICAL)
    recorder = Recorder()
    convert(database, HIERARCHICAL, observer=recorder)
    assert recorder.phases == [Phase.LOCKING, Phase.CHECKING, Phase.IDLE]
    assert recorder.rows == []
    assert recorder.backups == []


def test_a_recovery_is_told(database: Path) -> None:
    """What an earlier run left is recovered first, and told with its outcome."""
    kill_at(database, "build.after-staging")
    recorder = Recorder()
    result = convert(database, HIERARCHICAL, observer=recorder)
    assert recorder.phases[:3] == [Phase.LOCKING, Phase.RECOVERING, Phase.CHECKING]
    assert [found.outcome for found in recorder.recoveries] == ["discarded"]
    assert result.recoveries == tuple(recorder.recoveries)


def kill_at(database: Path, place: str) -> None:
    import subprocess

    done = subprocess.run(
        command(["convert", str(database), "--failpoint", place, "kill"]),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9


def test_a_refusal_ends_idle(database: Path) -> None:
    """Whatever happens, the last phase is idle."""
    execute(database, "CREATE VIEW keys AS SELECT key FROM unnamed")
    recorder = Recorder()
    with pytest.raises(errors.UnsupportedSchema):
        convert(database, HIERARCHICAL, observer=recorder)
    assert recorder.phases[-1] is Phase.IDLE


# --- how it is stopped ----------------------------------------------------------------------------------


@TARGETS
@pytest.mark.parametrize(
    "place",
    [
        "settle.after",
        "prepare.after-manifest",
        "build.after-create-table",
        "build.after-batch",
        "build.after-staging",
        "build.after-fsync",
        "verify.after",
        "verify.after-ready",
    ],
)
def test_abort(database: Path, target: Format, place: str) -> None:
    """Asked from another thread at any step before the swap: staging gone, database as it was, remembered."""
    abort = Abort()

    def request() -> None:
        thread = threading.Thread(target=abort.request)
        thread.start()
        thread.join()

    with (
        unchanged(database.parent, besides=remembered(database)),
        pytest.raises(errors.Aborted) as caught,
    ):
        convert(database, target, abort=abort, failpoints=Failpoints({place: request}))
    assert caught.value.exit_code == 75
    assert caught.value.retryable
    assert caught.value.hint
    assert leftovers(database) == []
    found = history.read(database)
    assert found.totals["conversions.aborted"] == 1
    assert found.last_conversion is not None
    assert found.last_conversion["result"] == "aborted"
    assert convert(database, target).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS


def test_abort_after_the_swap_comes_too_late(database: Path) -> None:
    """After the swap the work is done: the request changes nothing."""
    abort = Abort()
    result = convert(
        database,
        HIERARCHICAL,
        abort=abort,
        failpoints=Failpoints({"swap.after-rename": abort.request}),
    )
    assert result.outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS


def test_abort_before_the_beginning(database: Path) -> None:
    """A request that was there first is honoured before anything is made."""
    abort = Abort()
    abort.request()
    with unchanged(database.parent, besides=remembered(database)), pytest.raises(errors.Aborted):
        convert(database, HIERARCHICAL, abort=abort)


# --- what it does not believe ---------------------------------------------------------------------------

OTHERS = (
    "CREATE TABLE log (id INTEGER PRIMARY KEY, line TEXT COLLATE NOCASE, size)",
    "INSERT INTO log VALUES (1, 'abc', 1), (2, 'def', 2)",
    "CREATE INDEX by_line ON log (line)",
    "CREATE TABLE pairs (name TEXT COLLATE NOCASE PRIMARY KEY, n) WITHOUT ROWID",
    "INSERT INTO pairs VALUES ('abc', 1)",
    "CREATE TABLE hidden (rowid, oid, _rowid_)",
    "INSERT INTO hidden VALUES (1, 2, 'abc'), (1, 2, 'abc')",
)
WRONG = {
    "a value's last byte": "UPDATE unnamed SET value = CAST(substr(value, 1, length(value) - 1) || x'00' AS BLOB) "
    "WHERE rowid = 7",
    "another row's value": "UPDATE unnamed SET value = (SELECT value FROM unnamed WHERE rowid = 8) WHERE rowid = 7",
    "a value as text": "UPDATE unnamed SET value = CAST(value AS TEXT) WHERE rowid = 7",
    "a row that is missing": "DELETE FROM unnamed WHERE rowid = 60",
    "a row too many": "INSERT INTO unnamed SELECT key || x'00', value FROM unnamed WHERE rowid = 1",
    "two keys swapped": "UPDATE unnamed SET key = CASE rowid WHEN 3 THEN (SELECT key FROM was WHERE rowid = 4) "
    "ELSE (SELECT key FROM was WHERE rowid = 3) END WHERE rowid IN (3, 4)",
    "a key's last byte": "UPDATE unnamed SET key = CAST(key || x'20' AS BLOB) WHERE rowid = 5",
    "another rowid": "UPDATE unnamed SET rowid = 1000 WHERE rowid = 60",
    "1 as 1.0 elsewhere": "UPDATE log SET size = 1.0 WHERE id = 1",
    "'abc' as 'ABC' elsewhere": "UPDATE log SET line = 'ABC' WHERE id = 1",
    "'abc' as 'ABC' in a primary key": "UPDATE pairs SET name = 'ABC'",
    "a row elsewhere": "DELETE FROM log WHERE id = 2",
    "a row without a rowid": "UPDATE hidden SET _rowid_ = 'ABC' WHERE rowid = 1",
    "an index that is missing": "DROP INDEX by_line",
    "a table that is missing": "DROP TABLE hidden",
    "an object too many": "CREATE VIEW planted AS SELECT 1",
    "no marker": "DROP VIEW _storageformat",
}


def spoil(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """Let the engine build its copy, and make it wrong before anybody looks."""
    real: Callable[..., None] = build.build

    def spoiled(job: Job) -> None:
        real(job)
        with closing(sqlite3.connect(job.staging_path)) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints=ON")
            connection.execute("CREATE TEMP TABLE was AS SELECT rowid AS rowid, key FROM unnamed")
            if statement == WRONG["two keys swapped"]:
                connection.execute(
                    "UPDATE unnamed SET key = CAST(key || x'01' AS BLOB) WHERE rowid IN (3, 4)"
                )
            assert connection.execute(statement).rowcount != 0

    monkeypatch.setattr(build, "build", spoiled)


@TARGETS
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_copy(
    database: Path, target: Format, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy with one thing wrong is discarded: VerificationFailed, the database as it was, nothing left."""
    execute(database, *OTHERS)
    with monkeypatch.context() as patched:
        spoil(patched, WRONG[wrong])
        with unchanged(database.parent, besides=remembered(database)):
            with pytest.raises(errors.VerificationFailed, match="wrong") as caught:
                convert(database, target)
            assert caught.value.exit_code == 1
            assert not caught.value.retryable
            assert caught.value.hint
    assert leftovers(database) == []
    assert history.read(database).totals["conversions.failed"] == 1
    # Nothing was wrong with the database: without the spoiler it is converted.
    assert convert(database, target).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == RECORDS


def test_a_wrong_marker(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that tells another conversion than this one is as wrong as none."""
    spoil(monkeypatch, "DROP VIEW _storageformat")
    spoil(monkeypatch, "CREATE VIEW _storageformat AS SELECT '{}' AS marker")
    with (
        unchanged(database.parent, besides=remembered(database)),
        pytest.raises(errors.StoreError) as caught,
    ):
        convert(database, HIERARCHICAL)
    assert caught.value.hint
    assert marker_of(database) is None


# --- what it remembers ----------------------------------------------------------------------------------


def test_history(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Totals count each conversion once, by how it ended; the last one is told with its figures."""
    convert(database, HIERARCHICAL)
    convert(database, HIERARCHICAL)
    convert(database, MSGPACK)
    abort = Abort()
    abort.request()
    with pytest.raises(errors.Aborted):
        convert(database, HIERARCHICAL, abort=abort)
    with monkeypatch.context() as patched:
        spoil(patched, "DELETE FROM unnamed WHERE rowid = 1")
        with pytest.raises(errors.VerificationFailed):
            convert(database, HIERARCHICAL)
    kill_at(database, "swap.after-rename")
    recover(database)
    recover(database)
    result = convert(database, PLAIN_SQLITEDICT)
    found = history.read(database)
    assert {name: count for name, count in found.totals.items() if count} == {
        "conversions.succeeded": 4,
        "conversions.aborted": 1,
        "conversions.failed": 1,
        "backups.created": 4,
        "recoveries.completed": 1,
    }
    last = found.last_conversion
    assert last is not None
    assert last["conversionID"] == result.conversion_id
    assert (last["result"], last["rows"]) == ("succeeded", len(RECORDS))
    assert (last["bytesBefore"], last["bytesAfter"]) == (result.bytes_before, result.bytes_after)
    assert last["source"] == HIERARCHICAL.to_spec()
    assert last["target"] == PLAIN_SQLITEDICT.to_spec()
    assert found.last_recovery_outcome == "completed"


def test_refusals_are_not_in_the_history(database: Path) -> None:
    """What was refused never began."""
    execute(database, "CREATE VIEW keys AS SELECT key FROM unnamed")
    with pytest.raises(errors.UnsupportedSchema):
        convert(database, HIERARCHICAL)
    assert history.read(database) == history.History()
