"""What goes on inside the example app's pods: processes to kill, and conversions caught in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster import Cluster
from controlplane.client import Object, wait_until
from tests.cluster.shop import Shop, eventually, request

#: So many records take about a second to convert: long enough to be caught in the middle.
MANY: Final = 40000
WORKER: Final = "sidecar-worker"
SIDECAR: Final = "storageformat"
GATE: Final = "storageformat-gate"

_LOCAL: Final = re.compile(r"-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")


# --- processes ------------------------------------------------------------------------------------------------


def worker(shop: Shop, ordinal: int, *, but: int | None = None) -> int | None:
    """The sidecar's worker of that ordinal, as a process id of this machine. Asks nobody: it is quick.

    ``but``: one that is on its way out, and in the way of finding the next.
    """
    wanted = {
        f"POD_NAMESPACE={shop.namespace}".encode(),
        f"POD_NAME=orders-{ordinal}".encode(),
    }
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or folder.name == str(but):
            continue
        with suppress(OSError):  # it has just ended
            if WORKER.encode() not in (folder / "cmdline").read_bytes().split(b"\0"):
                continue
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                return int(folder.name)
    return None


def another_worker(shop: Shop, ordinal: int, than: int) -> int:
    """The worker that has taken the place of ``than``."""

    text = f"the sidecar of orders-{ordinal} has another worker"
    pid: int = eventually(lambda: worker(shop, ordinal, but=than), text)
    return pid


def kill(shop: Shop, ordinal: int, container: str) -> None:
    """SIGKILL to a container's process 1. The API server is not asked."""
    os.kill(shop.cluster.container_pid(shop.namespace, f"orders-{ordinal}", container), 9)


def restarts(pod: Object | None, container: str) -> int:
    """How often a container of the pod was restarted."""
    status = (pod or {}).get("status", {})
    every = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return next((int(one["restartCount"]) for one in every if one["name"] == container), 0)


def restart_sandbox(shop: Shop, ordinal: int) -> None:
    """End what holds the pod together: the kubelet makes all of it anew, gate included, and asks no API.

    Returns when the app has ended that ran before.
    """
    cluster = shop.cluster
    app = Path(f"/proc/{cluster.container_pid(shop.namespace, f'orders-{ordinal}', 'app')}")
    _tasks(cluster, "kill", "--signal=SIGKILL", _sandbox(cluster, shop.namespace, ordinal))
    eventually(lambda: not app.exists(), f"the app of orders-{ordinal} has ended")


def _sandbox(cluster: Cluster, namespace: str, ordinal: int) -> str:
    label = 'labels."io.kubernetes.pod'
    wanted = (
        f'{label}.namespace"=={namespace},{label}.name"==orders-{ordinal},'
        'labels."io.cri-containerd.kind"==sandbox'
    )
    known = (cluster.runtime.ctr("containers", "list", "--quiet", wanted) or "").split()
    running = _tasks(cluster, "list")
    (found,) = [one for one in known if one in running]
    return found


def _tasks(cluster: Cluster, *words: str) -> str:
    return cluster.runtime.ctr("tasks", *words) or ""


def address(shop: Shop, ordinal: int) -> str:
    """Where the app of that ordinal listens, from the kernel: for when there is no API server to ask."""
    with suppress(Exception):  # between two containers there is none
        pid = shop.cluster.container_pid(shop.namespace, f"orders-{ordinal}", "app")
        found = _LOCAL.findall(Path(f"/proc/{pid}/net/fib_trie").read_text(encoding="ascii"))
        return next((one for one in found if not one.startswith("127.")), "")
    return ""


@contextmanager
def without_api(cluster: Cluster) -> Iterator[None]:
    """No API server meanwhile.

    Kubernetes' own parts are started anew afterwards: they would look for it again by themselves, but up to two
    minutes later, each after the other.
    """
    cluster.stop_apiserver()
    try:
        yield
    finally:
        cluster.start_apiserver()
        parts = cluster._components
        for name, command in (
            ("kubelet", parts.kubelet()),
            ("kube-controller-manager", parts.controller_manager()),
            ("kube-scheduler", parts.scheduler()),
        ):
            cluster.sandbox.end(name, hard=True)
            cluster.sandbox.spawn(name, command)


def starts_without_api(shop: Shop, ordinal: int) -> str:
    """The format in which the app of that ordinal runs, once it answers. Asks no API server."""

    def told() -> str | None:
        where = address(shop, ordinal)
        if not where:
            return None
        status, answer = request(where, "GET", "/healthz")
        return str(answer["format"]) if status == 200 else None

    found: str = eventually(told, f"orders-{ordinal} answers")
    return found


# --- conversions ----------------------------------------------------------------------------------------------


@dataclass
class Caught:
    """A conversion that stands still: its worker is stopped, with the copy half made."""

    shop: Shop
    ordinal: int
    worker: int
    copies: frozenset[Path]

    @property
    def under_way(self) -> bool:
        """Whether its copy is still in the making: the database itself is untouched."""
        return bool(self.copies & set(_copies(self.shop, self.ordinal)))

    @property
    def told_to_end(self) -> bool:
        """Whether SIGTERM waits for the worker, or it is dead: once it goes on, it hears of that before anything else."""
        try:
            status = Path(f"/proc/{self.worker}/status").read_text(encoding="ascii")
        except FileNotFoundError:
            return True
        (pending,) = re.findall(r"^ShdPnd:\t([0-9a-f]+)$", status, re.MULTILINE)
        waiting = int(pending, 16)
        return any(waiting >> (one - 1) & 1 for one in (signal.SIGTERM, signal.SIGKILL))

    def go_on(self) -> None:
        """Let the worker run; it need not be there any more."""
        with suppress(ProcessLookupError):
            os.kill(self.worker, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the worker as it stands."""
        os.kill(self.worker, signal.SIGKILL)


@contextmanager
def caught(shop: Shop, ordinal: int, *, after: Caught | None = None) -> Iterator[Caught]:
    """Wait for that ordinal's conversion and stop it in the middle; afterwards it goes on.

    The shop needs about `MANY` records for that. With ``after``, the one that comes after that one.
    """

    pid: int | None = None
    last = after.worker if after else None

    def begun() -> Caught | None:
        nonlocal pid
        # The worker is looked for before there is anything to catch: a conversion may be over in the time it takes.
        if pid is None or _state(pid) in {"", "Z"}:
            pid = worker(shop, ordinal, but=last)
        copies = frozenset(_copies(shop, ordinal)) - (after.copies if after else frozenset())
        return Caught(shop, ordinal, pid, copies) if pid is not None and copies else None

    one: Caught = wait_until(
        begun, timeout=120, every=0.005, what=f"orders-{ordinal} is being converted"
    )
    os.kill(one.worker, signal.SIGSTOP)
    try:
        standing_still = "the worker stands still"
        wait_until(lambda: _state(one.worker) == "T", timeout=10, every=0.005, what=standing_still)
        assert one.under_way, "the conversion was over already: it needs more records"
        yield one
    finally:
        one.go_on()


def _copies(shop: Shop, ordinal: int) -> Iterator[Path]:
    """The converted copies in the making, from when there is something in them."""
    folder = shop.volumes[ordinal].path / ".orders.db.storageformat" / "work"
    for path in folder.glob("*/staging.db"):
        with suppress(FileNotFoundError):
            if path.stat().st_size > 0:
                yield path


def pending(shop: Shop, ordinal: int) -> list[str]:
    """What conversions have left on the volume of that ordinal: nothing, when all is well."""
    folder = shop.volumes[ordinal].path / ".orders.db.storageformat" / "work"
    return sorted(str(path.relative_to(folder)) for path in folder.glob("**/*"))


def history(shop: Shop, ordinal: int) -> list[tuple[str, str]]:
    """What the store has written down of that volume: ("conversion", "aborted"), ("recovery", "discarded") …"""
    path = shop.volumes[ordinal].path / ".orders.db.storageformat" / "history.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        (one["kind"], one.get("outcome") or one["result"])
        for one in entries
        if one["kind"] in {"conversion", "recovery"}
    ]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


# --- readiness ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """How the pod of an ordinal stands to its Service: equal values mean that nothing has moved between."""

    uid: str
    ready_since: str
    endpoints: tuple[tuple[str, str], ...]
    """Resource version of each EndpointSlice of the Service, and who is ready in it."""


def standing(shop: Shop, ordinal: int) -> Standing:
    """The pod's readiness and its Service's endpoints, as they are now."""
    pod = shop.pod(ordinal) or {}
    conditions = {one["type"]: one for one in pod.get("status", {}).get("conditions", ())}
    ready = conditions.get("Ready", {"status": "False"})
    path = shop.path("apis/discovery.k8s.io/v1", "endpointslices")
    slices = shop.cluster.client.list(f"{path}?labelSelector=kubernetes.io%2Fservice-name%3Dorders")
    return Standing(
        uid=pod.get("metadata", {}).get("uid", ""),
        ready_since=ready.get("lastTransitionTime", "") if ready["status"] == "True" else "",
        endpoints=tuple(
            (
                one["metadata"]["resourceVersion"],
                ",".join(
                    end["targetRef"]["name"]
                    for end in one.get("endpoints") or ()
                    if end["conditions"].get("ready")
                ),
            )
            for one in slices
        ),
    )


def in_service(shop: Shop, ordinal: int) -> bool:
    """Whether the Service sends requests to the pod of that ordinal."""
    ready = [names.split(",") for _, names in standing(shop, ordinal).endpoints]
    return any(f"orders-{ordinal}" in names for names in ready)


def app_stays_down(shop: Shop, ordinal: int, seconds: float) -> None:
    """Look for that long, ten times a second: the app's container must not start."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not shop.app_started(ordinal)
        time.sleep(0.1)
