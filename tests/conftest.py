"""What holds for all tests."""

from __future__ import annotations

import signal

import hypothesis
import pytest

from tests.support.requirements import MARKER, require_now

pytest_plugins = ["tests.support.controlplane"]

pytest.register_assert_rewrite("tests.crash.aftermath", "tests.support.databases")

# Timing is measured in bench/, never asserted; and a run that failed must fail again when it is repeated.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in the background of a shell: then all that tests start would ignore Ctrl-C, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", f"{MARKER}(what, how, available): what a test needs of the machine"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster's tests last: it runs from the first of them to the end, and others want the processors."""
    items.sort(key=lambda item: "/tests/cluster/" in item.path.as_posix())


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers(MARKER):
        require_now(*marker.args, **marker.kwargs)
