"""A pytest plug-in for the mutation gate: the tests run over the copy of the store that they are meant to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    import format_store

    wanted = Path(os.environ["MUTATED_STORE"])
    if wanted not in Path(format_store.__file__).parents:
        session.shouldstop = "the store is not the one to be tested"
        pytest.exit(f"the store is {format_store.__file__}, not in {wanted}", returncode=3)
