"""A sample of damaged and hostile files; ``hostile`` says what is done to them."""

from __future__ import annotations

import pytest

from tests.proof import hostile


@pytest.mark.timeout(600)
def test_hostile_files() -> None:
    """Refused, failed or converted as they are: never changed otherwise, never run, never the end of the process."""
    said, lost = hostile.play(range(5000))
    assert lost == []
    outcomes = {what.rpartition(": ")[2] for what in said}
    assert outcomes >= {"converted", "failed", "refused", "unchanged"}
