"""Limits of the system: memory, open files, killed workers; and quotas, on a filesystem made for that.

As with errors at system calls (``errors.judge``): the database is wholly old or wholly new, exit code, message and hint
say which, and the next run, which has what it needs, finishes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.proof import quota
from tests.proof.error_scenarios import Scenario, all_of_them, of_many_records
from tests.proof.errors import Bench, Tally
from tests.proof.report import Report

#: Bytes of address space beyond what the process has: up to where nothing fails any more.
MEMORY: Final = range(0, 512 << 10, 8 << 10)
#: Open files beyond those of the interpreter.
DESCRIPTORS: Final = range(1, 40)
#: Things read from workers and written to them: more than there are.
EXCHANGES: Final = range(40)
RECORDS: Final = 3000


def without_memory(bench: Bench, scenario: Scenario, sizes: range = MEMORY) -> Tally:
    return bench.limit(scenario, "AS", sizes)


def without_descriptors(bench: Bench, scenario: Scenario, left: range = DESCRIPTORS) -> Tally:
    return bench.limit(scenario, "NOFILE", left)


def with_dying_workers(
    bench: Bench, scenario: Scenario, exchanges: Sequence[int] = EXCHANGES
) -> Tally:
    """A worker is killed, as by the kernel where memory ends, before each thing that it is given or gives."""
    return bench.vary(scenario, [{"worker_dies": number} for number in exchanges])


def long(report: Report) -> None:
    """Every limit for every operation."""
    with tempfile.TemporaryDirectory() as name, Bench(Path(name)) as bench:
        scenarios = all_of_them(Path(name))
        many = of_many_records(Path(name), RECORDS)
        _add(report, "memory", [*scenarios, many], lambda one: without_memory(bench, one))
        _add(report, "open files", scenarios, lambda one: without_descriptors(bench, one))
        _add(
            report,
            "killed workers",
            [scenarios[0], many],
            lambda one: with_dying_workers(bench, one),
        )
    begun = time.monotonic()
    said, lost = quota.play(quota.STEP)
    for problem in lost:
        report.progress(problem)
    report.add(
        "limits", "quotas of bytes and files", said.total(), len(lost), time.monotonic() - begun,
        _told(said),
    )  # fmt: skip


def _add(
    report: Report, what: str, scenarios: list[Scenario], attempt: Callable[[Scenario], Tally]
) -> None:
    begun, all_of_it = time.monotonic(), Tally()
    for scenario in scenarios:
        tally = attempt(scenario)
        all_of_it.tried += tally.tried
        all_of_it.outcomes += tally.outcomes
        all_of_it.lost += tally.lost
    for problem in all_of_it.lost:
        report.progress(problem)
    report.add(
        "limits", what, all_of_it.tried, len(all_of_it.lost), time.monotonic() - begun,
        _told(all_of_it.outcomes),
    )  # fmt: skip


def _told(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
