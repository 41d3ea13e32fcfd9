"""A seeded sample of the errors at every system call; all of them are tried by ``python -m tests.proof``."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash import strace
from tests.proof import kills
from tests.proof.error_scenarios import NAME, all_of_them
from tests.proof.errors import FILE_SIZES, KILL, SEED, Bench, Case, cases, judge
from tests.proof.injection import Ending
from tests.support.requirements import requires

#: Each engine, each kind of operation, each side of the swap; with and without hard links.
SAMPLED = (
    "sqlitedict: convert",
    "sqlitedict: convert beside a log",
    "sqlite: convert",
    "recover: sqlitedict: convert without hard links killed at swap.after-preimage",
    "recover: sqlite: convert killed at swap.after-rename",
    "recover: missing after the swap",
    "restore",
    "sqlite: undo",
    "delete a backup",
)
EACH = 10
needs_strace = requires("strace", how="apt-get install strace", available=strace.traceable)


@needs_strace
def test_an_error_at_any_system_call_loses_nothing_and_says_so(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Wholly old or wholly new, exit code, message and hint say which, the next run finishes, nothing is left."""
    scenarios = {scenario.name: scenario for scenario in all_of_them(tmp_path)}
    generator = random.Random(SEED)
    sample: list[Case] = []
    with Bench(tmp_path) as bench:
        for found in cases(bench, [scenarios[name] for name in SAMPLED]):
            sample += generator.sample(found, EACH)
        tally = bench.run(sample)
    assert tally.lost == []
    assert tally.missed <= len(sample) // 50
    # It was not by never failing: errors of each kind were told, and some recoveries were killed.
    assert {"StorageError", "OutOfSpace", "ReadOnly", "done", "killed"} <= tally.outcomes.keys()
    assert any(case.fault == KILL for case in sample)
    record_property("errors", tally.tried - tally.missed)


@needs_strace
def test_a_second_kill_in_the_recovery_loses_nothing(tmp_path: Path) -> None:
    """Killed at any call, and the recovery after it as well: wholly old or wholly new, and the next run finishes."""
    scenarios = {scenario.name: scenario for scenario in all_of_them(tmp_path)}
    generator = random.Random(SEED)
    sample: list[Case] = []
    with Bench(tmp_path) as bench:
        for found in kills.cases(bench, [scenarios[name] for name in SAMPLED[2:]]):
            sample += generator.sample([case for case in found if case.again], EACH // 2)
        tally = bench.run(sample)
    assert tally.lost == []
    assert tally.outcomes["killed twice"] > len(sample) / 4


@pytest.mark.parametrize("name", ["sqlite: convert", "restore without hard links"])
def test_short_writes_lose_nothing(tmp_path: Path, name: str) -> None:
    """A file that ends in the middle of a write is an error like any other, wherever it ends."""
    (scenario,) = [found for found in all_of_them(tmp_path) if found.name == name]
    with Bench(tmp_path) as bench:
        tally = bench.limit(scenario, "FSIZE", FILE_SIZES[::16])
    assert tally.lost == []
    assert {"StorageError"} <= tally.outcomes.keys()


@pytest.mark.parametrize(
    "ending",
    [
        Ending(0, {"outcome": "converted"}),
        Ending(
            75, {"reason": "CleanUpPending", "message": "the new database is in place", "hint": ""}
        ),
        Ending(1, {"reason": "StorageError", "message": "an error", "hint": "Try again."}),
        Ending(3, {"reason": "StorageError", "message": "", "hint": "Nothing was touched."}),
        Ending("crashed", {"message": "Traceback"}),
    ],
    ids=["done", "new", "silent", "another code", "crashed"],
)
def test_a_lie_is_caught(tmp_path: Path, ending: Ending) -> None:
    """The database is the old one: an ending that says otherwise, or nothing, does not pass."""
    scenario = all_of_them(tmp_path)[0]
    (tmp_path / "case").mkdir()
    path = Path(shutil.copytree(scenario.pristine, tmp_path / "case" / "data")) / NAME
    with pytest.raises(AssertionError):
        judge(scenario, path, ending, path.read_bytes())
