"""What holds for all tests."""

from __future__ import annotations

import pytest

from tests.support.requirements import MARKER, require_now

pytest.register_assert_rewrite("tests.crash.aftermath", "tests.support.databases")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}(what, how, available): what a test needs of the machine"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers(MARKER):
        require_now(*marker.args, **marker.kwargs)
