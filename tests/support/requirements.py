"""What a test needs of the machine, and what happens where the machine does not have it.

On somebody's laptop the test is skipped, and the reason says which command would enable it. Where
``STORAGEFORMAT_REQUIRE_ALL=1`` is set (CI does) it fails instead: a skip that nobody notices is a
proof that nobody has.

    @requires("strace", how="apt-get install strace")
    def test_something(): ...

    pytestmark = requires("leases", how="a local filesystem", available=leases_work)

    @pytest.fixture
    def server():
        require_now("etcd", how="...", available=lambda: False)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

REQUIRE_ALL = "STORAGEFORMAT_REQUIRE_ALL"
MARKER = "requires"


def requires(
    what: str, *, how: str, available: Callable[[], bool] | None = None
) -> pytest.MarkDecorator:
    """Mark for a test, class or module that needs ``what``; ``how`` is the enabling command.

    Without ``available``, ``what`` is the name of a program that must be on PATH.
    """
    return pytest.mark.requires(what, how=how, available=available)


def require_now(what: str, *, how: str, available: Callable[[], bool] | None = None) -> None:
    """The same from within a fixture or a test: skips or fails unless it is there."""
    if available() if available else shutil.which(what) is not None:
        return
    unavailable(f"needs {what}, which this machine does not have; to enable: {how}")


def unavailable(reason: str) -> None:
    """Skip the running test for that reason, or fail it where everything is required."""
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(f"{REQUIRE_ALL}=1, but this test {reason}", pytrace=False)
    pytest.skip(reason)
