"""One pass over one StorageFormat: what is decided is done, and what is said is what came of it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from format_operator.controller.cache import Key, Watched
from format_operator.controller.cluster import Waits
from format_operator.controller.effects import Effects
from format_operator.controller.facts import Pod, Snapshot
from format_operator.controller.metrics import ControllerMetrics
from format_operator.controller.reconciler import Reconciler
from format_operator.runtime.log import Log
from tests.controller.scenes import NOW, Scene, armed, done, old, running, spec
from tests.support.objects import storageformat

KEY: Key = ("shop", "orders")
VERSION = 7


class Facts:
    """As much of a cache as one pass needs."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        body = storageformat("orders")
        body["metadata"] |= {"namespace": "shop", "uid": "sf-uid", "resourceVersion": "7"}
        self.body = body

    def storageformat(self, key: Key) -> Watched:
        assert key == KEY
        return Watched(self.body, spec())

    def snapshot(self, *_: Any) -> Snapshot:
        return self.scene.snapshot()

    def refused(self, pod: Pod, until: datetime, why: str) -> None:
        self.scene.refused[pod.uid] = (until, why)

    def version(self, *_: Any) -> int:
        return VERSION

    def answered(self, kind: str, body: dict[str, Any]) -> None:
        # As the server has it: a merge patch.
        if kind == "storageformats":
            self.body = {**self.body, "status": body["status"]}

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Budgeted:
    """An API server with a PodDisruptionBudget that forbids every eviction.

    With ``news``, FormatStates have changed and the watch has not brought it yet.
    """

    def __init__(self, *, news: bool = False) -> None:
        self.news = news
        self.asked: list[str] = []
        self.reported: list[dict[str, Any]] = []

    async def evict(self, name: str, *_: Any) -> None:
        self.asked.append(name)
        raise Waits("evict", "the budget says no", 10.0)

    async def get(self, *_: Any) -> dict[str, Any]:
        return {"metadata": {"resourceVersion": str(VERSION + self.news)}}

    async def patch_storageformat_status(self, *words: Any) -> dict[str, Any]:
        self.reported.append(words[-1])
        return {"status": words[-1]}

    def __getattr__(self, name: str) -> Any:
        async def done(*_: Any) -> dict[str, Any]:
            return {"spec": {}}

        return done


def reconciler_of(api: Budgeted, facts: Facts | None = None) -> Reconciler:
    """Of three pods that run on v1, the last of them armed with its permit, unless told otherwise."""
    pods = [running(one) for one in range(3)]
    facts = facts or Facts(Scene(pods, states=[old(pods[0]), old(pods[1]), armed(pods[2])]))
    metrics = ControllerMetrics(version="1")
    effects = Effects(api, facts, metrics, Log(), lambda: NOW)  # type: ignore[arg-type] # as much as is needed
    return Reconciler(
        facts,  # type: ignore[arg-type] # as above
        effects,
        metrics,
        Log(),
        now=lambda: NOW,
        may_act=lambda: True,
        permit_seconds=3600.0,
        resync=300.0,
    )


def test_a_budgets_no_is_said_at_once_and_asked_again_when_it_said_to() -> None:
    """A refusal makes no event that would wake anybody: the pass itself has to see what follows from it."""
    api = Budgeted()
    again = asyncio.run(reconciler_of(api)._pass(KEY))
    assert api.asked == ["orders-2"]
    assert [one["rollout"]["phase"] for one in api.reported] == ["WaitingForDisruptionBudget"]
    assert "the budget says no" in api.reported[0]["rollout"]["message"]
    assert again == 10.0


def test_nobody_is_evicted_on_an_old_report() -> None:
    """A watch that lags may still show a pod as armed that has converted: its FormatState must not have changed."""
    api = Budgeted(news=True)
    asyncio.run(reconciler_of(api)._pass(KEY))
    assert api.asked == []


def test_a_phase_alone_is_not_written_at_once() -> None:
    """Every sidecar gets each version of the status: only what people wait for is written more often."""
    pods = [running(one) for one in range(3)]
    api = Budgeted()
    facts = Facts(Scene(pods, states=[old(one) for one in pods]))
    one = reconciler_of(api, facts)
    asyncio.run(one._pass(KEY))
    facts.scene = Scene(pods, states=[old(pods[0]), old(pods[1]), armed(pods[2])])
    asyncio.run(one._pass(KEY))
    assert [said["rollout"]["phase"] for said in api.reported] == ["Arming"]
    facts.scene = Scene(pods, states=[done(pods[0]), done(pods[1]), done(pods[2])])
    asyncio.run(one._pass(KEY))
    assert [said["rollout"]["phase"] for said in api.reported] == ["Arming", "Complete"]


def test_events_in_an_outage_make_the_wait_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each retry that was waited for waits twice as long as the one before; what happened meanwhile does not count."""
    clock = [100.0]
    monkeypatch.setattr("format_operator.controller.reconciler.time.monotonic", lambda: clock[0])
    one = reconciler_of(Budgeted())
    waits = []
    for later in (0.0, 0.25, 0.25, 0.5, 0.5, 1.5, 4.0):
        clock[0] += later
        waits.append(one._back_off(KEY))
    assert waits == [1.0, 0.75, 0.5, 2.0, 1.5, 4.0, 8.0]
