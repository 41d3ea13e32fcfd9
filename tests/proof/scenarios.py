"""The runs whose crash states are built: what is there before, what is done, and what may come of it."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from format_store import Retention, convert, open_store
from tests.crash import strace
from tests.crash.test_recovery import leave_hot_journal
from tests.crash.test_sqlite_kills import TARGET as MIGRATED
from tests.crash.test_sqlite_kills import others
from tests.proof.outcomes import (
    Conversion,
    Deletion,
    Migrated,
    Outcome,
    Regained,
    Reinstatement,
    Restoration,
    Reversal,
)
from tests.support.databases import sample, write_plain
from tests.support.restorations import BEFORE, LATER, TARGET, Converted, converted
from tests.support.sqlite_files import EVERY_KIND, write_sql

NAME = "orders.db"
RECORDS = sample(12)
KEYS: dict[str, Any] = {"sqlitedict": {"keyEncoding": "hierarchical"}}
RECODED: dict[str, Any] = {
    "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack", "compression": "zstd"}
}


@dataclass(frozen=True)
class Prepared:
    """``words``: what the driver is to do, after the path. ``result``: what the database is then."""

    operation: str
    words: Sequence[str]
    outcome: Outcome
    result: str = "new"


@dataclass(frozen=True)
class Scenario:
    """``unsynced``: the application wrote with synchronous=OFF, and nothing of the database is on disk yet."""

    name: str
    prepare: Callable[[Path], Prepared]
    hard_links: bool = True
    unsynced: bool = False


def _to(target: dict[str, Any], *more: str) -> tuple[str, ...]:
    return ("--to", json.dumps(target), *more)


def _plain(path: Path) -> Prepared:
    write_plain(path, RECORDS)
    return Prepared("convert", _to(KEYS), Conversion(RECORDS, KEYS))


def _recoded(path: Path) -> Prepared:
    write_plain(path, RECORDS)
    return Prepared("convert", _to(RECODED), Conversion(RECORDS, RECODED))


def _kept(path: Path) -> Prepared:
    write_plain(path, RECORDS)
    return Prepared("convert", _to(KEYS, "--retain", "3600"), Conversion(RECORDS, KEYS, kept=True))


def _taken_back(path: Path) -> Prepared:
    """Somebody opens the old file as it is replaced: it is put back."""
    write_plain(path, RECORDS)
    when = (
        "--failpoint",
        "swap.after-rename",
        "opened",
        "--failpoint",
        "step-back.after-rename",
        "closed",
    )
    words = _to(KEYS, *when, "--told", "75")
    return Prepared("convert", words, Conversion(RECORDS, KEYS), "old")


_LEAVE_WAL = """
import os, pickle, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA synchronous=FULL")
rows = [(key, pickle.dumps(value, 5)) for key, value in pickle.load(sys.stdin.buffer)]
connection.execute("BEGIN")
connection.executemany("INSERT INTO unnamed VALUES (?, ?)", rows)
connection.execute("COMMIT")
os._exit(0)
"""


def _wal(path: Path) -> Prepared:
    """Its application was killed: half of what was committed is in the log only."""
    write_plain(path, RECORDS[:6], journal_mode="WAL")
    command = [sys.executable, "-c", _LEAVE_WAL, str(path)]
    subprocess.run(command, input=pickle.dumps(RECORDS[6:]), check=True)
    assert Path(f"{path}-wal").stat().st_size > 0
    return Prepared("convert", _to(KEYS), Conversion(RECORDS, KEYS))


def _hot_journal(path: Path) -> Prepared:
    """Its application was killed in a transaction that has to be taken back."""
    write_plain(path, RECORDS)
    leave_hot_journal(path)
    return Prepared("convert", _to(KEYS), Conversion(RECORDS, KEYS))


def _migrated(path: Path) -> Prepared:
    write_sql(path, EVERY_KIND)
    write_plain(path, RECORDS)
    return Prepared("convert", _to(MIGRATED), Migrated(RECORDS, MIGRATED, others(path), others))


def _restored(path: Path) -> Prepared:
    made = converted(path)
    return Prepared("restore", ("--backup", made.backup), Restoration(made))


def _undone(path: Path) -> Prepared:
    return Prepared("undo", (), Reversal(converted(path)))


def _deleted(path: Path) -> Prepared:
    made = converted(path)
    return Prepared("delete", ("--backup", made.backup), Deletion(made))


def _pruned(path: Path) -> Prepared:
    """A backup whose time was over as soon as it was made."""
    write_plain(path, BEFORE)
    old = path.read_bytes()
    result = convert(path, TARGET, retention=Retention(1e-3))
    with open_store(path) as store:
        for key, value in LATER:
            store[key] = value
        store.commit()
    assert result.backup is not None
    return Prepared("prune", (), Deletion(Converted(path, result.backup.conversion_id, old)))


def _reinstated(path: Path) -> Prepared:
    """The database is gone."""
    made = converted(path)
    path.unlink()
    return Prepared("restore", ("--backup", made.backup), Reinstatement(made))


def _lost(path: Path) -> Prepared:
    """Killed before the swap; then somebody removed the database."""
    _killed_before_the_swap(path)
    path.unlink()
    return Prepared("recover", (), Regained(RECORDS, KEYS))


def _unreadable(path: Path) -> Prepared:
    """Killed before the swap; then something that is no database came into its place."""
    _killed_before_the_swap(path)
    path.unlink()
    path.write_bytes(bad := b"no database " * 700)
    return Prepared("recover", (), Regained(RECORDS, KEYS, bad))


def _killed_before_the_swap(path: Path) -> None:
    write_plain(path, RECORDS)
    words = ["convert", str(path), *_to(KEYS), "--failpoint", "swap.before-rename", "kill"]
    assert subprocess.run(strace.command(words), check=False).returncode == -9


SCENARIOS = (
    Scenario("conversion", _plain),
    Scenario("conversion of values", _recoded),
    Scenario("conversion with a backup", _kept),
    Scenario("conversion of a WAL file", _wal),
    Scenario("conversion with a hot journal", _hot_journal),
    Scenario("conversion of what was never synced", _kept, unsynced=True),
    Scenario("conversion that is taken back", _taken_back),
    Scenario("sqlite conversion", _migrated),
    Scenario("restoration", _restored),
    Scenario("restoration of a lost database", _reinstated),
    Scenario("undo", _undone),
    Scenario("recovery of a lost database", _lost),
    Scenario("recovery of an unreadable database", _unreadable),
    Scenario("deletion of a backup", _deleted),
    Scenario("pruning of backups", _pruned),
)
ALL = (
    *SCENARIOS,
    *(
        replace(scenario, name=f"{scenario.name}, no hard links", hard_links=False)
        for scenario in SCENARIOS
        # Without hard links there is no way back from a swap: both copies are kept.
        if scenario.prepare is not _taken_back
    ),
)


def fresh(root: Path, name: str) -> Path:
    """An empty volume."""
    volume = root / name
    shutil.rmtree(volume, ignore_errors=True)
    volume.mkdir()
    return volume
