"""What a Prometheus sees of the webhook."""

from __future__ import annotations

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

from format_operator.admission.review import Result

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class WebhookMetrics:
    """The registry of one webhook process."""

    def __init__(self, *, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # as it ships
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter(
            "storageformat_webhook_requests",
            "Requests of the API server by what became of them.",
            ("result",),
            registry=self.registry,
        )
        for result in Result:
            self.requests.labels(str(result))
        self.seconds = Histogram(
            "storageformat_webhook_request_duration_seconds",
            "How long the answers took.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.expiry = Gauge(
            "storageformat_webhook_certificate_expiry_timestamp_seconds",
            "When the certificate that is shown ends; 0: there is none.",
            registry=self.registry,
        )
        self.certificate_errors = Counter(
            "storageformat_webhook_certificate_errors",
            "Looks after the certificate that failed and are tried again.",
            registry=self.registry,
        )
        self.api_requests = Counter(
            "storageformat_webhook_api_requests",
            "Requests to the Kubernetes API; code none: no answer.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        info = Gauge(
            "storageformat_build_info",
            "The release that runs; always 1.",
            ("role", "version"),
            registry=self.registry,
        )
        info.labels("webhook", version).set(1)
