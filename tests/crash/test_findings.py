"""What a hostile review found, each finding a test that lost data, got stuck or lied before it was mended."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from format_store import (
    Format,
    Outcome,
    RecoveryOutcome,
    Retention,
    convert,
    durable,
    errors,
    history,
    inspect,
    open_store,
    prune_backups,
    recover,
)
from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.crash.test_recovery import kill_at, leave_hot_journal, records_in
from tests.support.databases import leftovers, records_on_disk, sample, write_plain

RECORDS = sample(40)
TARGET = Format.from_spec(HIERARCHICAL)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        connection.commit()


@contextmanager
def holding(path: Path, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the file open, and has run the statements."""
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('SELECT count(*) FROM sqlite_schema').fetchone()\n"
        "for s in sys.argv[2:]: c.execute(s)\n"
        "print('open', flush=True); sys.stdin.readline(); c.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.communicate("end\n", timeout=20)


def test_names_that_differ_in_the_case_of_other_than_ascii_letters(database: Path) -> None:
    """SQLite takes "é" and "É" for two tables: the one that is not converted is kept, with its rows."""
    execute(
        database,
        'ALTER TABLE unnamed RENAME TO "é"; CREATE TABLE "É" (id INTEGER PRIMARY KEY, note TEXT);'
        "INSERT INTO \"É\" VALUES (1, 'kept'), (2, 'too')",
    )
    convert(database, TARGET)
    assert records_on_disk(database, "é") == RECORDS
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute('SELECT * FROM "É"').fetchall() == [(1, "kept"), (2, "too")]


def test_an_error_is_not_taken_for_absence(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO on looking for the pre-image is an error: nothing is taken for clean-up, nothing is deleted."""
    work = kill_at(database, "swap.after-rename")
    real = os.lstat

    def broken(path: str | os.PathLike[str]) -> os.stat_result:
        if os.fspath(path).endswith("preimage.db"):
            raise OSError(5, "Input/output error")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", broken)
        with pytest.raises(errors.StorageError):
            recover(database)
    assert records_in(work / "preimage.db") == RECORDS
    require_intact(database, RECORDS, HIERARCHICAL)


def test_pruning_does_not_roll_a_foreign_super_journal_back(database: Path) -> None:
    """A journal that belongs to a transaction at another mount path stays, and so does the backup."""
    convert(database, Format.sqlitedict(), retention=Retention(0.001))
    leave_hot_journal(database)
    journal = database.with_name("orders.db-journal")
    name = b"/another/mount/orders.db-mj12345678"
    with open(journal, "ab") as file:
        file.write(name + len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big"))
        file.write(bytes.fromhex("d9d505f920a163d7"))
    before = journal.read_bytes()
    (backup,) = inspect_backups(database)
    manifest = Path(backup).with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace('"retainUntil": "2', '"retainUntil": "1'))
    with pytest.raises(errors.SuperJournalElsewhere):
        prune_backups(database)
    assert journal.read_bytes() == before
    assert Path(backup).exists()


def inspect_backups(path: Path) -> list[str]:
    return [
        str(file) for file in path.parent.glob(f".{path.name}.storageformat/backups/*/preimage.db")
    ]


def test_a_late_openers_commits_are_told_with_retention_as_well(database: Path) -> None:
    """A backup that is to be kept goes through the same checks: in use, or written to, is told."""
    work = kill_at(database, "swap.after-rename", "--retain", "3600")
    with holding(work / "preimage.db"), pytest.raises(errors.InUse):
        recover(database)
    write_plain(work / "preimage.db", [("/late", 1)])
    with pytest.raises(errors.StrayWrites) as caught:
        recover(database)
    assert "quarantine" in caught.value.hint
    assert records_on_disk(database) == RECORDS
    assert recover(database).recoveries == ()


def test_what_an_application_has_open_is_not_replaced(database: Path) -> None:
    """`flag='n'` made a new, still empty file: with the application in it, nothing is restored over it."""
    kill_at(database, "swap.after-preimage")
    database.unlink()
    with holding(database), pytest.raises(errors.InUse):
        recover(database)
    assert database.stat().st_size == 0
    assert recover(database).recoveries[0].outcome is RecoveryOutcome.RESTORED
    shutil.rmtree(database.parent / ".orders.db.storageformat" / "quarantine")
    require_intact(database, RECORDS, HIERARCHICAL)


def test_a_schema_that_ours_cannot_parse_is_not_replaced(database: Path) -> None:
    """Words of a newer SQLite are no damage: exit code 4, both copies stay."""
    work = kill_at(database, "swap.after-rename")
    execute(
        database,
        "CREATE TABLE x (a); PRAGMA writable_schema = ON;"
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE x (a) FUTURE' WHERE name = 'x'",
    )
    before = database.read_bytes()
    with pytest.raises(errors.PrimaryUnsound):
        recover(database)
    assert database.read_bytes() == before
    assert records_in(work / "preimage.db") == RECORDS


def test_a_planted_link_in_the_state_directory(database: Path, tmp_path: Path) -> None:
    """A link under a work directory's name is not followed: nothing behind it is deleted."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    work = tmp_path / ".orders.db.storageformat" / "work"
    work.mkdir(parents=True, mode=0o700)
    work.parent.chmod(0o700)
    (work / "20260101T000000Z-aaaaaaaa").symlink_to(victim)
    with pytest.raises(errors.StorageError):
        recover(database)
    assert (victim / "file").read_text() == "mine"


def test_a_copy_of_the_old_file_appears_whole_or_not_at_all(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links, an error in the middle of the copy leaves no half pre-image behind."""
    monkeypatch.setattr(durable, "link", lambda *_: False)

    def full(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "copy_metadata", full)
        with pytest.raises(errors.OutOfSpace):
            convert(database, TARGET)
    assert leftovers(database) == []
    require_intact(database, RECORDS, HIERARCHICAL)


@pytest.mark.parametrize("name", ["build.after-staging", "verify.after-ready", "swap.after-rename"])
def test_recovery_frees_the_space_that_it_lacks(
    database: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the history cannot be written; what recovery deletes makes the space all the same."""
    work = kill_at(database, name)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(history, "record", full)
        recover(database)
    assert not work.exists()
    require_intact(database, RECORDS, HIERARCHICAL)


def test_a_retention_beyond_the_calendar(database: Path) -> None:
    """`retainFor` of a million years is for ever, not an error after the swap."""
    result = convert(database, TARGET, retention=Retention(1e15))
    assert result.backup is not None
    assert result.backup.retain_until == "9999-12-31T23:59:59Z"
    assert (prune_backups(database) or 0) > 1e10


def test_statistics_do_not_stand_in_the_way(database: Path) -> None:
    """ANALYZE has been run: its rows about a converted table go with the table."""
    execute(database, "CREATE TABLE other (a); INSERT INTO other VALUES (1); ANALYZE")
    convert(database, TARGET)
    assert records_on_disk(database) == RECORDS


def test_tables_that_only_one_format_names(tmp_path: Path) -> None:
    """One side names a table, the other means all: refused, or a table would change its format in name only."""
    path = tmp_path / "orders.db"
    for table in ("a", "b"):
        write_plain(path, RECORDS, table=table)
    with pytest.raises(errors.UnsupportedSchema, match="tables"):
        convert(path, TARGET, unmarked=[Format.sqlitedict(tables=["a"])])
    convert(path, TARGET)
    with pytest.raises(errors.UnsupportedSchema, match="tables"):
        convert(path, Format.sqlitedict(tables=["a"]))
    assert records_on_disk(path, "b") == RECORDS


@pytest.mark.parametrize(
    "columns",
    [
        "key TEXT COLLATE NOCASE PRIMARY KEY, value BLOB",
        "key TEXT PRIMARY KEY ON CONFLICT REPLACE, value BLOB",
        "key TEXT PRIMARY KEY, value BLOB NOT NULL",
        "key TEXT PRIMARY KEY, value BLOB DEFAULT x'00'",
    ],
)
def test_a_table_with_constraints_of_its_own(database: Path, columns: str) -> None:
    """Constraints that the format would lose are refused by name, and the table may be left out."""
    execute(database, f"CREATE TABLE settings ({columns})")
    with pytest.raises(errors.UnsupportedSchema, match="settings"):
        convert(database, TARGET)
    named = Format.sqlitedict(key_encoding="hierarchical", tables=["unnamed"])
    convert(database, named)
    assert records_on_disk(database) == RECORDS


def test_a_table_of_other_values_is_another_table(database: Path) -> None:
    """`settings(key TEXT PRIMARY KEY, value TEXT)` is no table of sqlitedict's: it stays as it is."""
    execute(
        database,
        "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT); INSERT INTO settings VALUES ('a', 'b')",
    )
    convert(database, TARGET)
    execute(database, "INSERT INTO settings VALUES ('c', 'd')")
    assert convert(database, TARGET).outcome is Outcome.UNCHANGED


def test_values_that_are_not_decoded_are_not_unsound(tmp_path: Path) -> None:
    """Pickles of classes that are not allowed were copied as they are: written to since, that is no damage."""
    path = tmp_path / "orders.db"
    records = [("/when", datetime(2026, 1, 1, tzinfo=UTC))]
    write_plain(path, records)
    kill_at(path, "swap.after-fsync")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 7")
    assert recover(path).recoveries[0].outcome is RecoveryOutcome.COMPLETED
    assert records_on_disk(path) == records


def test_a_new_application_whose_other_tables_have_rows(tmp_path: Path) -> None:
    """An empty sqlitedict table beside a schema version with a row is as new as an empty file."""
    path = tmp_path / "orders.db"
    write_plain(path, [])
    execute(path, "CREATE TABLE schema_version (n); INSERT INTO schema_version VALUES (1)")
    assert convert(path, TARGET).outcome is Outcome.CONVERTED


def test_an_unreadable_backup_stands_in_nobodys_way(database: Path) -> None:
    """One backup's manifest is of a newer version: conversions, inspection and pruning go on without it."""
    convert(database, TARGET, retention=Retention(3600))
    (old,) = inspect_backups(database)
    Path(old).with_name("manifest.json").write_text('{"manifestVersion": 2}')
    assert convert(database, Format.sqlitedict(), retention=Retention(0.001)).backup is not None
    assert sorted(backup.pinned for backup in inspect(database).backups) == [False, True]
    prune_backups(database)
    assert Path(old).exists()


def test_an_empty_log_beside_a_database_in_another_mode(database: Path) -> None:
    """A stale -wal of 0 bytes, or a -shm alone, holds nothing and does not block for ever."""
    for suffix in ("-wal", "-shm"):
        database.with_name(f"orders.db{suffix}").touch()
    convert(database, TARGET)
    assert records_on_disk(database) == RECORDS


def test_a_view_that_spells_the_name_with_quotes(database: Path) -> None:
    """A view of a table whose name has a quotation mark is found under its SQL spelling."""
    execute(
        database,
        'ALTER TABLE unnamed RENAME TO "a""b"; CREATE VIEW v AS SELECT key, value FROM "a""b"',
    )
    with pytest.raises(errors.UnsupportedSchema, match="'v'"):
        convert(database, TARGET)


def test_a_link_under_the_name_of_a_temporary_file(database: Path, tmp_path: Path) -> None:
    """What lies where a temporary file is to be written is removed, not followed and not waited for."""
    convert(database, TARGET)
    state = tmp_path / ".orders.db.storageformat"
    (state / ".history.jsonl.new").symlink_to(tmp_path / "victim")
    convert(database, Format.sqlitedict())
    os.mkfifo(state / ".history.jsonl.new")
    convert(database, TARGET)
    assert not (tmp_path / "victim").exists()
    assert history.read(database).totals["conversions.succeeded"] == 3


def test_paths_that_a_uri_would_misread(tmp_path: Path) -> None:
    """Two leading slashes, and a name that is no UTF-8."""
    path = tmp_path / os.fsdecode(b"orders-\xff?#%.db")
    write_plain(path, RECORDS)
    convert(f"/{path}", TARGET)
    with open_store(path) as store:
        assert list(store.items()) == RECORDS


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("found", [None, b"no database " * 700], ids=["missing", "unreadable"])
def test_a_pre_image_has_its_name_until_the_database_has_it(
    database: Path, monkeypatch: pytest.MonkeyPatch, found: bytes | None, *, links: bool
) -> None:
    """Put in a lost database's place it keeps its own name until the disk has confirmed the other.

    Found by building crash states: it was moved there, and a rename between two directories may reach the
    disk in one of them only. Then neither name was there, and nothing of the only good copy.
    """
    kill_at(database, "swap.before-rename")
    database.unlink()
    if found is not None:
        database.write_bytes(found)
    if not links:
        monkeypatch.setattr(durable, "link", lambda *_: False)
    (preimage,) = database.parent.glob(".*/work/*/preimage.db")
    sync = durable.fsync_directory
    steps = []

    def fsync_directory(directory: Path) -> None:
        # Looked at by its size alone: opening it would break a lease.
        in_place = database.exists() and database.stat().st_size != len(found or b"")
        steps.append((directory == database.parent, in_place, preimage.exists()))
        sync(directory)

    monkeypatch.setattr(durable, "fsync_directory", fsync_directory)
    (recovery,) = recover(database).recoveries
    assert recovery.outcome is RecoveryOutcome.RESTORED
    confirmed = steps.index((True, True, True))
    assert all(kept for _, _, kept in steps[:confirmed])
    assert not preimage.exists()
    assert records_on_disk(database) == RECORDS
    assert os.stat(database).st_nlink == 1


def test_what_goes_to_quarantine_always_has_a_name(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old name goes once the disk has confirmed the new one; killed between the two, it is moved once.

    A rename between two directories may reach the disk in one of them only, and what a late opener wrote
    into the old file is nowhere else.
    """
    kill_at(database, "swap.after-fsync")
    (preimage,) = database.parent.glob(".*/work/*/preimage.db")
    execute(preimage, "UPDATE unnamed SET value = x'00'")
    written = preimage.read_bytes()
    quarantine = database.parent / ".orders.db.storageformat" / "quarantine" / preimage.parent.name
    sync = durable.fsync_directory

    class PowerCut(BaseException):
        pass

    def fsync_directory(directory: Path) -> None:
        if directory == quarantine:
            assert preimage.exists()
            raise PowerCut
        sync(directory)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "fsync_directory", fsync_directory)
        with pytest.raises(PowerCut):
            recover(database)
    with pytest.raises(errors.StrayWrites):
        recover(database)
    assert [file.name for file in quarantine.iterdir()] == ["preimage.db"]
    assert (quarantine / "preimage.db").read_bytes() == written
    assert not preimage.exists()
    assert records_on_disk(database) == RECORDS
