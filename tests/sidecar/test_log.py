"""What a line looks like, as text and as JSON, and what is logged of libraries."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from format_operator.runtime import lines, log


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


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, level, event, then the process's fields and the event's; numbers stay numbers, what is empty is left out."""
    log.configure("info", lines.JSON, role="sidecar", pod="orders-0")
    told = log.Log(storageformat="orders").bind(database="/data/a b.db")
    told.warning('it "ended"', rows=3, seconds=0.25, error=ValueError("why\nnot"), hint="", x=None)
    found = json.loads(last_line(capsys))
    assert lines.moment(1795000000.5) == "2026-11-18T11:06:40.500Z"
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "event": 'it "ended"',
        "role": "sidecar",
        "pod": "orders-0",
        "storageformat": "orders",
        "database": "/data/a b.db",
        "rows": 3,
        "seconds": 0.25,
        "error": "why\nnot",
    }


def test_the_same_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The pod's name, which whoever reads the log of a pod knows, is left out."""
    log.configure("info", role="sidecar", pod="orders-0")
    log.Log(storageformat="orders").info("it ended", rows=3, seconds=0.25, error="a b", hint="")
    _, _, said = last_line(capsys).partition(" ")
    assert said == 'info it ended storageformat=orders rows=3 seconds=0.250 error="a b"'


def test_a_traceback_is_a_field_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One event, one line, ours or a library's; kopf's tracebacks are left out here as well."""
    log.configure("info", lines.JSON)
    try:
        raise ValueError("why")
    except ValueError as error:
        log.Log().failure("it failed", error, database="a")
    ours = json.loads(last_line(capsys))
    assert (ours["event"], ours["error"], ours["database"]) == ("it failed", "ValueError: why", "a")
    assert "Traceback" in ours["traceback"]
    fail("kopf._core.reactor.running")
    theirs = json.loads(last_line(capsys))
    assert (theirs["logger"], theirs["event"]) == ("kopf._core.reactor.running", "it failed")
    assert theirs["error"] == "ValueError: why"
    assert "traceback" not in theirs


def test_what_is_no_text_is_written_all_the_same() -> None:
    """A path of bytes that are no UTF-8 must not cost the line."""
    line = lines.as_json(0.0, "info", "e", {"database": "/data/\udcff.db"})
    assert json.loads(line.encode("utf-8"))["database"] == "/data/\\udcff.db"
