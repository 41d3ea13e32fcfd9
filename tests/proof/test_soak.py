"""What the soak takes for a flat line. The soak itself takes minutes; what is left open is counted in ``tests/sidecar``."""

from __future__ import annotations

import random

import pytest

from tests.proof.soak import rises

MIB = 1 << 20


def line(*, rise: float, noise: float, count: int = 200) -> list[tuple[float, float]]:
    chance = random.Random(7)
    return [
        (float(at), 60 * MIB + rise * at / count + chance.uniform(-noise, noise))
        for at in range(count)
    ]


@pytest.mark.parametrize("noise", [0.0, 1.0 * MIB])
def test_a_flat_line(noise: float) -> None:
    """Noise is no growth, and neither is a line that falls."""
    assert rises(line(rise=0, noise=noise), 2 * MIB) == ""
    assert rises(line(rise=-8 * MIB, noise=noise), 2 * MIB) == ""


def test_a_leak() -> None:
    """Four MiB in the course of it are found under a noise of one, and so is a descriptor in each hundred rounds."""
    assert "rises by" in rises(line(rise=4 * MIB, noise=MIB), 2 * MIB)
    assert "rises by" in rises([(float(at), 30 + at // 100) for at in range(300)], 1.0)
