"""What a sidecar costs a pod: memory, time at the start, requests to the API server.

Real processes, the tests' API server on this machine. ``cold start``: from starting sidecar and gate together to
the gate's exit, with nothing to convert; both files' bytecode is cached, as in an image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "operator"), str(ROOT / "store")]

import format_store  # noqa: E402 # found through the path above
from tests.sidecar.conftest import fill  # noqa: E402 # as above
from tests.sidecar.fake_api import FakeApi, Seen  # noqa: E402 # as above
from tests.sidecar.pods import Pod, Process, eventually  # noqa: E402 # as above
from tests.support.objects import storageformat  # noqa: E402 # as above

LIMITS = {"worker_rss_mib": 80, "cold_start_seconds": 1.5, "writes_in_idle_minute": 0}
STATE = "orders.orders-0"
STARTS = 7


def run(idle_seconds: float = 60.0) -> dict[str, Any]:
    """All measurements; ``ok`` tells whether every limit holds."""
    # As in an image: compiling kopf at every start would cost a second and 20 MB.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "pycache")
    _cold_start()
    starts = [_cold_start() for _ in range(STARTS)]
    results: dict[str, Any] = {
        "cold_start_seconds": round(statistics.median(starts), 3),
        "cold_starts_seconds": [round(one, 3) for one in starts],
        "gate_alone_seconds": round(_python_start(), 3),
        **_one_life(idle_seconds),
    }
    results["limits"] = LIMITS
    results["ok"] = all(results[name] <= limit for name, limit in LIMITS.items())
    return results


def table(results: dict[str, Any]) -> str:
    """For people."""
    rows = [
        ("worker, idle, RSS (MiB)", results["worker_rss_mib"], "≤ 80"),
        ("worker, peak RSS (MiB)", results["worker_peak_rss_mib"], ""),
        ("supervisor, RSS (MiB)", results["supervisor_rss_mib"], ""),
        ("gate, RSS (MiB)", results["gate_rss_mib"], ""),
        ("cold start to open gate, median (s)", results["cold_start_seconds"], "≤ 1.5"),
        ("API writes in an idle minute", results["writes_in_idle_minute"], "= 0"),
        ("API requests for a conversion, ours", results["requests_for_a_conversion"], "≤ 8"),
        ("  of these writes", results["writes_for_a_conversion"], ""),
        ("API requests to set up the watch, once", results["requests_to_watch"], ""),
    ]
    lines = [f"{'sidecar':<42}{'':>10}  limit"]
    lines += [f"{name:<42}{value:>10}  {limit}" for name, value, limit in rows]
    return "\n".join(lines)


def _cold_start() -> float:
    """Seconds from starting both processes to the gate's exit; the database is in the target already."""
    with tempfile.TemporaryDirectory() as folder:
        api = FakeApi()
        pod = _pod(api, Path(folder))
        format_store.convert(pod.database, _target())
        try:
            began = time.perf_counter()
            pod.sidecar()
            gate = pod.gate()
            assert gate.ends() == 0
            return time.perf_counter() - began
        finally:
            pod.close()
            api.close()


def _python_start() -> float:
    """What the interpreter and the gate's imports take of it."""
    command = [sys.executable, "-m", "format_operator", "gate", "--help"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        Process(command, Path(folder) / "log").ends()
        return time.perf_counter() - began


def _one_life(idle_seconds: float) -> dict[str, Any]:
    """A conversion, the watch, and then nothing for a while."""
    with tempfile.TemporaryDirectory() as folder:
        api = FakeApi()
        pod = _pod(api, Path(folder))
        try:
            sidecar = pod.sidecar()
            gate = pod.gate()
            gate.says("gate=closed")
            gate_rss = _memory(gate.pid, "VmRSS")
            assert gate.ends() == 0
            eventually(lambda: api.status(STATE).get("gate") == "Open")
            eventually(lambda: api.watching("storageformats") and api.watching("formatstates"))
            seen = list(api.requests)
            worker = int(re.findall(r"worker started pid=(\d+)", sidecar.text())[-1])
            time.sleep(idle_seconds)
            idle = api.requests[len(seen) :]
            by_kind = Counter(_kind(one) for one in seen)
            return {
                "worker_rss_mib": _memory(worker, "VmRSS"),
                "worker_peak_rss_mib": _memory(worker, "VmHWM"),
                "supervisor_rss_mib": _memory(sidecar.pid, "VmRSS"),
                "gate_rss_mib": gate_rss,
                "idle_seconds": idle_seconds,
                "writes_in_idle_minute": sum(one.is_write for one in idle),
                "reads_in_idle_minute": sum(not one.is_write for one in idle),
                "requests_for_a_conversion": by_kind["ours"] + by_kind["write"],
                "writes_for_a_conversion": by_kind["write"],
                "requests_to_watch": by_kind["kopf"],
            }
        finally:
            pod.close()
            api.close()


def _pod(api: FakeApi, folder: Path) -> Pod:
    pod = Pod(folder, api.url)
    fill(pod.database)
    api.apply(
        storageformat(
            spec__database__path=str(pod.database), spec__rollout={"strategy": "OnRestart"}
        )
    )
    return pod


def _target() -> format_store.Format:
    return format_store.Format.from_spec(storageformat()["spec"]["formats"][1])


def _kind(seen: Seen) -> str:
    """kopf asks for discovery, lists and watches; our own requests name an object."""
    if seen.is_write:
        return "write"
    names_an_object = "/namespaces/" in seen.path and not seen.path.endswith(
        ("/storageformats", "/formatstates")
    )
    return "ours" if names_an_object else "kopf"


def _memory(pid: int, key: str) -> float:
    """MiB of a process, from the kernel's accounts."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise LookupError(key)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--idle", type=float, default=60.0, help="seconds to watch an idle sidecar")
    results = run(parser.parse_args().idle)
    print(json.dumps(results, indent=2))
    print(table(results))
    return 0 if results["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
