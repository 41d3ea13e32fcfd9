"""What a Prometheus sees of a sidecar.

One ``DatabaseSeries`` per ``--database`` argument holds the facts; one collector turns them into metrics at each
scrape. Series are labelled by ``storageformat`` and ``database`` (the argument's path: a glob is one series, its
databases are added up), never by pod or namespace, which the scrape adds. Totals come from the volume's history,
so that they survive restarts of the process.
"""

from __future__ import annotations

import calendar
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

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

RECOVERY_OUTCOMES: Final = ("discarded", "completed", "restored", "cleaned", "failed")
CONVERSION_RESULTS: Final = ("succeeded", "failed", "refused", "aborted")
_LABELS: Final = ("storageformat", "database")
_FORMAT_LABELS: Final = (*_LABELS, "format", "engine", "key_encoding", "value_codec", "compression")
_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass(frozen=True)
class FormatInfo:
    """One format on disk and how many databases are in it."""

    name: str
    engine: str
    key_encoding: str
    value_codec: str
    compression: str


class BackupLike(Protocol):
    """What is read of a backup: bytes, and an RFC 3339 time in UTC."""

    @property
    def size(self) -> int: ...

    @property
    def created_at(self) -> str: ...


@dataclass
class DatabaseSeries:
    """The facts about one argument. Attributes are replaced, never changed in place: scrapes read meanwhile."""

    storageformat: str
    database: str
    paths: tuple[str, ...] = ()
    backups: Mapping[str, BackupLike] = field(default_factory=dict)
    totals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    refused: int = 0
    last_recovery_at: str | None = None
    last_success_at: str | None = None
    progress: float = 0.0
    phase: str = "idle"
    formats: Mapping[FormatInfo, int] = field(default_factory=dict)
    gate_open: bool = False
    restart_required: bool = False

    @property
    def labels(self) -> tuple[str, str]:
        return self.storageformat, self.database

    def total(self, key: str) -> int:
        """Over all databases of the argument, those included that are gone: a total never falls."""
        return sum(totals.get(key, 0) for totals in self.totals.values())

    def size_bytes(self) -> int:
        return sum(_size(path) for path in self.paths)


class SidecarMetrics:
    """The registry of one sidecar worker."""

    def __init__(self, *, version: str, phases: Sequence[str]) -> None:
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
        self.registry.register(_SidecarCollector(self.series, version, phases, self._errors.inc))

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
        for family in (
            self._build_info,
            self._backup_present,
            self._backup_size,
            self._backup_created,
            self._backups_created,
            self._recoveries,
            self._last_recovery,
            self._conversions,
            self._last_success,
            self._progress,
            self._phase,
            self._size,
            self._format,
            self._gate_open,
            self._restart_required,
        ):
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

    def _backup_present(self) -> Metric:
        return self._gauge(
            "backup_present",
            "Whether the volume holds a backup (1) or not (0).",
            lambda one: bool(one.backups),
        )

    def _backup_size(self) -> Metric:
        return self._gauge(
            "backup_size_bytes",
            "Size of the backups on the volume.",
            lambda one: sum(backup.size for backup in one.backups.values()),
        )

    def _backup_created(self) -> Metric:
        return self._gauge(
            "backup_created_timestamp_seconds",
            "When the oldest backup on the volume was made; absent without one.",
            lambda one: min(
                (_timestamp(backup.created_at) or 0.0 for backup in one.backups.values()),
                default=None,
            ),
        )

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

    def _last_recovery(self) -> Metric:
        return self._gauge(
            "last_recovery_timestamp_seconds",
            "When an interrupted conversion was last recovered; absent if never.",
            lambda one: _timestamp(one.last_recovery_at),
        )

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

    def _last_success(self) -> Metric:
        return self._gauge(
            "last_success_timestamp_seconds",
            "When a conversion last succeeded; absent if never.",
            lambda one: _timestamp(one.last_success_at),
        )

    def _progress(self) -> Metric:
        return self._gauge(
            "conversion_progress_ratio",
            "How far the running conversion is within its phase, 0 to 1.",
            lambda one: one.progress,
        )

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

    def _size(self) -> Metric:
        return self._gauge(
            "database_size_bytes", "Size of the database files.", DatabaseSeries.size_bytes
        )

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

    def _gate_open(self) -> Metric:
        return self._gauge(
            "gate_open",
            "Whether the app may run (1) or is held back by the gate (0).",
            lambda one: one.gate_open,
        )

    def _restart_required(self) -> Metric:
        return self._gauge(
            "restart_required",
            "Whether a conversion waits for a restart of the pod (1).",
            lambda one: one.restart_required,
        )


def _timestamp(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
