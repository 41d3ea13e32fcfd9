"""SIGKILL at every failpoint of a conversion, and again at every failpoint of the recovery after it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.crash.strace import command
from tests.support.databases import sample, write_plain

RECORDS = sample(40)

CONVERSION = (
    "settle.after",
    "prepare.after-directory",
    "prepare.after-manifest",
    "build.after-create-table",
    "build.after-batch",
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
#: Where the rename has happened, so that recovery completes instead of discarding.
AFTER_RENAME = CONVERSION[CONVERSION.index("swap.after-rename") :]


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(arguments), capture_output=True, text=True, check=False)


def test_the_list_is_what_a_conversion_passes(tmp_path: Path) -> None:
    """A conversion passes exactly the failpoints listed here, in this order: none is left out below."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    trace = tmp_path / "trace"
    assert run(["convert", str(path), "--trace", str(trace)]).returncode == 0
    assert tuple(trace.read_text().split()) == CONVERSION


@pytest.mark.parametrize("name", CONVERSION)
def test_killed_conversion_loses_nothing(tmp_path: Path, name: str) -> None:
    """Killed at any failpoint, the database is wholly old (before the rename) or wholly new (after it)."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    killed = run(["convert", str(path), "--failpoint", name, "kill"])
    assert killed.returncode == -9
    where = require_intact(path, RECORDS, HIERARCHICAL)
    assert where == ("new" if name in AFTER_RENAME else "old")


@pytest.mark.parametrize("first", CONVERSION)
def test_killed_recovery_loses_nothing(tmp_path: Path, first: str) -> None:
    """Killed again at each failpoint that the recovery passes, the next recovery ends it all the same."""
    names = _recovery_failpoints(tmp_path, first)
    for number, second in enumerate(names):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = directory / "orders.db"
        write_plain(path, RECORDS)
        assert run(["convert", str(path), "--failpoint", first, "kill"]).returncode == -9
        assert run(["recover", str(path), "--failpoint", second, "kill"]).returncode == -9
        require_intact(path, RECORDS, HIERARCHICAL)
    if first != "settle.after":  # nothing is on disk yet
        assert names


def _recovery_failpoints(tmp_path: Path, first: str) -> list[str]:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    assert run(["convert", str(path), "--failpoint", first, "kill"]).returncode == -9
    trace = tmp_path / "trace"
    assert run(["recover", str(path), "--trace", str(trace)]).returncode == 0
    return trace.read_text().split()
