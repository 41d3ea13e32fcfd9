"""A restoration, an undo and a rehearsal that are killed, wherever that is."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from format_store import (
    RecoveryOutcome,
    convert,
    durable,
    errors,
    history,
    inspect,
    list_backups,
    plan,
    recover,
    restore_backup,
    undo,
)
from tests.crash import strace
from tests.crash.strace import command
from tests.crash.test_kill_at_failpoints import CONVERSION
from tests.support.databases import format_on_disk, leftovers, records_on_disk, sample, write_plain
from tests.support.requirements import requires
from tests.support.restorations import (
    BEFORE,
    LATER,
    TARGET,
    Converted,
    converted,
    require_restored_or_not,
)

RESTORATION = (
    "settle.after",
    "prepare.after-directory",
    "prepare.after-manifest",
    "build.after-staging",
    "build.after-fsync",
    "verify.after",
    "verify.after-ready",
    "swap.before-preimage",
    "swap.after-preimage",
    "swap.before-rename",
    "swap.after-rename",
    "swap.after-fsync",
    "cleanup.before-delete-preimage",
)
AFTER_RENAME = RESTORATION[RESTORATION.index("swap.after-rename") :]
SEED = 20261125
SAMPLED_CALLS = 60
needs_strace = requires("strace", how="apt-get install strace", available=strace.traceable)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(arguments), capture_output=True, text=True, check=False)


def kill_at(made: Converted, name: str) -> None:
    done = run("restore", str(made.path), "--backup", made.backup, "--failpoint", name, "kill")
    assert done.returncode == -9, done.stdout + done.stderr


@pytest.fixture
def made(tmp_path: Path) -> Converted:
    return converted(tmp_path / "orders.db")


# --- killed -----------------------------------------------------------------------------------------------


def test_the_list_is_what_a_restoration_passes(made: Converted, tmp_path: Path) -> None:
    """A restoration passes exactly the failpoints listed here, in this order."""
    trace = tmp_path / "trace"
    done = run("restore", str(made.path), "--backup", made.backup, "--trace", str(trace))
    assert done.returncode == 0, done.stdout
    assert tuple(trace.read_text().split()) == RESTORATION
    assert require_restored_or_not(made) == "new"


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", RESTORATION)
def test_killed_restoration_loses_nothing(tmp_path: Path, name: str, journal_mode: str) -> None:
    """Killed at any failpoint: wholly as it was before the rename, wholly the backup after it."""
    made = converted(tmp_path / "orders.db", journal_mode=journal_mode)
    kill_at(made, name)
    assert require_restored_or_not(made) == ("new" if name in AFTER_RENAME else "old")
    # And it can still be done, and taken back.
    if name not in AFTER_RENAME:
        restore_backup(made.path, made.backup)
    assert require_restored_or_not(made) == "new"
    (kept,) = [b for b in list_backups(made.path) if b.conversion_id != made.backup]
    restore_backup(made.path, kept.conversion_id)
    assert records_on_disk(made.path) == [*BEFORE, *LATER]


@pytest.mark.parametrize("first", RESTORATION)
def test_killed_recovery_of_a_restoration_loses_nothing(tmp_path: Path, first: str) -> None:
    """Killed again at each failpoint that the recovery passes, the next recovery ends it all the same."""
    probe = converted(_directory(tmp_path, "probe") / "orders.db")
    kill_at(probe, first)
    trace = tmp_path / "trace"
    assert run("recover", str(probe.path), "--trace", str(trace)).returncode == 0
    names = trace.read_text().split()
    assert names or first == "settle.after"  # nothing is on disk yet
    for number, second in enumerate(names):
        made = converted(_directory(tmp_path, str(number)) / "orders.db")
        kill_at(made, first)
        done = run("recover", str(made.path), "--failpoint", second, "kill")
        assert done.returncode == -9
        assert require_restored_or_not(made) == ("new" if first in AFTER_RENAME else "old")


@needs_strace
@pytest.mark.timeout(300)
def test_killed_at_a_sample_of_system_calls(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Killed at a seeded sample of the system calls of a restoration: wholly one or the other, both kept."""
    pristine = converted(_directory(tmp_path, "pristine") / "orders.db")

    def fresh(name: str) -> Converted:
        target = tmp_path / name
        shutil.copytree(pristine.path.parent, target)
        return Converted(target / "orders.db", pristine.backup, pristine.old)

    def arguments(made: Converted) -> list[str]:
        return ["restore", str(made.path), "--backup", made.backup]

    def loading() -> list[str]:
        return arguments(fresh(uuid.uuid4().hex))

    drivers = strace.Drivers(loading())
    places = drivers.places(loading(), tmp_path / "log")
    drivers.end()
    assert len(places) > 150
    chosen = sorted(random.Random(SEED).sample(range(len(places)), SAMPLED_CALLS))

    def kill(drivers: strace.Drivers, place: strace.Place) -> tuple[int, str]:
        made = fresh("-".join(map(str, place)))
        code = drivers.run_injected(arguments(made), place, "signal=KILL")
        where = require_restored_or_not(made)
        shutil.rmtree(made.path.parent)
        return code, where

    outcomes = {"old": 0, "new": 0}
    missed = 0
    for code, where in strace.killed_everywhere((places[one] for one in chosen), loading, kill):
        assert code in (-9, 137, 0), code
        missed += code == 0
        outcomes[where] += 1
    assert missed <= 2
    assert min(outcomes.values()) > 3, outcomes
    record_property("kills", SAMPLED_CALLS - missed)


@pytest.mark.parametrize("name", CONVERSION)
def test_killed_undo_loses_nothing(made: Converted, name: str) -> None:
    """Undo is a conversion: killed at any of its failpoints, every record is there, the later ones too."""
    assert run("undo", str(made.path), "--failpoint", name, "kill").returncode == -9
    recover(made.path)
    assert records_on_disk(made.path) == [*BEFORE, *LATER]
    if format_on_disk(made.path).get("keyEncoding") == "hierarchical":
        undo(made.path)
    assert records_on_disk(made.path) == [*BEFORE, *LATER]
    assert format_on_disk(made.path)["keyEncoding"] == "natural"


@pytest.mark.parametrize("action", ["kill", "ENOSPC"])
def test_killed_deletion(made: Converted, action: str) -> None:
    """Killed between the backup and its manifest, what is left of it goes with the next pruning."""
    from format_store import prune_backups

    done = run(
        "delete", str(made.path), "--backup", made.backup,
        "--failpoint", "delete-backup.before-clear", action,
    )  # fmt: skip
    assert done.returncode == (-9 if action == "kill" else 75), done.stdout
    assert records_on_disk(made.path) == [*BEFORE, *LATER]
    assert list_backups(made.path) == ()
    assert prune_backups(made.path) is None
    assert list((made.state / "backups").iterdir()) == []


# --- what recovery finds ----------------------------------------------------------------------------------


def test_written_to_after_the_swap(made: Converted) -> None:
    """The restored file is in place and written to: it is told by its inode, and nothing is lost."""
    kill_at(made, "swap.after-fsync")
    write_plain(made.path, [("/newest", 1)])
    (recovery,) = recover(made.path).recoveries
    assert recovery.outcome is RecoveryOutcome.COMPLETED
    assert records_on_disk(made.path) == [*BEFORE, ("/newest", 1)]
    assert len(list_backups(made.path)) == 2


def test_unsound_after_the_swap(made: Converted) -> None:
    """Written to after the swap and not sound: exit 4, both copies kept, nothing restored by itself."""
    kill_at(made, "swap.after-fsync")
    with closing(sqlite3.connect(made.path)) as connection, connection:
        connection.execute("UPDATE unnamed SET value = CAST(x'800495302e' AS BLOB) WHERE rowid = 7")
    with pytest.raises(errors.PrimaryUnsound):
        recover(made.path)
    assert len(inspect(made.path).pending) == 1


@pytest.mark.parametrize("name", ["swap.after-preimage", "swap.after-fsync"])
def test_a_volume_that_was_copied(made: Converted, tmp_path: Path, name: str) -> None:
    """Copied file by file the inodes are others: then the bytes tell which of the two it is."""
    kill_at(made, name)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(made.path, copy / "orders.db")
    shutil.copytree(made.state, copy / made.state.name)
    moved = Converted(copy / "orders.db", made.backup, made.old)
    (recovery,) = recover(moved.path).recoveries
    expected = RecoveryOutcome.COMPLETED if name in AFTER_RENAME else RecoveryOutcome.DISCARDED
    assert recovery.outcome is expected
    assert require_restored_or_not(moved) == ("new" if name in AFTER_RENAME else "old")


def test_replaced_by_somebody_else(made: Converted) -> None:
    """A file that is neither of the two stays, and so does what it replaced, pinned."""
    kill_at(made, "swap.after-fsync")
    other = made.path.with_name("other.db")
    write_plain(other, sample(3, seed=9))
    other.rename(made.path)
    (recovery,) = recover(made.path).recoveries
    assert recovery.outcome is RecoveryOutcome.DISCARDED
    assert records_on_disk(made.path) == sample(3, seed=9)
    assert sorted(backup.pinned for backup in list_backups(made.path)) == [False, True]


@pytest.mark.parametrize("name", ["swap.after-preimage", "swap.after-fsync"])
def test_missing_after_a_crash(made: Converted, name: str) -> None:
    """The database is gone: what it was before the restoration comes back."""
    kill_at(made, name)
    made.path.unlink()
    (recovery,) = recover(made.path).recoveries
    assert recovery.outcome is RecoveryOutcome.RESTORED
    assert records_on_disk(made.path) == [*BEFORE, *LATER]


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
@pytest.mark.parametrize("name", [*RESTORATION, None])
def test_without_hard_links(
    made: Converted, monkeypatch: pytest.MonkeyPatch, name: str | None, *, damaged: bool
) -> None:
    """Where the pre-image is a copy, its bytes tell as well, of a damaged database too."""
    from format_store import Failpoints

    class Crash(BaseException):
        pass

    def crash() -> None:
        raise Crash

    if damaged:
        data = bytearray(made.path.read_bytes())
        data[100:4096] = b"\xa5" * 3996
        made.path.write_bytes(data)
    present = made.path.read_bytes()
    monkeypatch.setattr(durable, "link", lambda *_: False)
    if name is None:
        restore_backup(made.path, made.backup)
    else:
        # A crash as a process sees it: nothing that would clear up runs.
        monkeypatch.setattr("format_store.ending.give_up", lambda *_: None)
        with pytest.raises(Crash):
            restore_backup(made.path, made.backup, failpoints=Failpoints({name: crash}))
        recover(made.path)
    restored = name is None or name in AFTER_RENAME
    assert made.path.read_bytes() == (made.old if restored else present)
    others = [b for b in list_backups(made.path, verify=True) if b.conversion_id != made.backup]
    assert [Path(other.path).read_bytes() for other in others] == ([present] if restored else [])
    assert list((made.state / "work").glob("*")) == []


def test_a_restorations_manifest_is_refused_by_older_tools(made: Converted) -> None:
    """It carries version 2, which a tool that would misjudge it does not know; conversions keep version 1."""
    import json

    kill_at(made, "swap.after-fsync")
    (file,) = (made.state / "work").glob("*/manifest.json")
    assert json.loads(file.read_bytes())["manifestVersion"] == 2
    backup = made.preimage.with_name("manifest.json")
    assert json.loads(backup.read_bytes())["manifestVersion"] == 1


# --- a rehearsal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rehearse.after-copy", *CONVERSION, "rehearse.before-remove"])
def test_killed_rehearsal(tmp_path: Path, name: str) -> None:
    """Killed anywhere, a rehearsal leaves the database as it was, nothing pending, and a copy that goes."""
    path = tmp_path / "orders.db"
    write_plain(path, BEFORE)
    before = (path.read_bytes(), os.stat(path).st_mtime_ns, os.stat(path).st_ino)
    assert run("rehearse", str(path), "--failpoint", name, "kill").returncode == -9
    copies = path.with_name(".orders.db.storageformat") / "rehearsal"
    assert copies.exists()
    assert inspect(path).pending == ()
    assert inspect(path).backups == ()
    result = recover(path)
    assert result.recoveries == ()
    assert not copies.exists()
    assert leftovers(path) == []
    assert (path.read_bytes(), os.stat(path).st_mtime_ns, os.stat(path).st_ino) == before
    assert history.read(path).entries == ()


def test_the_next_rehearsal_clears_the_one_before(tmp_path: Path) -> None:
    """So does a rehearsal, and a conversion: whoever holds the lock."""
    path = tmp_path / "orders.db"
    write_plain(path, BEFORE)
    for follow in (
        lambda: plan(path, TARGET, rehearse=True),
        lambda: convert(path, TARGET),
    ):
        killed = run("rehearse", str(path), "--failpoint", "rehearse.after-copy", "kill")
        assert killed.returncode == -9
        follow()
        assert leftovers(path) == []
    assert records_on_disk(path) == BEFORE


def _directory(tmp_path: Path, name: str) -> Path:
    directory = tmp_path / name
    directory.mkdir()
    return directory
