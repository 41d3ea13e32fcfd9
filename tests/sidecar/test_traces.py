"""Traces: what a collector gets of a conversion, and that a conversion never waits for one."""

from __future__ import annotations

import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from format_operator.runtime.log import Log
from format_operator.sidecar.traces import Story, Traces
from format_store import Phase
from tests.sidecar.conftest import RECORDS
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, eventually
from tests.sidecar.scenes import assert_converted, environ, phase, wanted
from tests.support.databases import execute

STEPS = ["lock", "check", "settle", "build", "sync", "verify", "swap", "clean up"]


class Collector:
    """A receiver of OTLP over HTTP; each request is one conversion's spans."""

    def __init__(self) -> None:
        self.requests: queue.Queue[ExportTraceServiceRequest] = queue.Queue()
        received = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # http.server's name
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.put(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def trace(self) -> tuple[dict[str, Any], Span, dict[str, Span]]:
        """The resource of the next request, its outermost span, and the ones inside by name."""
        (resource,) = self.requests.get(timeout=30).resource_spans
        spans = [span for scope in resource.scope_spans for span in scope.spans]
        (root,) = [span for span in spans if not span.parent_span_id]
        inside = {span.name: span for span in spans if span.parent_span_id}
        assert len(inside) == len(spans) - 1
        return values(resource.resource.attributes), root, inside

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def values(attributes: Any) -> dict[str, Any]:
    def value(one: KeyValue) -> Any:
        return getattr(one.value, one.value.WhichOneof("value") or "string_value")

    return {one.key: value(one) for one in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@contextmanager
def deaf() -> Iterator[str]:
    """The address of a collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_conversion_is_a_trace(api: FakeApi, pod: Pod, collector: Collector) -> None:
    """One trace with a span for each phase, inside the conversion's in time, with its rows, bytes and id."""
    api.apply(wanted(pod))
    before = pod.database.stat().st_size
    with environ(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url):
        pod.sidecar()
    assert pod.gate().ends() == 0
    resource, root, spans = collector.trace()
    assert resource["service.name"] == "storageformat-sidecar"
    assert resource["k8s.pod.name"] == "orders-0"
    assert resource["k8s.namespace.name"] == "default"
    assert root.name == "conversion"
    assert list(spans) == STEPS
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert span.status.code == Status.STATUS_CODE_UNSET
    found = values(root.attributes)
    assert found == {
        "storageformat.name": "orders",
        "storageformat.database": str(pod.database),
        "storageformat.target": "v2",
        "storageformat.conversion": phase(api, "Converted")["lastConversion"]["conversionID"],
        "storageformat.outcome": "converted",
        "storageformat.rows": len(RECORDS),
        "storageformat.bytes_before": before,
        "storageformat.bytes_after": pod.database.stat().st_size,
    }
    assert values(spans["build"].attributes) == {"storageformat.rows": len(RECORDS)}


def test_a_failure_is_the_status(api: FakeApi, pod: Pod, collector: Collector) -> None:
    """The conversion's span, and that of the phase in which it ended, say why; others are well."""
    execute(pod.database, "INSERT INTO unnamed (key, value) VALUES ('/stray', 'no pickle')")
    api.apply(wanted(pod))
    with environ(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces"):
        pod.worker()
    pod.gate()
    _, root, spans = collector.trace()
    assert list(spans) == ["lock", "check"]
    assert values(root.attributes)["storageformat.reason"] == "UndeclaredFormat"
    assert spans["lock"].status.code == Status.STATUS_CODE_UNSET
    assert spans["check"].status.code == root.status.code == Status.STATUS_CODE_ERROR
    assert "its rows do not all fit" in root.status.message


def test_a_recovery_is_a_trace(api: FakeApi, pod: Pod, collector: Collector) -> None:
    """Of the conversion that a kill ended, by its id; one where nothing was to recover is none."""
    api.apply(wanted(pod))
    with environ(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url):
        with environ(KILL_AT="swap.after-fsync"):
            dying = pod.worker(driver="tests.sidecar.driver")
        gate = pod.gate()
        assert dying.ends() == -9
        pod.worker()
    assert gate.ends() == 0
    _, root, spans = collector.trace()
    assert (root.name, list(spans)) == ("recovery", ["lock", "recovery", "clean up"])
    found = values(root.attributes)
    assert found["storageformat.outcome"] == "completed"
    recovery = phase(api, "Converted")["lastRecovery"]
    assert found["storageformat.conversion"] == recovery["conversionID"]
    assert collector.requests.empty()


@pytest.mark.parametrize("kind", ["deaf", "away"])
def test_a_collector_that_does_not_answer(api: FakeApi, pod: Pod, kind: str) -> None:
    """Neither the gate nor the end of the worker waits for it, and the log says it once."""
    api.apply(wanted(pod))
    with deaf() as url:
        endpoint = url if kind == "deaf" else "http://127.0.0.1:9"
        with environ(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint):
            sidecar = pod.sidecar()
        assert pod.gate().ends() == 0
        assert_converted(pod.database)
        phase(api, "Converted")
        if kind == "away":
            sidecar.says("traces are not sent", within=60)
        sidecar.send(signal.SIGTERM)
        assert sidecar.ends() == 0
        # Had the supervisor lost its patience, that would have been by a signal.
        sidecar.says(r"worker ended pid=\d+ exit=0")
    assert sidecar.text().count("traces are not sent") == (kind == "away")


def test_nothing_of_it_without_a_collector(api: FakeApi, pod: Pod) -> None:
    """No variable, no package loaded, no thread; a variable that is empty, or switched off, counts as none."""
    off = Traces({}, Log(), {"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    also = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}
    before = threading.active_count()
    for traces in (off, Traces({}, Log(), {}), Traces({}, Log(), also)):
        traces.tell(Story("conversion", {}))
        traces.close(0)
    assert threading.active_count() == before
    api.apply(wanted(pod))
    worker = pod.worker()
    assert pod.gate().ends() == 0
    maps = Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
    assert "google/_upb" not in maps


def test_without_the_packages_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector is named and the extra is not installed: one line, and no more stories are kept."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    traces = Traces({}, Log(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    story = Story("conversion", {})
    story.phase(Phase.LOCKING)
    story.end()
    with caplog.at_level("INFO", logger="storageformat"):
        traces.tell(story)
        eventually(lambda: not traces.is_on)
        traces.tell(story)
    (record,) = caplog.records
    assert "the extra `otel` is not installed" in record.getMessage()


def test_too_many_stories_are_dropped() -> None:
    """A collector that hangs never makes the sidecar grow, nor wait."""
    with deaf() as url:
        traces = Traces({}, Log(), {"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        blocked = threading.Event()
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr(traces, "_run", blocked.wait)
            for _ in range(1000):
                traces.tell(Story("conversion", {}))
            assert traces._stories.qsize() == 100
            traces.close(0)
            blocked.set()
