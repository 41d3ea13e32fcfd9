"""A trace of each conversion for OpenTelemetry, where ``OTEL_EXPORTER_OTLP_ENDPOINT`` names a collector.

    conversion ─┬─ lock  recovery  check  settle  build  sync  verify  swap  clean up

A conversion only notes times. When it is over, its story goes to a thread of its own, which loads the
OpenTelemetry packages (the extra ``otel``), makes spans of it and sends them: a collector that is slow, away or
wrong costs a trace, and never a moment of a conversion.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from format_operator import __version__
from format_operator.runtime.log import Log
from format_store import Phase

#: Stories that wait for a collector; a further one is dropped.
_WAITING: Final = 100
_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NAMES: Final = {
    Phase.LOCKING: "lock",
    Phase.RECOVERING: "recovery",
    Phase.CHECKING: "check",
    Phase.SETTLING: "settle",
    Phase.BUILDING: "build",
    Phase.SYNCING: "sync",
    Phase.VERIFYING: "verify",
    Phase.SWAPPING: "swap",
    Phase.CLEANING: "clean up",
}

#: Names of stories.
CONVERSION: Final = "conversion"
RECOVERY: Final = "recovery"

Attributes = dict[str, str | int | float | bool]


@dataclass
class Step:
    """One phase. Times in nanoseconds since the epoch."""

    name: str
    began: int
    ended: int = 0
    attributes: Attributes = field(default_factory=dict)


@dataclass
class Story:
    """What is noted of one conversion or recovery. ``error``: how it failed, in one line; empty where it did not."""

    name: str
    attributes: Attributes
    began: int = field(default_factory=time.time_ns)
    ended: int = 0
    steps: list[Step] = field(default_factory=list)
    error: str = ""

    def phase(self, phase: Phase) -> None:
        """The phase before is over; idle begins none."""
        now = time.time_ns()
        self._close(now)
        if phase is not Phase.IDLE:
            self.steps.append(Step(_NAMES[phase], now))

    def rows(self, done: int) -> None:
        """So many rows in the present phase."""
        if self.steps:
            self.steps[-1].attributes["storageformat.rows"] = done

    def end(self, error: str = "", **attributes: str | float | bool) -> None:
        self.ended = time.time_ns()
        self._close(self.ended)
        self.error = error
        self.attributes |= {f"storageformat.{key}": value for key, value in attributes.items()}

    def _close(self, now: int) -> None:
        if self.steps and not self.steps[-1].ended:
            self.steps[-1].ended = now


class Traces:
    """Takes stories and sends them, if anybody wants them. ``process``: attributes of the resource."""

    def __init__(
        self, process: Mapping[str, str], log: Log, environ: Mapping[str, str] = os.environ
    ) -> None:
        wanted = any(environ.get(name) for name in _VARIABLES)
        self.is_on = wanted and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
        self._process = process
        self._log = log
        self._stories: queue.Queue[Story | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._said = ""

    def tell(self, story: Story) -> None:
        """Send it some time. Returns at once, and never raises."""
        if not self.is_on:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
            self._thread.start()
        try:
            self._stories.put_nowait(story)
        except queue.Full:
            self._say("too many wait for the collector; this one is dropped")

    def close(self, timeout: float) -> None:
        """Give what waits so many seconds to be sent."""
        if self._thread is None:
            return
        try:
            self._stories.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        exporter: Any = None
        while (story := self._stories.get()) is not None:
            try:
                exporter = exporter or _Exporter(self._process)
                self._say(exporter.send(story))
            except ImportError as error:
                self._say(f"the extra `otel` is not installed: {error}")
                self.is_on = False
                return
            except Exception as error:
                self._say(f"{type(error).__name__}: {error}")

    def _say(self, problem: str) -> None:
        """Once per change: a collector that is away for hours is one line."""
        if problem != self._said:
            self._said = problem
            if problem:
                self._log.warning("traces are not sent", error=problem)
            else:
                self._log.info("traces are sent again")


class _Exporter:
    """Spans by the SDK, over HTTP. Raises ImportError without the packages."""

    def __init__(self, process: Mapping[str, str]) -> None:
        import logging

        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        # What goes wrong is told by us, once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        name = os.environ.get("OTEL_SERVICE_NAME") or "storageformat-sidecar"
        fixed = {"service.name": name, "service.version": __version__}
        provider = TracerProvider(
            resource=Resource.create({**fixed, **process}), shutdown_on_exit=False
        )
        self._finished = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._finished))
        self._tracer = provider.get_tracer("format_operator", __version__)
        self._exporter = OTLPSpanExporter()
        self._good = SpanExportResult.SUCCESS

    def send(self, story: Story) -> str:
        """What went wrong; nothing if it is sent."""
        spans = self._spans(story)
        if self._exporter.export(spans) is self._good:
            return ""
        return "the collector does not take them"

    def _spans(self, story: Story) -> Sequence[Any]:
        """All spans of one story, in one request."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        root = self._tracer.start_span(
            story.name, Context(), attributes=story.attributes, start_time=story.began
        )
        inside = trace.set_span_in_context(root, Context())
        for step in story.steps:
            span = self._tracer.start_span(
                step.name, inside, attributes=step.attributes, start_time=step.began
            )
            if story.error and step is story.steps[-1]:
                span.set_status(trace.Status(trace.StatusCode.ERROR, story.error))
            span.end(step.ended)
        if story.error:
            root.set_status(trace.Status(trace.StatusCode.ERROR, story.error))
        root.end(story.ended)
        spans = self._finished.get_finished_spans()
        self._finished.clear()
        return spans
