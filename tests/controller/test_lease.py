"""The Lease: one holder at a time, whatever the clocks say, and whoever is killed."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from format_operator.controller import lease as lease_module
from format_operator.controller.cluster import Conflict, Gone, Unavailable
from format_operator.controller.lease import Lease, Timing
from format_operator.runtime.log import Log


class Server:
    """As much of an API server as one Lease needs: versions, 404 and 409."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None
        self.version = 0
        self.away = False

    async def lease(
        self, method: str, namespace: str, name: str, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        operation = f"{method} {namespace}/{name}"
        if self.away:
            raise Unavailable(operation, "no answer")
        if method == "GET":
            if self.stored is None:
                raise Gone(operation, "not found", 404)
            return copy.deepcopy(self.stored)
        assert body is not None
        new = copy.deepcopy(dict(body))
        if method == "POST" and self.stored is not None:
            raise Conflict(operation, "already exists", 409)
        if method == "PUT":
            assert self.stored is not None
            if new["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
                raise Conflict(operation, "changed", 409)
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self.stored = new
        return copy.deepcopy(new)


class Clock:
    """Each process has one of its own; they never agree."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lease_module, "time", made)
    return made


def candidate(server: Server, identity: str, told: list[tuple[str, bool]]) -> Lease:
    return Lease(
        server,  # type: ignore[arg-type] # speaks what a Lease asks for
        "system",
        "controller",
        identity,
        Log(),
        changed=lambda held: told.append((identity, held)),
    )


def step(*candidates: Lease) -> None:
    """One turn of each."""

    async def turns() -> None:
        for one in candidates:
            with suppress(Unavailable):
                await one._try()
            one._notice()

    asyncio.run(turns())


def test_the_first_one_holds_it(clock: Clock) -> None:
    """Who makes the Lease has it; the other stands by for as long as it is renewed."""
    server, told = Server(), list[tuple[str, bool]]()
    first, second = candidate(server, "a", told), candidate(server, "b", told)
    for _ in range(20):
        step(first, second)
        clock.now += 2
        assert (first.is_held, second.is_held) == (True, False)
    assert told == [("a", True)]


def test_taken_over_when_it_runs_out(clock: Clock) -> None:
    """The holder is gone: after the Lease's duration without a renewal, and not before, the other has it."""
    server, told = Server(), list[tuple[str, bool]]()
    first, second = candidate(server, "a", told), candidate(server, "b", told)
    step(first, second)
    clock.now += 14.9
    step(second)
    assert not second.is_held
    clock.now += 0.2
    step(second)
    assert second.is_held
    assert server.stored is not None
    assert server.stored["spec"]["leaseTransitions"] == 2


def test_never_two_at_a_time(clock: Clock) -> None:
    """A holder that cannot renew stops acting before another may begin."""
    server, told = Server(), list[tuple[str, bool]]()
    first, second = candidate(server, "a", told), candidate(server, "b", told)
    step(first, second)
    for _ in range(40):
        clock.now += 0.5
        step(second)  # the first one's requests do not come through
        first._notice()
        assert not (first.is_held and second.is_held)
    assert second.is_held
    assert told == [("a", True), ("a", False), ("b", True)]


def test_the_times_in_it_mean_nothing(clock: Clock) -> None:
    """A Lease from a machine whose clock is years ahead, or behind, is waited for just as long."""
    for moment in ("2099-01-01T00:00:00.000000Z", "1999-01-01T00:00:00.000000Z"):
        server = Server()
        spec = {"holderIdentity": "x", "leaseDurationSeconds": 15, "renewTime": moment}
        server.stored = {"metadata": {"name": "controller", "resourceVersion": "0"}, "spec": spec}
        one = candidate(server, "a", [])
        step(one)
        assert not one.is_held
        clock.now += 15.1
        step(one)
        assert one.is_held


def test_given_back(clock: Clock) -> None:
    """At a planned end the next one need not wait."""
    server, told = Server(), list[tuple[str, bool]]()
    first, second = candidate(server, "a", told), candidate(server, "b", told)
    step(first, second)
    asyncio.run(first.release())
    assert not first.is_held
    clock.now += 2
    step(second)
    assert second.is_held


def test_of_two_that_are_as_fast_one_gets_it(clock: Clock) -> None:
    """Both saw that it ran out; the second write is refused by its resource version."""
    server = Server()
    first, second = candidate(server, "a", []), candidate(server, "b", [])
    holder = candidate(server, "c", [])
    step(holder, first, second)
    clock.now += 16
    original = server.lease

    async def both_read_first(*arguments: Any) -> Mapping[str, Any]:
        answer = await original(*arguments)
        if arguments[0] == "GET":
            server.lease = original  # type: ignore[method-assign] # once only
            await second._try()
        return answer

    server.lease = both_read_first  # type: ignore[assignment,method-assign] # for one read
    step(first)
    assert (first.is_held, second.is_held) == (False, True)


def test_an_outage_is_survived(clock: Clock) -> None:
    """No answer: the holder acts on until its deadline, then stops, and goes on when it could renew again."""
    server, told = Server(), list[tuple[str, bool]]()
    one = candidate(server, "a", told)
    step(one)
    server.away = True
    clock.now += 9
    step(one)
    assert one.is_held
    clock.now += 2
    step(one)
    assert not one.is_held
    server.away = False
    step(one)
    assert one.is_held
    assert told == [("a", True), ("a", False), ("a", True)]


def test_the_deadline_comes_before_the_end() -> None:
    """In every proportion the holder stops acting before another may begin."""
    for duration in (3.0, 15.0, 60.0):
        timing = Timing.of(duration)
        assert timing.renew_deadline + timing.retry < timing.duration


def test_a_clock_that_stands_still(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewals are seen by the version of the Lease: one that writes the same time again and again is held."""
    server, told = Server(), list[tuple[str, bool]]()
    first, second = candidate(server, "a", told), candidate(server, "b", told)

    class Stopped(datetime):
        @classmethod
        def now(cls, _: object = None) -> Stopped:
            return cls(2026, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(lease_module, "datetime", Stopped)
    for _ in range(20):
        step(first, second)
        clock.now += 2
        assert (first.is_held, second.is_held) == (True, False)
    assert told == [("a", True)]
