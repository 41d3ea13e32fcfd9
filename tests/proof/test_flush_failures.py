"""A sample of disks that fail once; ``flush_failures`` says how they are made."""

from __future__ import annotations

import pytest

from tests.proof import block_devices
from tests.proof.block_devices import KINDS
from tests.proof.flush_failures import NEVER_SYNCED, Case, play
from tests.proof.recorded_runs import AGAIN
from tests.support.requirements import requires

pytestmark = requires(
    "recorded block devices", how=block_devices.HOW, available=block_devices.available
)
CONVERSION = "conversion of many records"


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_a_disk_that_fails_once(kind: str) -> None:
    """A flush or a write that fails is told, and what is told of the database is so once the disk is well."""
    flushes, writes = play(
        [Case(kind, CONVERSION, "flush", 2, 11), Case(kind, CONVERSION, "write", 7, 27)]
    )
    assert flushes.lost + flushes.refused + writes.lost + writes.refused == []
    # No flush may fail unnoticed; of btrfs's metadata there is a second copy, on the same disk.
    assert sum(flushes.said.values()) == flushes.runs >= 3
    assert "0" not in flushes.said
    assert writes.runs >= 1


@pytest.mark.parametrize(("kind", "first"), [("ext4", 10), ("xfs", 6)])
def test_a_second_fsync_proves_nothing(kind: str, first: int) -> None:
    """Had what failed been synced again, success would be told over data that is gone."""
    (found,) = play([Case(kind, CONVERSION, "write", first, broken=AGAIN)])
    assert any("it says 0;" in lost for lost in found.lost)


def test_run_again_on_what_only_the_cache_holds() -> None:
    """The source's own fsync fails; the next run converts what the cache has, and its backup is of that as well."""
    (found,) = play([Case("xfs", NEVER_SYNCED, "write", 8, times=2)])
    assert found.lost == []
    assert found.said["1 SourceNotSynced, then 0"] >= 1
