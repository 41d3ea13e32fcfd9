"""A sample of power cuts on the kernel's own filesystems; ``real_filesystems`` says how they are made."""

from __future__ import annotations

import pytest

from tests.proof import block_devices
from tests.proof.real_filesystems import play
from tests.proof.recorded_runs import NEIGHBOURS, Request
from tests.support.requirements import requires

pytestmark = requires(
    "recorded block devices", how=block_devices.HOW, available=block_devices.available
)
NOBODY, EACH_CHANGE, _ = NEIGHBOURS
MANY = "conversion of many records"


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("ext4", "restoration"),
        ("ext4 data=writeback", "conversion of a WAL file"),
        ("xfs", "sqlite conversion"),
        ("btrfs", "undo"),
    ],
)
def test_power_cuts_on_a_real_filesystem(kind: str, other: str) -> None:
    """Whatever the disk has of what the kernel wrote to it, recovery makes of it the old or the new."""
    runs = [Request(kind, MANY, EACH_CHANGE, most=40), Request(kind, other, NOBODY, most=25)]
    found = play(runs)
    assert [one.lost + one.refused for one in found] == [[], []]
    for one in found:
        assert one.flushes > 20
        assert one.tried > 15
        assert set(one.outcomes) == {"old", "new"}


@pytest.mark.parametrize(
    ("kind", "scenario", "neighbour", "unsynced"),
    [
        ("ext4", MANY, NOBODY, ""),
        ("ext4", "conversion of what was never synced", EACH_CHANGE, "/orders.db"),
        ("ext4 data=writeback", MANY, EACH_CHANGE, "/staging.db"),
        ("xfs", MANY, EACH_CHANGE, "/staging.db"),
        ("btrfs", MANY, NOBODY, "/staging.db"),
    ],
)
def test_what_was_not_synced_is_lost(
    kind: str, scenario: str, neighbour: str, unsynced: str
) -> None:
    """Had nothing been synced, or one of the files not, there would be disks from which the database is lost."""
    (found,) = play([Request(kind, scenario, neighbour, broken=unsynced, most=150)])
    assert found.lost
