"""The API server's time of day, on machines whose clocks differ from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from format_operator.runtime import clock
from format_operator.runtime.clock import ServerClock

NOON = datetime(2026, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)
DATE = "Sun, 01 Mar 2026 12:00:00 GMT"


class Machine:
    """Its clocks, which a test sets."""

    def __init__(self) -> None:
        self.wall = NOON
        self.steady = 100.0

    def monotonic(self) -> float:
        return self.steady

    def passes(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += timedelta(seconds=seconds)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(clock, "time", made)
    monkeypatch.setattr(clock, "now", lambda: made.wall)
    return made


def test_the_machines_own_time_until_there_was_an_answer(machine: Machine) -> None:
    """Also when it is set meanwhile."""
    server = ServerClock()
    assert server.now() == NOON
    machine.wall += timedelta(hours=1)
    assert server.now() == NOON + timedelta(hours=1)


@pytest.mark.parametrize("hours", [-1, 1, 24 * 365])
def test_a_clock_that_is_hours_away(machine: Machine, hours: int) -> None:
    """The server's time counts, and goes on between answers."""
    machine.wall += timedelta(hours=hours)
    server = ServerClock()
    server.heard(DATE)
    assert server.now() == NOON.replace(microsecond=0)
    machine.passes(90)
    assert server.now() == NOON.replace(microsecond=0) + timedelta(seconds=90)


def test_clocks_that_agree_stay_as_exact_as_they_are(machine: Machine) -> None:
    """A Date without fractions does not set the time back; a clock that is set later changes nothing."""
    server = ServerClock()
    server.heard(DATE)
    assert server.now() == NOON
    machine.passes(0.9)
    server.heard("Sun, 01 Mar 2026 12:00:01 GMT")
    assert server.now() == NOON + timedelta(seconds=0.9)
    machine.wall += timedelta(hours=5)
    assert server.now() == NOON + timedelta(seconds=0.9)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 99 Mar 2026 12:00:00 GMT", "12:00"])
def test_no_date(machine: Machine, date: str | None) -> None:
    """What cannot be read says nothing."""
    server = ServerClock()
    server.heard(date)
    assert server.now() == machine.wall
