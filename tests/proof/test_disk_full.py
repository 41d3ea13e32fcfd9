"""A sample of volumes that end in the middle of a conversion; ``disk_full`` says how."""

from __future__ import annotations

from collections import Counter

from tests.proof import disk_full
from tests.support import namespaces
from tests.support.requirements import requires


@requires("a mount namespace", how=namespaces.HOW, available=namespaces.available)
def test_a_volume_that_is_full() -> None:
    """Out of bytes or of inodes, at any step: the error says so, nothing is lost, and with more space it is done."""
    found = disk_full.play(65536)
    assert [one for one in found if one.lost] == []
    said = Counter(one.said for one in found)
    # Both sides were met: volumes that are too small, and some that are not.
    assert said["OutOfSpace 1"] > 10
    assert said["converted"] > 10
    assert sum(bool(one.case.death) for one in found) == len(disk_full.SPECS) * len(
        disk_full.DEATHS
    )
