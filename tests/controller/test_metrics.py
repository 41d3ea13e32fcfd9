"""What a scrape of the controller tells of a StorageFormat, and when it stops telling it."""

from __future__ import annotations

from typing import Any

from format_operator.api.statuses import Condition
from format_operator.controller.app import Controller
from format_operator.controller.metrics import ControllerMetrics
from format_operator.controller.plan import RolloutPhase
from format_operator.controller.settings import ControllerSettings
from format_operator.controller.standing import Standing
from format_operator.runtime.credentials import Access
from format_operator.runtime.log import Log

KEY = ("shop", "orders")
DEGRADED = Condition("Degraded", "True", "2026-11-23T12:00:00Z", "SkewBlocked")
WELL = Condition("Degraded", "False", "2026-11-23T12:00:00Z", "AsExpected")


def series(metrics: ControllerMetrics, family: str) -> list[dict[str, Any]]:
    """The labels of the family's samples that are not 0."""
    return [
        sample.labels
        for found in metrics.registry.collect()
        for sample in found.samples
        if sample.name == f"storageformat_controller_{family}" and sample.value
    ]


def shown() -> ControllerMetrics:
    metrics = ControllerMetrics(version="1")
    metrics.show(KEY, {Standing.FAILED: 1}, RolloutPhase.STOPPED)
    metrics.show_conditions(KEY, [DEGRADED])
    metrics.evicted(KEY, "evicted")
    return metrics


def test_a_condition_is_shown_as_it_is_now() -> None:
    """The one before it is gone, so that nothing adds up two truths."""
    metrics = shown()
    of = {"storageformat_namespace": "shop", "storageformat": "orders", "condition": "Degraded"}
    bad = {**of, "status": "True", "reason": "SkewBlocked"}
    assert series(metrics, "condition") == [bad]
    metrics.show_conditions(KEY, [WELL])
    assert series(metrics, "condition") == [{**of, "status": "False", "reason": "AsExpected"}]


def test_who_stands_by_shows_nothing() -> None:
    """An instance that led until a moment ago would tell its last word for ever; its counters stay."""
    metrics = shown()
    metrics.stand_by()
    for family in ("condition", "pods", "rollout_phase"):
        assert series(metrics, family) == []
    assert len(series(metrics, "evictions_total")) == 1
    metrics.stand_by()
    metrics.forget(KEY)


def test_losing_the_lease_is_standing_by() -> None:
    """The controller does that by itself."""
    controller = Controller(ControllerSettings(), Access("http://api"), Log())
    controller.metrics.show(KEY, {}, RolloutPhase.STOPPED)
    controller._leading(held=False)
    assert series(controller.metrics, "rollout_phase") == []
