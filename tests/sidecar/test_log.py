"""What is logged of libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from format_operator.runtime import log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The logging of this process is put back."""
    root = logging.getLogger()
    names = (None, "storageformat", "kopf", "aiohttp", "asyncio", "aiohttp.access")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def fail(logger: str) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger(logger).exception("it failed")


def test_an_outage_is_not_a_flood(capsys: pytest.CaptureFixture[str]) -> None:
    """kopf's attempts to come back are told at debug level only, and a watch that ends is one line, without traceback."""
    for level, told in (("info", 0), ("debug", 1)):
        log.configure(level)
        logging.getLogger("kopf._cogs.clients.watching").error("Request attempt #1/9 failed")
        assert capsys.readouterr().err.count("Request attempt") == told
    fail("kopf._core.reactor.running")
    said = capsys.readouterr().err
    assert "kopf._core.reactor.running: it failed: ValueError: why" in said
    assert "Traceback" not in said


def test_a_bug_of_ours_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody has to mend it."""
    log.configure("info")
    fail("storageformat")
    assert "Traceback" in capsys.readouterr().err
