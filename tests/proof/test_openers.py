"""A sample of applications that have the database open; ``openers`` and ``openers_many`` say what they do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from format_store import backups, swap
from tests.proof import openers, openers_many


def test_openers_at_every_step() -> None:
    """Whatever an application does at any step, in any journal mode: what was acknowledged is there, and all else."""
    said, lost = openers.play(openers.sample_of(24, seed=1))
    assert lost == []
    assert said.total() == 24
    assert said["not reached"] == 0


def test_it_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody stepped back for the one who waits in ``open()``, what is acknowledged to it would be lost."""

    def stay(*_: object) -> None:
        return None

    monkeypatch.setattr(swap, "_step_back", stay)
    monkeypatch.setattr(backups, "require_untouched", stay)
    case = openers.Case("convert", "MEMORY", "write", "swap.before-rename")
    _, lost = openers.try_case(case, tmp_path)
    assert lost


@pytest.mark.parametrize("seed", range(4))
def test_sidecars_on_one_volume(tmp_path: Path, seed: int) -> None:
    """Four at once, some of them killed: exactly one conversion, and nothing is lost."""
    assert openers_many.sidecars(tmp_path, seed) == ""


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_a_reader_during_swaps(tmp_path: Path, journal_mode: str) -> None:
    """Every read is of all records, or SQLite says why not."""
    reads, wrong = openers_many.reader(tmp_path, 5, journal_mode)
    assert wrong == ""
    assert reads > 0


@pytest.mark.parametrize(
    "stage", ["build.after-staging", "swap.before-rename", "swap.after-rename"]
)
def test_a_holder_of_the_lock_that_died(tmp_path: Path, stage: str) -> None:
    """While it lives it keeps others out; the moment it is dead it does not."""
    assert openers_many.dead_holder(tmp_path, stage) == ""


@pytest.mark.parametrize("seed", range(6))
def test_a_lock_of_another_boot(tmp_path: Path, seed: int) -> None:
    """What it says, and how old it is, means nothing."""
    assert openers_many.old_lock(tmp_path, random.Random(seed)) == ""


@pytest.mark.parametrize("seed", range(4))
def test_a_clock_that_jumps(tmp_path: Path, seed: int) -> None:
    """Ids stay unique, and a backup goes when its time is over by the clock of that moment."""
    assert openers_many.jumps(tmp_path, seed) == ""
