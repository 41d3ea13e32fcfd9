"""SIGKILL at every system call of every operation, and again in the recovery after it.

The operations, and what must hold afterwards, are those of ``errors``. (``tests/crash/test_kill_at_system_calls.py`` does
it to a bare interpreter with everything that starts in it, in every run of the tests.)
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.proof.error_scenarios import Scenario, all_of_them
from tests.proof.errors import KILL, SEED, Bench, Case
from tests.proof.injection import Place
from tests.proof.report import Report

#: What a recovery calls, and about how often: those that change something, and one that only looks.
RECOVERY_CALLS: Final = {
    "fsync": 8, "unlink": 6, "rename": 3, "rmdir": 2, "openat": 16, "write": 4, "link": 1, "mkdir": 2,
    "fcntl": 24, "newfstatat": 40,
}  # fmt: skip


def cases(bench: Bench, scenarios: list[Scenario], *, seed: int = SEED) -> Iterator[list[Case]]:
    """A scenario at a time: each place twice, with one kill and with a second one in the recovery."""
    for scenario in scenarios:
        generator = random.Random(f"kills {seed} {scenario.name}")
        found = []
        for place in bench.places(scenario):
            name = generator.choice(list(RECOVERY_CALLS))
            again = Place(0, name, generator.randint(1, RECOVERY_CALLS[name]))
            found += [Case(scenario, place, KILL), Case(scenario, place, KILL, again)]
        yield found


def long(report: Report) -> None:
    """All of them."""
    with tempfile.TemporaryDirectory() as name, Bench(Path(name)) as bench:
        for found in cases(bench, all_of_them(Path(name))):
            scenario = found[0].scenario
            begun = time.monotonic()
            tally = bench.run(found)
            for problem in tally.lost:
                report.progress(problem)
            report.add(
                "kills", scenario.name, tally.tried - tally.missed, len(tally.lost), time.monotonic() - begun,
                f"{tally.outcomes['killed twice']} killed twice",
            )  # fmt: skip
