"""SIGKILL at every system call of a whole conversion, by strace, in a real interpreter."""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable
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

    def loading() -> list[str]:
        return _arguments(_fresh(tmp_path, pristine, uuid.uuid4().hex), target)

    drivers = strace.Drivers(loading())
    places = drivers.places(loading(), tmp_path / "log")
    drivers.end()
    assert len(places) > 200

    def kill(drivers: strace.Drivers, place: strace.Place) -> tuple[int, str]:
        path = _fresh(tmp_path, pristine, "-".join(map(str, place)))
        code = drivers.run_injected(_arguments(path, target), place, "signal=KILL")
        where = require_intact(path, RECORDS, target)
        shutil.rmtree(path.parent)
        return code, where

    outcomes: Counter[str] = Counter()
    missed = 0
    for code, where in strace.killed_everywhere(places, loading, kill):
        # How often SQLite polls a lock or Python a pipe varies a little: the last calls may not come.
        missed += code == 0
        assert code in (-9, 137, 0), code
        outcomes[where] += 1
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
