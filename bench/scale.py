"""A rollout over thousands of pods on a real API server: requests, watch deliveries, the controller's CPU and memory, time.

    bench/scale.py [--pods N ...] [--per N] [--json FILE]

The pods are stand-ins (``stand_ins.py``); API server, etcd and controller are real. ``--per`` pods share a StorageFormat, a tenth of
which may be unavailable at a time. Prints a table; the figures go to ``build/scale.json``, a plot beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from stand_ins import NAME, SharedTls, Tally, Workload

from controlplane import ControlPlane
from format_operator.api.names import API_VERSION
from tests.apiserver.controllers import Controllers, port_of
from tests.sidecar.pods import metrics
from tests.support.controlplane import DEPLOY, wait_for_policy
from tests.support.objects import storageformat

PATIENCE_SECONDS: Final = 3600.0
#: What a sidecar may ask for a conversion, and the controller's memory at five thousand.
GOALS: Final = {"requests": 8.0, "controller_mib": 200.0}
_AT_ONCE: Final = 8
_OBJECTS: Final = ("storageformats", "formatstates", "pods")


def measure(pods: int, per: int) -> dict[str, Any]:
    """One rollout of so many pods, on a control plane of its own."""
    with ControlPlane.started() as plane, tempfile.TemporaryDirectory() as folder:
        plane.install(DEPLOY)
        wait_for_policy(plane)
        controllers = Controllers(plane, Path(folder))
        try:
            # From this thread: its end would be that of the process.
            process = controllers.start()
            process.says("synced", within=60)
            return asyncio.run(Run(plane, pods, per).measured(process.pid, port_of(process)))
        finally:
            controllers.close()


@dataclass(frozen=True)
class Mark:
    """Everything that counts upwards, at one moment."""

    at: float
    sidecars: Counter[str]
    deliveries: Counter[str]
    controller: Counter[str]
    cpu_seconds: float
    sent: float

    def since(self, before: Mark, pods: int) -> dict[str, Any]:
        """Per pod, but for the seconds."""
        asked = self.sidecars - before.sidecars
        setup = {name: count for name, count in asked.items() if name.startswith(("list", "watch"))}
        unanswered = sum(count for name, count in asked.items() if name.endswith("none"))
        ours = self.controller - before.controller
        told = self.deliveries - before.deliveries
        return {
            "seconds": self.at - before.at,
            # Without the two watches, which a pod sets up once, however often it converts.
            "sidecar": (asked.total() - sum(setup.values()) - unanswered) / pods,
            "unanswered": unanswered / pods,
            "controller": ours.total() / pods,
            "sidecar_requests": _per(asked, pods),
            "controller_requests": _per(ours, pods),
            "sidecar_deliveries": told.total() / pods,
            "all_deliveries": (self.sent - before.sent) / pods,
            "controller_cpu_seconds": self.cpu_seconds - before.cpu_seconds,
        }


def _per(counts: Counter[str], pods: int) -> dict[str, float]:
    return {name: round(count / pods, 3) for name, count in sorted(counts.items())}


class Run:
    """The pods, and what is asked of them."""

    def __init__(self, plane: ControlPlane, pods: int, per: int) -> None:
        self._plane, self._pods, self._per = plane, pods, per
        self._tally = Tally()
        self._tls = SharedTls(
            plane.server, ca_file=str(plane.ca_file), static_token=plane.admin_token
        )
        self._workloads: dict[str, Workload] = {}
        self._peak = 0

    async def measured(self, pid: int, port: int) -> dict[str, Any]:
        async with aiohttp.ClientSession(
            base_url=self._plane.server,
            headers={"Authorization": f"Bearer {self._plane.admin_token}"},
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(ssl=self._tls.tls() or True, limit=50),
            read_bufsize=4 << 20,
        ) as self._admin:
            kubelet = asyncio.create_task(self._watch_pods())
            began = time.monotonic()
            await self._make()
            await self._until_all_are_in("v1")
            made = time.monotonic() - began
            watching = asyncio.create_task(self._watch_memory(pid))
            before = await self._mark(pid, port)
            await self._each(lambda one: self._patch(one.namespace, {"target": "v2"}))
            await self._until_all_are_in("v2")
            after = await self._mark(pid, port)
            for task in (watching, kubelet):
                task.cancel()
            for one in self._workloads.values():
                one.end()
        lying = sum((one.formats() for one in self._workloads.values()), Counter[str]())
        if lying != Counter(v2=self._pods):
            raise AssertionError(f"not everything was converted: {lying}")
        return {
            "pods": self._pods,
            "storageformats": len(self._workloads),
            "set_up_seconds": made,
            **after.since(before, self._pods),
            "controller_mib": self._peak / 2**20,
            "restarts": sum(one.restarts for one in self._workloads.values()) / self._pods,
        }

    async def _make(self) -> None:
        """Namespaces with a StatefulSet, ready pods, and a StorageFormat whose target is what they have."""
        for first in range(0, self._pods, self._per):
            name, count = f"shop-{first // self._per:04}", min(self._per, self._pods - first)
            self._workloads[name] = Workload(self._admin, self._tls, name, count, self._tally)

        async def one_of_them(one: Workload) -> None:
            body = storageformat(
                NAME,
                spec__target="v1",
                spec__rollout={"maxUnavailable": max(1, one.replicas // 10)},
            )
            await one.make(body)

        await self._each(one_of_them)

    async def _watch_pods(self) -> None:
        """What the controller of StatefulSets sees: who is gone."""
        async with self._admin.get("/api/v1/pods", params={"watch": "1"}) as stream:
            async for line in stream.content:
                event = json.loads(line)
                if event["type"] == "DELETED":
                    found = event["object"]["metadata"]
                    self._workloads[found["namespace"]].deleted(found["name"], found["uid"])

    async def _watch_memory(self, pid: int) -> None:
        while True:
            self._peak = max(self._peak, psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(0.5)

    async def _until_all_are_in(self, target: str) -> None:
        """Until every StorageFormat says so, of the spec as it is now."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        path = f"/apis/{API_VERSION}/storageformats"
        while time.monotonic() < deadline:
            async with self._admin.get(path) as answer:
                found = (await answer.json())["items"]
            if all(map(_is_ready, found)):
                return
            await asyncio.sleep(0.5)
        raise TimeoutError(f"not everything is in {target} within {PATIENCE_SECONDS:.0f} s")

    async def _mark(self, pid: int, port: int) -> Mark:
        scraped = await asyncio.to_thread(metrics, port)
        name = "storageformat_controller_api_requests_total"
        times = psutil.Process(pid).cpu_times()
        async with self._admin.get("/metrics") as answer:
            served = await answer.text()
        return Mark(
            time.monotonic(),
            Counter(self._tally.requests),
            Counter(self._tally.deliveries),
            Counter({key: int(value) for key, value in scraped.items() if key.startswith(name)}),
            times.user + times.system,
            sum(
                float(line.rpartition(" ")[2])
                for line in served.splitlines()
                if line.startswith("apiserver_watch_events_total{")
                and any(f'resource="{one}"' in line for one in _OBJECTS)
            ),
        )

    async def _each(self, work: Callable[[Workload], Awaitable[None]]) -> None:
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one_of_them(one: Workload) -> None:
            async with at_once:
                await work(one)

        async with asyncio.TaskGroup() as group:
            for one in self._workloads.values():
                group.create_task(one_of_them(one))

    async def _patch(self, namespace: str, spec: dict[str, Any]) -> None:
        path = f"/apis/{API_VERSION}/namespaces/{namespace}/storageformats/{NAME}"
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self._admin.patch(path, data=json.dumps({"spec": spec}), headers=headers) as one:
            one.raise_for_status()


def _is_ready(body: dict[str, Any]) -> bool:
    return any(
        (one["type"], one["status"]) == ("Ready", "True")
        and one["observedGeneration"] == body["metadata"]["generation"]
        for one in (body.get("status") or {}).get("conditions") or ()
    )


def table(results: list[dict[str, Any]]) -> str:
    columns = {
        "pods": "pods", "storageformats": "objects", "seconds": "settled (s)", "sidecar": "sidecar asks", "unanswered": "in vain", "controller": "controller asks",
        "sidecar_deliveries": "told per pod", "all_deliveries": "of all watches",
        "controller_cpu_seconds": "controller CPU (s)", "controller_mib": "controller (MiB)",
    }  # fmt: skip
    lines = ["  ".join(f"{text:>18}" for text in columns.values())]
    lines += [
        "  ".join(
            f"{one[key]:>18,.1f}" if isinstance(one[key], float) else f"{one[key]:>18,}"
            for key in columns
        )
        for one in results
    ]
    last = results[-1]
    lines += ["", f"per pod and conversion, at {last['pods']:,} pods:"]
    lines += [
        f"    {count:6.2f} sidecar: {name}" for name, count in last["sidecar_requests"].items()
    ]
    lines += [f"    {count:6.2f} {name}" for name, count in last["controller_requests"].items()]
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], file: Path) -> None:
    """Each figure over the number of pods; what should be a line through the origin is drawn with one."""
    import matplotlib as mpl  # slow, and for those who want a plot
    from matplotlib import pyplot as plt

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scale"
    pods = [one["pods"] for one in results]
    panels: list[tuple[str, list[float], float | None]] = [
        (
            "requests of a sidecar per conversion",
            [one["sidecar"] for one in results],
            GOALS["requests"],
        ),
        (
            "events that watches were sent, all",
            [one["all_deliveries"] * one["pods"] for one in results],
            None,
        ),
        (
            "controller: peak memory (MiB)",
            [one["controller_mib"] for one in results],
            GOALS["controller_mib"],
        ),
        ("controller: CPU (s)", [one["controller_cpu_seconds"] for one in results], None),
        ("from target to Ready (s)", [one["seconds"] for one in results], None),
    ]
    figure, grid = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    *axes, empty = grid.flat
    empty.set_axis_off()
    for axis, (title, values, limit) in zip(axes, panels, strict=True):
        axis.plot(pods, values, "o-", color="#2b6cb0")
        top = None
        if limit is not None:
            axis.axhline(limit, color="#c53030", linestyle="--", linewidth=1)
            axis.annotate("limit", (pods[0], limit), color="#c53030", va="bottom")
            top = max(limit, *values) * 1.15
        axis.set(title=title, xlabel="pods", ylim=(0, top), xlim=(0, None))
        axis.title.set_fontsize(10)
    figure.savefig(file, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, nargs="+", default=[1000, 2500, 5000])
    parser.add_argument("--per", type=int, default=100)
    parser.add_argument("--json", type=Path, default=Path("build/scale.json"))
    arguments = parser.parse_args()
    # Three connections for each pod, at both ends.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results = []
    for pods in arguments.pods:
        results.append(measure(pods, arguments.per))
        print(
            f"{pods} pods: settled in {results[-1]['seconds']:.0f} s", file=sys.stderr, flush=True
        )
    print(table(results))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    plot(results, arguments.json.with_suffix(".svg"))
    print(f"figures: {arguments.json}, plot: {arguments.json.with_suffix('.svg')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
