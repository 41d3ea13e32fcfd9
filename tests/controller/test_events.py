"""Which events a pod's report makes: once each, with stable reasons, about the pod and about the StorageFormat."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from format_operator.api.models import Phase
from format_operator.api.statuses import NEEDS_PERSON
from format_operator.controller import events, objects
from format_operator.controller.effects import Effects
from format_operator.controller.events import Event, Seen, of_state
from format_operator.controller.facts import Ended, State
from format_operator.controller.metrics import ControllerMetrics
from format_operator.runtime.log import Log
from format_store import errors
from tests.controller.scenes import NOW, Scene, done, running, said, spec
from tests.controller.test_reconciler import KEY, Budgeted, Facts, reconciler_of
from tests.docs.test_docs import ROOT

POD = running(0)
SINCE = "2026-11-25T10:00:00Z"
BEFORE, AFTER = "2026-11-25T09:00:00Z", "2026-11-25T11:00:00Z"
CONVERTED = Ended(AFTER, "succeeded", "c1", "v1 → v2, 3 rows")


def story(*states: State, seen: Seen | None = None) -> list[list[Event]]:
    """The events of each report, one after the other."""
    told = []
    for state in states:
        seen, news = of_state(seen, state, SINCE)
        told.append(news)
    return told


def reasons(*states: State, seen: Seen | None = None) -> list[list[str]]:
    return [[one.reason for one in news] for news in story(*states, seen=seen)]


def test_a_conversion_is_told_once() -> None:
    """With what it did and its id; the same report again says nothing."""
    state = done(POD, conversion=CONVERTED)
    told = story(state, state, seen=Seen())
    assert told == [[Event("Normal", "ConversionSucceeded", "v1 → v2, 3 rows (c1)")], []]
    aborted = done(POD, conversion=Ended(AFTER, "aborted", "c2", "v1 → v2"))
    assert reasons(aborted, seen=Seen(CONVERTED)) == [["ConversionAborted"]]


def test_a_recovery_is_a_warning() -> None:
    """Nothing is lost, and something was interrupted."""
    ended = Ended(AFTER, "completed", "c1", "the new database was in place")
    told = story(done(POD, recovery=ended), seen=Seen())
    message = "completed: the new database was in place (c1)"
    assert told == [[Event("Warning", "ConversionRecovered", message)]]


@pytest.mark.parametrize(
    ("phase", "reason", "event"),
    [
        (Phase.REFUSED, "WrongUser", "ConversionRefused"),
        (Phase.FAILED, "OutOfSpace", "ConversionFailed"),
        *((Phase.FAILED, reason, "NeedsPerson") for reason in sorted(NEEDS_PERSON)),
    ],
)
def test_a_failure_is_told_with_its_reason(phase: Phase, reason: str, event: str) -> None:
    """Once, however often it is tried again; anew when it fails for another reason, or after it was well."""
    failed = said(POD, phase, reason)
    again = said(POD, Phase.CONVERTING, "Converting")
    told = story(failed, again, failed, done(POD), failed, seen=Seen())
    expected = [Event("Warning", event, f"{reason}: as it says")]
    assert told == [expected, [], [], [], expected]
    other = said(POD, Phase.REFUSED, "ReadOnly")
    assert reasons(failed, other, seen=Seen()) == [[event], ["ConversionRefused"]]


def test_what_another_instance_told_is_not_told_again() -> None:
    """A controller that begins to lead tells what happened since, also of reports that it sees for the first time."""
    old = done(POD, conversion=replace(CONVERTED, at=BEFORE), updated_at=BEFORE)
    assert reasons(old) == [[]]
    assert reasons(done(POD, conversion=CONVERTED)) == [["ConversionSucceeded"]]
    refused = said(POD, Phase.REFUSED, "WrongUser")
    assert reasons(replace(refused, updated_at=BEFORE)) == [[]]
    assert reasons(refused) == [["ConversionRefused"]]


def test_a_report_as_the_sidecar_writes_it() -> None:
    """The event's text is made of the FormatState's last conversion."""
    last = {
        "at": AFTER,
        "result": "succeeded",
        "from": "v1",
        "to": "v2",
        "rows": 3,
        "bytesBefore": 10,
        "bytesAfter": 5,
        "durationSeconds": 0.25,
        "conversionID": "c1",
    }
    recovery = {"at": AFTER, "outcome": "discarded", "conversionID": "c0", "detail": "x"}
    body: dict[str, Any] = {
        "metadata": {
            "namespace": "shop",
            "name": "orders.orders-0",
            "uid": "u",
            "resourceVersion": "1",
        },
        "status": {"lastConversion": last, "lastRecovery": recovery},
    }
    state = objects.state(body)
    assert state.conversion == Ended(
        AFTER, "succeeded", "c1", "v1 → v2, 3 rows, 10 → 5 bytes, 0.2 s"
    )
    assert state.recovery == Ended(AFTER, "discarded", "c0", "x")
    body["status"] = {"lastConversion": {"result": "refused"}}
    found = objects.state(body).conversion
    assert found is not None
    assert (found.result, found.detail) == ("refused", "an unknown format → ?")


def test_the_reasons_that_need_a_person_are_the_stores() -> None:
    """The controller cannot import the store: the list is compared here."""

    def names(kind: type[errors.StoreError]) -> set[str]:
        return {kind.__name__}.union(*(names(below) for below in kind.__subclasses__()))

    assert names(errors.NeedsAttention) == NEEDS_PERSON


class Told(Budgeted):
    """An API server that keeps the events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    async def create_event(self, namespace: str, body: dict[str, Any]) -> None:
        assert body["metadata"]["namespace"] == namespace
        self.events.append(body)


def test_both_get_it() -> None:
    """Whoever describes the pod or the StorageFormat finds it, with the other's name in the message."""
    api = Told()
    effects = Effects(
        api,  # type: ignore[arg-type] # as much as is needed
        Facts(Scene([POD])),  # type: ignore[arg-type] # as above
        ControllerMetrics(version="1"),
        Log(),
        lambda: NOW,
    )
    event = Event("Warning", "ConversionRefused", "WrongUser: x")
    asyncio.run(effects.tell_of_pod(spec(), done(POD), event))
    about = {one["involvedObject"]["kind"]: one for one in api.events}
    pod = about["Pod"]["involvedObject"]
    assert (pod["name"], pod["uid"], pod["apiVersion"]) == ("orders-0", POD.uid, "v1")
    assert about["Pod"]["message"] == "StorageFormat orders: WrongUser: x"
    assert about["StorageFormat"]["message"] == "pod orders-0: WrongUser: x"
    assert {one["reason"] for one in api.events} == {"ConversionRefused"}


def test_a_pass_tells_what_is_new() -> None:
    """The reconciler does so once, and anew only what happened after it began to lead."""
    pods = [running(one) for one in range(3)]
    api = Told()
    late = replace(CONVERTED, at="2999-01-01T00:00:00Z")
    facts = Facts(Scene(pods, states=[done(one, conversion=late) for one in pods]))
    reconciler = reconciler_of(api, facts)
    for _ in range(2):
        asyncio.run(reconciler._pass(KEY))
    told = [one for one in api.events if one["reason"] == "ConversionSucceeded"]
    assert len(told) == 6
    facts.scene = Scene(pods, states=[done(one, conversion=CONVERTED) for one in pods])
    reconciler._since = "2999-01-01T00:00:00Z"
    reconciler._seen.clear()
    asyncio.run(reconciler._pass(KEY))
    assert [one for one in api.events if one["reason"] == "ConversionSucceeded"] == told


def test_the_reasons_are_documented() -> None:
    """docs/rollout.md lists the events of pods, and no other."""
    text = (ROOT / "docs/rollout.md").read_text()
    table = text[text.index("| event of a pod |") :].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(events.OF_PODS)
