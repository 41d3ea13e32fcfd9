"""A sidecar for minutes under edits, conversions and watches that are cut; and a thousand StorageFormats.

Memory, descriptors and threads of supervisor and worker are a flat line once it is warm. What is told about a thousand
objects are figures: what they cost the controller, and that they cost a sidecar nothing.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from statistics import fmean, linear_regression
from typing import Final

from controlplane import ControlPlane
from controlplane.client import wait_until
from tests.apiserver.controllers import Controllers
from tests.apiserver.faulty import Fault, Faulty
from tests.apiserver.sidecars import DEPLOY, FORMATS, Cluster, Sidecar, assert_holds, wanted
from tests.proof.report import Report
from tests.sidecar.pods import pass_gate
from tests.support.controlplane import wait_for_policy
from tests.support.objects import storageformat
from tests.support.processes import Held

ROUNDS: Final = 800
#: The history that each of them reads has all of its hundred lines, and every kind of wrong answer has been met.
WARM_UP_ROUNDS: Final = 200
CUT_SECONDS: Final = 3.0
#: From then on, per process.
GROWTH_BYTES: Final = 2 << 20
MANY: Final = 1000
PATIENCE: Final = 120.0

Line = Sequence[tuple[float, float]]


def rises(line: Line, bound: float) -> str:
    """Why a line of (time, value) is not flat: by its slope over its length, and its last third against its first."""
    times, values = zip(*line, strict=True)
    slope = linear_regression(times, values).slope * (times[-1] - times[0])
    third = len(values) // 3
    step = fmean(values[-third:]) - fmean(values[:third])
    if slope > bound and step > bound / 2:
        return f"rises by {slope:,.0f} ({step:,.0f} from the first to the last third)"
    return ""


def long(report: Report) -> None:
    """Minutes of conversions, and a thousand objects."""
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane.started())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(redirect_stdout(io.StringIO()))
        plane.install(DEPLOY)
        wait_for_policy(plane)
        _soak(report, plane, folder / "soak", ROUNDS)
        _many(report, plane, folder / "many")


def _soak(report: Report, plane: ControlPlane, folder: Path, rounds: int) -> None:
    begun = time.monotonic()
    samples: dict[str, list[tuple[float, Held]]] = {"supervisor": [], "worker": []}
    with (
        Faulty(plane) as faulty,
        Cluster(plane, plane.create_namespace("soak"), folder, faulty.url) as cluster,
    ):
        pod = cluster.pod(resync="5", api_wait="60")
        cluster.create(wanted(pod))
        sidecar = cluster.sidecar(pod)
        worker = sidecar.worker
        cut_at = begun + CUT_SECONDS
        for number in range(rounds):
            now = time.monotonic()
            target = ("v2", "v3")[number % 2]
            cluster.change(target=target)
            pass_gate(pod, within=PATIENCE)
            assert_holds(pod.database, target)
            if now >= cut_at:
                cut_at = now + CUT_SECONDS
                if number % 4 == 0:
                    faulty.fail(Fault.WATCH_EXPIRED, "watch formatstates")
                faulty.fail(Fault.INTERNAL, "patch formatstates/status")
                faulty.cut()
            if number >= WARM_UP_ROUNDS:
                samples["supervisor"].append((now, Held.by(sidecar.process.pid)))
                samples["worker"].append((now, Held.by(worker)))
        restarted = sidecar.worker != worker
    found = [f"{who}: {why}" for who, line in samples.items() for why in _growth(line)]
    found += ["the worker was restarted"] if restarted else []
    for one in found:
        report.progress(one)
    last = samples["worker"][-1][1]
    report.add(
        "soak", "conversions of one sidecar, watches cut", rounds, len(found), time.monotonic() - begun,
        f"worker {last.rss >> 20} MiB, {last.descriptors} descriptors, {last.threads} threads",
    )  # fmt: skip


def _growth(samples: Sequence[tuple[float, Held]]) -> list[str]:
    # A connection is kept or not, and asyncio has a few threads for names of hosts; a leak would be hundreds.
    bounds = {"rss": float(GROWTH_BYTES), "descriptors": 3.0, "threads": 3.0}
    found = {
        name: rises([(at, getattr(held, name)) for at, held in samples], bound)
        for name, bound in bounds.items()
    }
    return [f"{name} {why}" for name, why in found.items() if why]


def _many(report: Report, plane: ControlPlane, folder: Path) -> None:
    namespace = plane.create_namespace("many")
    with (
        Faulty(plane) as of_sidecar,
        Faulty(plane) as of_controller,
        Cluster(plane, namespace, folder, of_sidecar.url) as cluster,
    ):
        pod = cluster.pod(resync="3600")
        cluster.create(wanted(pod))
        sidecar = cluster.sidecar(pod)
        pass_gate(pod)
        wait_until(sidecar.is_watching, timeout=PATIENCE)
        alone = Held.by(sidecar.worker).rss
        path = cluster.path("storageformats")
        for number in range(MANY - 1):
            body = storageformat(f"other-{number:04}", spec__formats=FORMATS)
            body["spec"]["selector"] = {"matchLabels": {"app": f"other-{number}"}}
            plane.admin.create(path, body)
        asked = len(of_sidecar.seen)
        of_sidecar.cut()
        cluster.change(target="v3")
        cluster.reports(phase="RestartRequired", targetFormat="v3")
        lost = _sidecar_sees_its_own(sidecar, alone, of_sidecar, asked)
        begun = time.monotonic()
        controllers = Controllers(plane, folder, server=of_controller.url)
        try:
            process = controllers.start(namespace=namespace)
            process.says("synced", within=PATIENCE)
            synced = time.monotonic() - begun
            wait_until(lambda: _told(plane, path), timeout=PATIENCE, every=0.5, what="told of all")
            told = time.monotonic() - begun
            held = Held.by(process.pid)
        finally:
            controllers.close()
        made = Counter(one.kind for one in of_controller.seen)
    writes = sum(count for kind, count in made.items() if kind.startswith("patch"))
    report.add(
        "soak", "StorageFormats, one controller", MANY, int(lost), told,
        f"synced in {synced:.1f} s, told of all in {told:.1f} s, {held.rss >> 20} MiB, "
        f"{made.total()} requests ({writes} reports)",
    )  # fmt: skip


def _sidecar_sees_its_own(sidecar: Sidecar, alone: int, faulty: Faulty, asked: int) -> bool:
    """Whether a thousand others have cost the sidecar anything: memory, or a request of another kind."""
    kinds = {one.kind for one in faulty.seen[asked:]}
    grown = Held.by(sidecar.worker).rss - alone
    return grown > GROWTH_BYTES or "list storageformats" in kinds


def _told(plane: ControlPlane, path: str) -> bool:
    return all((one.get("status") or {}).get("conditions") for one in plane.admin.list(path))
