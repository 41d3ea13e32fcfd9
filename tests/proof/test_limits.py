"""A sample of the limits that a system sets: memory, open files, workers that are killed, quotas."""

from __future__ import annotations

from pathlib import Path

from tests.proof import limits, quota
from tests.proof.error_scenarios import all_of_them, of_many_records
from tests.proof.errors import Bench
from tests.support.requirements import requires


def test_without_memory(tmp_path: Path) -> None:
    """However little a process may still take: done, or OutOfMemory and the database as it was; nobody waits for ever."""
    with Bench(tmp_path) as bench:
        scenario = of_many_records(tmp_path, limits.RECORDS)
        tally = limits.without_memory(bench, scenario, range(0, 128 << 10, 16 << 10))
    assert tally.lost == []
    assert "OutOfMemory" in tally.outcomes


def test_without_open_files(tmp_path: Path) -> None:
    """However few files a process may still open: an error that says how the database is, and the next run does it."""
    with Bench(tmp_path) as bench:
        scenarios = all_of_them(tmp_path)
        tally = limits.without_descriptors(bench, scenarios[0], limits.DESCRIPTORS[::3])
    assert tally.lost == []
    assert {"StorageError", "WorkerFailed", "done"} <= tally.outcomes.keys()


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Whatever it was about to be given, or to give: WorkerFailed, and the database as it was."""
    with Bench(tmp_path) as bench:
        # How many there are depends on how busy the machine is: the first are always there, the last never.
        exchanges = [*limits.EXCHANGES[:4], limits.EXCHANGES[-1]]
        tally = limits.with_dying_workers(
            bench, of_many_records(tmp_path, limits.RECORDS), exchanges
        )
    assert tally.lost == []
    assert {"WorkerFailed", "done"} == tally.outcomes.keys()
    assert tally.outcomes["WorkerFailed"] > 1


@requires("btrfs", how="as root: apt-get install btrfs-progs", available=quota.available)
def test_a_quota() -> None:
    """A quota is told as a volume that is full is, wherever it is met."""
    said, lost = quota.play(131072)
    assert lost == []
    assert said["OutOfSpace 1"] > 3
    assert said["converted"] > 0


@requires("btrfs", how="as root: apt-get install btrfs-progs", available=quota.available)
def test_a_quota_that_leaves_room_for_less_than_sqlite_needs() -> None:
    """Where the copy fits and a write-ahead log does not, SQLite says "cannot open" or "I/O error": it is OutOfSpace."""
    said, lost = quota.at_the_edge()
    assert lost == []
    assert said.total() == len(quota.EDGE)
