"""A sample of random histories; ``histories`` says what happens in them."""

from __future__ import annotations

from tests.proof import histories


def test_histories() -> None:
    """Whatever is done and dies, in whatever order, the database and its backups hold what they must."""
    tally = histories.run(30, 16, seeded=True)
    # The sample is the same each time: everything is in it.
    assert tally["crashes"] > 50
    assert tally["copies"] > 5
    assert tally["restorations"] > 0
