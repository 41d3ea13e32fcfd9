"""A plan: steps, time, space, obstacles; a rehearsal: all of it, on a copy that goes again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from format_store import (
    Abort,
    Failpoints,
    Format,
    Observer,
    Phase,
    Retention,
    convert,
    durable,
    errors,
    history,
    inspect,
    plan,
    recover,
)
from tests.crash import strace
from tests.support.databases import execute, leftovers, records_on_disk, sample, write_plain
from tests.support.namespaces import HOW, MountNamespace, available
from tests.support.openers import can_write, opened
from tests.support.refusals import HIERARCHICAL, require_process_refuses, traces
from tests.support.requirements import requires
from tests.support.trees import unchanged

RECORDS = sample(40)
TARGET = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack")
needs_mounts = requires("a mount namespace", how=HOW, available=available)
needs_strace = requires("strace", how="apt-get install strace", available=strace.traceable)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


@pytest.fixture
def large(database: Path) -> Path:
    """Enough rows for a conversion to take a second or so."""
    execute(
        database,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 60000) "
        "INSERT INTO unnamed SELECT '/n/' || i, x'80044b012e' FROM n",
    )
    return database


# --- plan -------------------------------------------------------------------------------------------------


def test_what_a_plan_tells(database: Path) -> None:
    """Steps, time with its basis, space at the peak and kept; and it leaves not a trace."""
    with unchanged(database.parent):
        planned = plan(database, TARGET, retention=Retention(3600))
    size = database.stat().st_size
    assert planned.action == "convert"
    assert len(planned.steps) == 6
    assert "40 rows" in planned.steps[1]
    assert "hard link" in planned.steps[3]
    assert "3,600 seconds" in planned.steps[5]
    assert size <= planned.bytes_needed < 3 * size
    assert planned.bytes_kept == size
    assert planned.rehearsal is None
    told = planned.estimate
    assert told is not None
    assert told.seconds > 0
    assert told.read_rate > 0
    assert told.write_rate is not None
    assert "MB/s" in told.basis
    assert planned.to_dict()["estimate"]["basis"] == told.basis


@pytest.mark.parametrize(
    ("retention", "says", "keeps"),
    [
        (Retention(), "delete the old file", False),
        (Retention(60), "60 seconds", True),
        (Retention(pinned=True), "pinned", True),
    ],
)
def test_what_stays(database: Path, retention: Retention, says: str, *, keeps: bool) -> None:
    """The last step says what becomes of the old file, and the space what that takes."""
    planned = plan(database, TARGET, retention=retention)
    assert says in planned.steps[-1]
    assert (planned.bytes_kept > 0) is keeps


def test_the_estimate_is_of_the_right_order(large: Path) -> None:
    """Within ten times of what the conversion then takes, either way."""
    estimate = plan(large, TARGET).estimate
    assert estimate is not None
    begun = time.perf_counter()
    convert(large, TARGET)
    taken = time.perf_counter() - begun
    assert taken / 10 < estimate.seconds < taken * 10


def test_a_sample_of_rows_stays_small(database: Path) -> None:
    """One value among many that is larger than any sample: the plan is made all the same."""
    execute(database, "UPDATE unnamed SET value = zeroblob(70000000) WHERE rowid = 2")
    raw = Format.sqlitedict(value_codec="raw")
    planned = plan(
        database, Format.sqlitedict(key_encoding="hierarchical", value_codec="raw"), unmarked=[raw]
    )
    assert planned.action == "convert"
    assert planned.estimate is not None
    assert planned.estimate.row_seconds == 0
    assert planned.estimate.seconds > 0


def test_a_volume_that_cannot_be_measured(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file needs a name, writing is not measured, and a copy of the old file is counted: said so."""
    open_ = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return open_(path, flags, *rest)

    with_links = plan(database, TARGET)
    monkeypatch.setattr(os, "open", refuse)
    with unchanged(database.parent):
        planned = plan(database, TARGET)
    assert planned.estimate is not None
    assert planned.estimate.write_rate is None
    assert "not measured" in planned.estimate.basis
    assert planned.bytes_needed == with_links.bytes_needed + database.stat().st_size
    assert "a copy" in planned.steps[3]


def test_nothing_to_do_has_no_steps(database: Path) -> None:
    """Nor has a file that is not there; where something is pending, recovery is the one step."""
    assert plan(database.with_name("absent.db"), TARGET).steps == ()
    killed = subprocess.run(
        strace.command(["convert", str(database), "--failpoint", "swap.after-preimage", "kill"]),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9
    planned = plan(database, TARGET, rehearse=True)
    assert (planned.action, len(planned.steps), planned.rehearsal) == ("recover", 1, None)
    recover(database)
    convert(database, TARGET)
    planned = plan(database, TARGET, rehearse=True)
    assert (planned.action, planned.steps, planned.rehearsal) == ("none", (), None)


# --- space where there are no hard links --------------------------------------------------------------------


def test_hard_links_are_found_out_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This file system has them; one whose link(2) is refused has none; no name is made for the question."""
    with unchanged(tmp_path):
        assert durable.has_hard_links(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with unchanged(tmp_path):
        assert not durable.has_hard_links(tmp_path)


def test_the_second_copy_counts(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the staging copy but not for the copy of the old file: refused before anything is touched."""
    execute(database, "CREATE TABLE ballast AS SELECT zeroblob(8000000)")
    needed = plan(database, HIERARCHICAL).bytes_needed
    room = SimpleNamespace(
        f_flag=0, f_bavail=(needed + (5 << 20)) // 4096, f_frsize=4096, f_files=1000, f_favail=900
    )
    monkeypatch.setattr(os, "statvfs", lambda _path: room)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "has_hard_links", lambda _directory: False)
        with (
            unchanged(database.parent, besides=traces(database)),
            pytest.raises(errors.InsufficientSpace),
        ):
            convert(database, HIERARCHICAL)
        planned = plan(database, HIERARCHICAL)
        assert isinstance(planned.refusal, errors.InsufficientSpace)
    convert(database, HIERARCHICAL)


@needs_mounts
@needs_strace
def test_the_second_copy_counts_on_a_small_volume(database: Path, tmp_path: Path) -> None:
    """A real volume with room for one copy, not two, and a kernel that makes no hard links: exit 3, not 1."""
    execute(database, "CREATE TABLE ballast AS SELECT zeroblob(6000000)")
    volume = tmp_path / "volume"
    volume.mkdir()
    on_volume = volume / "orders.db"
    with MountNamespace() as namespace:
        namespace.run("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(volume))
        namespace.run("cp", str(database), str(on_volume))
        refuse_links = (
            "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=link,linkat",
            "-e", "inject=link,linkat:error=EPERM",
        )  # fmt: skip
        require_process_refuses(
            ["convert", str(on_volume)],
            errors.InsufficientSpace,
            prefix=[*namespace.prefix, *refuse_links],
        )
        done = subprocess.run(
            [*namespace.prefix, *strace.command(["convert", str(on_volume)])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


# --- rehearsal ----------------------------------------------------------------------------------------------


class Phases(Observer):
    def __init__(self) -> None:
        self.seen: list[Phase] = []
        self.done = 0

    def phase(self, phase: Phase) -> None:
        self.seen.append(phase)

    def progress(self, done: int, total: int) -> None:
        assert done <= total
        self.done = max(self.done, done)


def test_a_rehearsal_does_it_all(database: Path) -> None:
    """Built, verified and swapped on a copy, with measured time and size; the copy is gone, the rest as it was."""
    told = Phases()
    with unchanged(database.parent, besides=traces(database)):
        planned = plan(database, TARGET, rehearse=True, observer=told)
    done = planned.rehearsal
    assert done is not None
    assert (done.rows, done.bytes_before) == (40, database.stat().st_size)
    assert done.seconds > 0
    assert done.copy_seconds > 0
    assert {Phase.BUILDING, Phase.VERIFYING, Phase.SWAPPING, Phase.CLEANING} <= set(told.seen)
    assert told.done == 40
    assert leftovers(database) == []
    assert history.read(database).entries == ()
    assert inspect(database).state == "unmarked"
    assert convert(database, TARGET).bytes_after == done.bytes_after
    assert planned.to_dict()["rehearsal"]["rows"] == 40


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_the_database_is_free_but_for_the_copying(tmp_path: Path, journal_mode: str) -> None:
    """While the copy is converted an application may open the database and write; its records are not lost."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode=journal_mode)
    seen: list[bool] = []

    def write() -> None:
        seen.append(can_write(path))
        write_plain(path, [("/meanwhile", 1)], journal_mode=journal_mode)

    planned = plan(
        path, TARGET, rehearse=True, failpoints=Failpoints({"build.after-staging": write})
    )
    assert seen == [True]
    assert planned.rehearsal is not None
    assert planned.rehearsal.rows == 40
    assert records_on_disk(path) == [*RECORDS, ("/meanwhile", 1)]
    assert leftovers(path) == []


def test_in_use(database: Path) -> None:
    """Somebody has it open: told, as a plan without a rehearsal tells it."""
    with opened(database), pytest.raises(errors.InUse):
        plan(database, TARGET, rehearse=True)


def test_beside_an_application(database: Path) -> None:
    """Asked for in so many words, a plan is made while another process has the database open, and says so; nothing
    is written, and what stands in the way is told all the same."""
    with opened(database), unchanged(database.parent):
        planned = plan(database, TARGET, while_in_use=True)
    assert planned.in_use
    assert (planned.action, planned.refusal) == ("convert", None)
    assert planned.to_dict()["inUse"] is True
    alone = plan(database, TARGET, while_in_use=True)
    assert not alone.in_use
    assert alone.steps == planned.steps
    assert alone.tables == planned.tables


def test_beside_an_application_nothing_is_rehearsed(database: Path) -> None:
    """A rehearsal copies the file: nobody may write to it meanwhile, whatever was said."""
    with opened(database), pytest.raises(errors.InUse):
        plan(database, TARGET, rehearse=True, while_in_use=True)


def test_not_beside_a_connection_of_this_process(database: Path) -> None:
    """To read the file beside a connection of this process would drop that connection's locks: refused."""
    with closing(sqlite3.connect(database)) as own:
        own.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        with pytest.raises(errors.InUse, match="this process"):
            plan(database, TARGET, while_in_use=True)


def test_one_at_a_time(database: Path) -> None:
    """The lock is held all the while: a conversion waits for the rehearsal's end."""
    seen: list[str] = []

    def try_it() -> None:
        for act in (
            lambda: convert(database, TARGET),
            lambda: plan(database, TARGET, rehearse=True),
        ):
            with pytest.raises(errors.Locked):
                act()
        seen.append("locked")

    plan(database, TARGET, rehearse=True, failpoints=Failpoints({"rehearse.after-copy": try_it}))
    assert seen == ["locked"]


def test_obstacles_need_no_rehearsal(database: Path) -> None:
    """What the plan finds by looking is told before any copy is made."""
    write_plain(database, [("/odd", (1, 2))])
    with unchanged(database.parent):
        planned = plan(database, TARGET, rehearse=True)
    assert (planned.action, planned.rehearsal) == ("refuse", None)
    assert ["/odd" in found.key for found in planned.obstacles] == [True]


def test_no_room_for_a_rehearsal(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes one copy more than the conversion: refused as such, and nothing is left."""
    execute(database, "CREATE TABLE ballast AS SELECT zeroblob(8000000)")
    needed = plan(database, HIERARCHICAL).bytes_needed
    room = SimpleNamespace(
        f_flag=0, f_bavail=(needed + (5 << 20)) // 4096, f_frsize=4096, f_files=1000, f_favail=900
    )
    monkeypatch.setattr(os, "statvfs", lambda _path: room)
    assert plan(database, HIERARCHICAL).action == "convert"
    with unchanged(database.parent, besides=traces(database)):
        planned = plan(database, HIERARCHICAL, rehearse=True)
    assert isinstance(planned.refusal, errors.InsufficientSpace)
    assert planned.action == "refuse"


@pytest.mark.parametrize(
    "name", ["rehearse.after-copy", "build.after-staging", "swap.after-rename"]
)
def test_a_rehearsal_that_fails(database: Path, name: str) -> None:
    """The disk fails in the middle: that is the error; the copy is gone and the database as it was."""

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with (
        unchanged(database.parent, besides=traces(database)),
        pytest.raises((OSError, errors.StoreError)),
    ):
        plan(database, TARGET, rehearse=True, failpoints=Failpoints({name: fail}))
    assert leftovers(database) == []


def test_a_rehearsal_that_is_stopped(database: Path) -> None:
    """Asked to stop, it stops, and removes its copy."""
    abort = Abort()
    with (
        unchanged(database.parent, besides=traces(database)),
        pytest.raises(errors.Aborted),
    ):
        plan(
            database, TARGET, rehearse=True, abort=abort,
            failpoints=Failpoints({"rehearse.after-copy": abort.request}),
        )  # fmt: skip


def test_every_file_of_a_database_is_rehearsed(database: Path) -> None:
    """Committed records that are still in the write-ahead log are in the copy."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    script = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute(\"INSERT INTO unnamed VALUES ('/in-the-log', x'80044b012e')\")\n"
        "c.commit()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(database)], check=False)
    assert database.with_name("orders.db-wal").stat().st_size > 0
    planned = plan(database, TARGET, rehearse=True)
    assert planned.rehearsal is not None
    assert planned.rehearsal.rows == 41


def test_a_planted_link_is_not_followed(database: Path, tmp_path: Path) -> None:
    """Of a link in the place of the copies the link goes, and nothing of what lies behind it."""
    convert(database, TARGET)
    behind = tmp_path / "behind"
    behind.mkdir()
    (behind / "precious").write_bytes(b"data")
    link = tmp_path / ".orders.db.storageformat" / "rehearsal"
    for act in (lambda: recover(database), lambda: plan(database, HIERARCHICAL, rehearse=True)):
        link.symlink_to(behind)
        with unchanged(behind):
            act()
        assert not os.path.lexists(link)
