"""So many inputs for each parser, chosen by coverage; ``fuzzing`` says how."""

from __future__ import annotations

import pytest

from tests.proof import fuzz_targets, fuzzing
from tests.support.requirements import requires

pytestmark = requires(
    "atheris",
    how="uv sync --group fuzz (Linux on x86-64, Python up to 3.13)",
    available=fuzzing.available,
)


@pytest.mark.parametrize("name", fuzzing.NAMES)
def test_a_parser(name: str) -> None:
    """It returns a value that goes there and back, or raises its own error: nothing else, and nothing is imported."""
    tried, found = fuzzing.play(name, "-runs=3000")
    assert not found, found
    assert tried == 3000


def test_each_parser_has_good_input() -> None:
    """The names are those of the targets, and the inputs to begin with are understood."""
    assert {*fuzzing.NAMES, "broken"} == set(fuzz_targets.TARGETS)
    for target, seeds in fuzz_targets.TARGETS.values():
        for seed in seeds:
            target(seed)


def test_it_can_fail() -> None:
    """Four bytes in a row that nobody would guess are found, by their branches."""
    _, found = fuzzing.play("broken", "-runs=100000")
    assert "found it" in found
