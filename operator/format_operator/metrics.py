"""What a Prometheus sees of a sidecar.

One ``DatabaseSeries`` per ``--database`` argument holds the facts; one collector turns them into metrics at each
scrape. Series are labelled by ``storageformat`` and ``database`` (the argument's path: a glob is one series, its
databases are added up), never by pod or namespace, which the scrape adds. Totals come from the volume's history,
so that they survive restarts of the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from format_operator.series import GAUGES, DatabaseSeries
from format_operator.settings import HANGS_VARIABLE, RESTARTS_VARIABLE

RECOVERY_OUTCOMES: Final = ("discarded", "completed", "restored", "cleaned", "failed")
CONVERSION_RESULTS: Final = ("succeeded", "failed", "refused", "aborted")
#: What the last attempt promises about a database that is not as it is wanted.
FAILURE_KINDS: Final = ("try-again", "refused", "failed", "attention")
_LABELS: Final = ("storageformat", "database")
_FORMAT_LABELS: Final = (*_LABELS, "format", "engine", "key_encoding", "value_codec", "compression")
_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class SidecarMetrics:
    """The registry of one sidecar worker."""

    def __init__(
        self,
        *,
        version: str,
        phases: Sequence[str],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # as it ships
        self.registry = CollectorRegistry()
        self.series: list[DatabaseSeries] = []
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.durations = Histogram(
            "storageformat_conversion_duration_seconds",
            "How long conversions took, from the lock to the clean-up.",
            _LABELS,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.api_requests = Counter(
            "storageformat_api_requests_total",
            "Requests to the Kubernetes API, without those of the watch; code none: no answer.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self._errors = Counter(
            "storageformat_scrape_errors_total",
            "Metric families that were left out of a scrape because collecting them failed.",
            registry=self.registry,
        )
        self._of_the_container(
            "restarts", "Workers of this container that ended unasked.", environ, RESTARTS_VARIABLE
        )
        self._of_the_container(
            "hangs",
            "Workers of this container that hung and were replaced.",
            environ,
            HANGS_VARIABLE,
        )
        self.registry.register(_SidecarCollector(self.series, version, phases, self._errors.inc))

    def _of_the_container(
        self, name: str, text: str, environ: Mapping[str, str], variable: str
    ) -> None:
        full = f"storageformat_worker_{name}_total"
        count = environ.get(variable, "")
        Counter(full, text, registry=self.registry).inc(int(count) if count.isdigit() else 0)

    def add(self, series: DatabaseSeries) -> DatabaseSeries:
        """Make the zeros of a database visible before anything happens to it."""
        self.series.append(series)
        self.durations.labels(*series.labels)
        return series


class _SidecarCollector(Collector):
    def __init__(
        self,
        series: Sequence[DatabaseSeries],
        version: str,
        phases: Sequence[str],
        failed: Callable[[], None],
    ) -> None:
        self._series = series
        self._version = version
        self._phases = tuple(phases)
        self._failed = failed

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        families: tuple[Callable[[], Metric], ...] = (
            self._build_info,
            self._backups_created,
            self._recoveries,
            self._conversions,
            self._phase,
            self._format,
            self._state,
            self._failing,
            self._backups_kept,
            self._watch_restarts,
            *(partial(self._gauge, *one) for one in GAUGES),
        )
        for family in families:
            # An exception here would cost the whole scrape, not only the family.
            try:
                metric = family()
            except Exception:
                self._failed()
            else:
                yield metric

    def _build_info(self) -> Metric:
        metric = GaugeMetricFamily(
            "storageformat_build_info",
            "The release that runs; always 1.",
            labels=("role", "version"),
        )
        metric.add_metric(("sidecar", self._version), 1)
        return metric

    def _gauge(
        self, name: str, text: str, value: Callable[[DatabaseSeries], float | None]
    ) -> Metric:
        metric = GaugeMetricFamily(f"storageformat_{name}", text, labels=_LABELS)
        for one in self._series:
            number = value(one)
            if number is not None:
                metric.add_metric(one.labels, number)
        return metric

    def _backups_created(self) -> Metric:
        metric = CounterMetricFamily(
            "storageformat_backups_created_total", "Backups that were made, ever.", labels=_LABELS
        )
        for one in self._series:
            metric.add_metric(one.labels, one.total("backups.created"))
        return metric

    def _recoveries(self) -> Metric:
        metric = CounterMetricFamily(
            "storageformat_recoveries_total",
            "Interrupted conversions that were recovered, by how that ended.",
            labels=(*_LABELS, "outcome"),
        )
        for one in self._series:
            for outcome in RECOVERY_OUTCOMES:
                metric.add_metric((*one.labels, outcome), one.total(f"recoveries.{outcome}"))
        return metric

    def _conversions(self) -> Metric:
        metric = CounterMetricFamily(
            "storageformat_conversions_total",
            "Conversions that ended, by how (refused: of this process only).",
            labels=(*_LABELS, "result"),
        )
        for one in self._series:
            for result in CONVERSION_RESULTS:
                count = one.refused if result == "refused" else one.total(f"conversions.{result}")
                metric.add_metric((*one.labels, result), count)
        return metric

    def _phase(self) -> Metric:
        metric = GaugeMetricFamily(
            "storageformat_conversion_phase",
            "Which phase of a conversion runs: 1 for that one, 0 for the others.",
            labels=(*_LABELS, "phase"),
        )
        for one in self._series:
            for phase in self._phases:
                metric.add_metric((*one.labels, phase), phase == one.phase)
        return metric

    def _format(self) -> Metric:
        metric = GaugeMetricFamily(
            "storageformat_database_format_info",
            "The format on disk, by its name in the StorageFormat; the value counts databases in it.",
            labels=_FORMAT_LABELS,
        )
        for one in self._series:
            for info, count in one.formats.items():
                values = (
                    info.name,
                    info.engine,
                    info.key_encoding,
                    info.value_codec,
                    info.compression,
                )
                metric.add_metric((*one.labels, *values), count)
        return metric

    def _state(self) -> Metric:
        metric = GaugeMetricFamily(
            "storageformat_state_info",
            "The phase that the FormatState reports, and its reason; always 1.",
            labels=(*_LABELS, "phase", "reason"),
        )
        for one in self._series:
            if one.state is not None:
                metric.add_metric((*one.labels, *one.state), 1)
        return metric

    def _failing(self) -> Metric:
        metric = GaugeMetricFamily(
            "storageformat_databases_failing",
            "Databases whose last attempt failed, by what that promises about them.",
            labels=(*_LABELS, "kind"),
        )
        for one in self._series:
            for kind in FAILURE_KINDS:
                metric.add_metric((*one.labels, kind), one.failing.get(kind, 0))
        return metric

    def _backups_kept(self) -> Metric:
        metric = GaugeMetricFamily(
            "storageformat_backups_kept",
            "Backups on the volume, pinned or to be deleted some time.",
            labels=(*_LABELS, "pinned"),
        )
        for one in self._series:
            pinned = sum(backup.pinned for backup in one.backups.values())
            metric.add_metric((*one.labels, "true"), pinned)
            metric.add_metric((*one.labels, "false"), len(one.backups) - pinned)
        return metric

    def _watch_restarts(self) -> Metric:
        metric = CounterMetricFamily(
            "storageformat_watch_restarts_total",
            "How often the watch of the StorageFormat ended and was begun anew.",
            labels=_LABELS,
        )
        for one in self._series:
            metric.add_metric(one.labels, max(0, one.watches() - 1))
        return metric
