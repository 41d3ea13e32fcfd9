"""SIGKILL at every system call of a whole conversion, by strace, in a real interpreter."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash import strace
from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.support.databases import sample, write_plain
from tests.support.requirements import requires

RECORDS = sample(12)
RECODED = {
    "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack", "compression": "zstd"}
}
needs_strace = requires("strace", how="apt-get install strace", available=strace.traceable)


@needs_strace
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("target", "journal_mode"),
    [(HIERARCHICAL, "DELETE"), (HIERARCHICAL, "WAL"), (RECODED, "DELETE")],
    ids=["keys", "keys of a WAL database", "keys and values"],
)
def test_kill_at_every_system_call(
    tmp_path: Path,
    target: dict[str, object],
    journal_mode: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Killed at any system call, recovery brings back the whole old or the whole new database."""
    pristine = tmp_path / "pristine.db"
    write_plain(pristine, RECORDS, journal_mode=journal_mode)
    places = strace.places(
        _arguments(_fresh(tmp_path, pristine, "baseline"), target), tmp_path / "log"
    )
    assert len(places) > 200

    def kill(number: int) -> tuple[int, Path]:
        path = _fresh(tmp_path, pristine, str(number))
        done = strace.run_injected(_arguments(path, target), places[number], "signal=KILL")
        return done.returncode, path

    outcomes: Counter[str] = Counter()
    missed = 0
    with ThreadPoolExecutor(2) as pool:
        for code, path in pool.map(kill, range(len(places))):
            # How often SQLite polls a lock or Python a pipe varies a little: the last calls may not come.
            missed += code == 0
            assert code in (-9, 137, 0), code
            outcomes[require_intact(path, RECORDS, target)] += 1
            shutil.rmtree(path.parent)
    assert missed <= len(places) // 50
    # Both sides of the commit were met.
    assert outcomes["old"] > 50
    assert outcomes["new"] > 20
    record_property("kills", len(places) - missed)


def _fresh(tmp_path: Path, pristine: Path, name: str) -> Path:
    directory = tmp_path / name
    directory.mkdir()
    return Path(shutil.copy(pristine, directory / "orders.db"))


def _arguments(path: Path, target: dict[str, object]) -> list[str]:
    return ["convert", str(path), "--to", json.dumps(target)]
