"""What a Prometheus sees of the controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from format_operator.api.statuses import Condition
from format_operator.controller.plan import RolloutPhase
from format_operator.controller.standing import Standing

_LABELS: Final = ("storageformat_namespace", "storageformat")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
EVICTION_RESULTS: Final = ("evicted", "refused", "gone", "failed")

Key = tuple[str, str]


class ControllerMetrics:
    """The registry of one controller. Where it runs itself is what scraping adds, hence no label `namespace`."""

    def __init__(self, *, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # as it ships
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        gauge, counter = self._gauge, self._counter
        self._pods = gauge("pods", "Pods by where they stand.", (*_LABELS, "state"))
        self._phase = gauge(
            "rollout_phase",
            "Which phase a rollout is in: 1 for that one, 0 for the others.",
            (*_LABELS, "phase"),
        )
        self._condition = gauge(
            "condition",
            "A condition of the StorageFormat as it is now; always 1.",
            (*_LABELS, "condition", "status", "reason"),
        )
        self._conditions: dict[Key, set[tuple[str, str, str]]] = {}
        self._shown: set[Key] = set()
        self._evictions = counter("evictions", "Evictions asked for.", (*_LABELS, "result"))
        self.reconcile_errors = counter(
            "reconcile_errors", "Reconciliations that failed and are tried again.", ()
        )
        self.reconcile_seconds = Histogram(
            "storageformat_controller_reconcile_duration_seconds",
            "How long reconciliations of one StorageFormat took.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.api_requests = counter(
            "api_requests",
            "Requests to the Kubernetes API, without those of the watch; code none: no answer.",
            ("verb", "resource", "code"),
        )
        self.leading = gauge("leading", "Whether this instance acts (1) or stands by (0).", ())
        self.listed_at = gauge(
            "last_list_timestamp_seconds", "When that kind was last listed in full.", ("resource",)
        )
        self.watch_restarts = counter(
            "watch_restarts", "How often the watch ended and was begun anew.", ()
        )
        self.watched = gauge("watched_objects", "Objects in the cache.", ("resource",))
        info = Gauge(
            "storageformat_build_info",
            "The release that runs; always 1.",
            ("role", "version"),
            registry=self.registry,
        )
        info.labels("controller", version).set(1)

    def show(self, key: Key, counts: Mapping[Standing, int], phase: RolloutPhase) -> None:
        """The state of one StorageFormat."""
        self._shown.add(key)
        for standing in Standing:
            self._pods.labels(*key, str(standing)).set(counts.get(standing, 0))
        for one in RolloutPhase:
            self._phase.labels(*key, str(one)).set(one is phase)
        for result in EVICTION_RESULTS:
            self._evictions.labels(*key, result)

    def show_conditions(self, key: Key, conditions: Iterable[Condition]) -> None:
        """What the status says; a condition that was otherwise before is no more."""
        now = {(one.type, one.status, one.reason) for one in conditions}
        for gone in self._conditions.get(key, set()) - now:
            self._remove(self._condition, (*key, *gone))
        for one in now:
            self._condition.labels(*key, *one).set(1)
        self._conditions[key] = now

    def stand_by(self) -> None:
        """Another instance leads: what this one knew would be shown for ever beside what is so."""
        for key in list(self._shown):
            self.forget(key)

    def forget(self, key: Key) -> None:
        """A StorageFormat is gone; its counters stay, as counters do."""
        self._shown.discard(key)
        self.show_conditions(key, ())
        del self._conditions[key]
        for standing in Standing:
            self._remove(self._pods, (*key, str(standing)))
        for one in RolloutPhase:
            self._remove(self._phase, (*key, str(one)))

    def evicted(self, key: Key, result: str) -> None:
        """An eviction was asked for."""
        self._evictions.labels(*key, result).inc()

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        full = f"storageformat_controller_{name}"
        return Gauge(full, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        full = f"storageformat_controller_{name}"
        return Counter(full, text, labels, registry=self.registry)

    @staticmethod
    def _remove(metric: Gauge, labels: tuple[str, ...]) -> None:
        try:
            metric.remove(*labels)
        except KeyError:
            return  # never shown
