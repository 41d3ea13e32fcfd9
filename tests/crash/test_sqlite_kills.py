"""SIGKILL in conversions of the sqlite engine: pages, sqlitedict's tables and migrations in one file."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from format_store import Format, convert, inspect, recover
from tests.crash import strace
from tests.support.databases import leftovers, marker_of, records_on_disk, sample, write_plain
from tests.support.requirements import requires
from tests.support.sqlite_files import EVERY_KIND, everything, write_sql

RECORDS = sample(12)
TARGET: dict[str, Any] = {
    "sqlite": {
        "pageSize": 1024,
        "autoVacuum": "full",
        "journalMode": "wal",
        "migrations": [
            {"number": 1, "sql": "CREATE TABLE one (a); INSERT INTO one SELECT id FROM log"},
            {"number": 2, "sql": "ALTER TABLE one RENAME TO two; DELETE FROM two WHERE a = 1"},
        ],
    },
    "sqlitedict": {"keyEncoding": "hierarchical"},
}
#: Many system calls are those of a lock: a step that divides nothing meets all kinds.
EVERY = 7

CONVERSION = (
    "settle.after",
    "prepare.after-directory",
    "prepare.after-manifest",
    "build.after-pages",
    "build.after-create-table",
    "build.after-batch",
    "build.after-migration",
    "build.after-migration",
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
    "cleanup.after-delete-preimage",
    "cleanup.before-clear",
)
AFTER_RENAME = CONVERSION[CONVERSION.index("swap.after-rename") :]


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    path = write_sql(tmp_path / "pristine.db", EVERY_KIND)
    write_plain(path, RECORDS)
    return path


def others(path: Path) -> dict[str, Any]:
    """All that is neither sqlitedict's nor a migration's."""
    found = everything(path)
    found["schema"] = [row for row in found["schema"] if row[2] not in {"unnamed", "one", "two"}]
    for name in ("unnamed", "one", "two"):
        found.pop(f"table {name}", None)
    return found


def require_intact(path: Path, before: dict[str, Any]) -> str:
    """Recover, require that it is wholly old or wholly new; convert, require that it is wholly new.

    Returns which of the two it was after the recovery: ``old`` or ``new``.
    """
    recover(path)
    where = "new" if marker_of(path) else "old"
    for state in (where, "new"):
        found = everything(path)
        assert ("table two" in found) == (state == "new")
        assert found.get("table two", ["(1, 2)"]) == ["(1, 2)"]
        assert others(path) == before
        assert records_on_disk(path) == RECORDS
        assert leftovers(path) == []
        convert(path, Format.from_spec(TARGET))
    assert inspect(path).format == Format.from_spec(TARGET)
    return where


def fresh(pristine: Path, name: str) -> Path:
    directory = pristine.parent / name
    directory.mkdir()
    return Path(shutil.copy(pristine, directory / "app.db"))


def arguments(path: Path, *more: str) -> list[str]:
    return ["convert", str(path), "--to", json.dumps(TARGET), *more]


def run(words: Sequence[str]) -> int:
    return subprocess.run(
        strace.command(words), capture_output=True, text=True, check=False
    ).returncode


def test_the_list_is_what_a_conversion_passes(pristine: Path) -> None:
    """A conversion passes exactly the failpoints listed here, in this order: none is left out below."""
    trace = pristine.parent / "trace"
    assert run(arguments(fresh(pristine, "traced"), "--trace", str(trace))) == 0
    assert tuple(trace.read_text().split()) == CONVERSION


@pytest.mark.parametrize("name", dict.fromkeys(CONVERSION))
def test_killed_at_a_failpoint(pristine: Path, name: str) -> None:
    """Killed at any of them, the file is wholly old (before the rename) or wholly new (after it)."""
    before = others(pristine)
    path = fresh(pristine, "killed")
    assert run(arguments(path, "--failpoint", name, "kill")) == -9
    assert require_intact(path, before) == ("new" if name in AFTER_RENAME else "old")


@requires("strace", how="apt-get install strace", available=strace.traceable)
@pytest.mark.timeout(600)
def test_killed_at_system_calls(pristine: Path) -> None:
    """Killed at one system call in seven, from the first to the last, recovery brings back the old or the new file."""
    before = others(pristine)

    def loading() -> list[str]:
        return arguments(fresh(pristine, uuid.uuid4().hex))

    drivers = strace.Drivers(loading())
    chosen = drivers.places(loading(), pristine.parent / "log")[::EVERY]
    drivers.end()
    assert len(chosen) > 100

    def kill(drivers: strace.Drivers, place: strace.Place) -> tuple[int, str]:
        path = fresh(pristine, "-".join(map(str, place)))
        code = drivers.run_injected(arguments(path), place, "signal=KILL")
        where = require_intact(path, before)
        shutil.rmtree(path.parent)
        return code, where

    outcomes: Counter[str] = Counter()
    missed = 0
    for code, where in strace.killed_everywhere(chosen, loading, kill):
        # How often SQLite polls a lock varies a little: the last calls may not come.
        missed += code == 0
        assert code in (-9, 137, 0), code
        outcomes[where] += 1
    assert missed <= len(chosen) // 50
    assert outcomes["old"] > 50
    assert outcomes["new"] > 5
