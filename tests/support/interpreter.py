"""Further interpreters of a test: they find the tests, and the store that this one has."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """This one's, with the project's root behind what it looks through: a copy of the store may be in front."""
    paths = [os.environ.get("PYTHONPATH", ""), str(_ROOT)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
