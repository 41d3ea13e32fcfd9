"""The example app on a real cluster: a StatefulSet with volumes, sidecars and somebody who writes all the time."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import yaml

from cluster import Cluster
from controlplane import ApiError
from controlplane.client import Object, wait_until
from format_operator.api.names import API_VERSION
from tests.support.objects import put

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "orders"
UID: Final = 10001
PATIENCE_SECONDS: Final = 180.0

Change = Callable[[Object], None]


def eventually(what: Callable[[], Any], text: str, *, timeout: float = PATIENCE_SECONDS) -> Any:
    """The first true value of ``what``; a request that failed in an outage is no value."""

    def asked() -> Any:
        try:
            return what()
        except OSError:
            return None

    return wait_until(asked, timeout=timeout, every=0.1, what=text)


@dataclass
class Shop:
    """``examples/orders`` in a namespace, on one volume per ordinal."""

    cluster: Cluster
    namespace: str
    image: str
    replicas: int = 3
    volumes: dict[int, Any] = field(default_factory=dict)

    # --- making it ----------------------------------------------------------------------------------------

    def volume(self, ordinal: int, **options: Any) -> None:
        """The volume of an ordinal, made before its claim."""
        if ordinal not in self.volumes:
            claim = f"data-orders-{ordinal}"
            self.volumes[ordinal] = self.cluster.volume(self.namespace, claim, uid=UID, **options)

    def open(self, *changes: Change, seed: int = 50, wait: bool = True) -> None:
        """The app, with that many records in each database, until every pod is ready."""
        self.create("api/v1", "configmaps", app_script())
        self.create("api/v1", "services", _document("service.yaml"))
        for ordinal in range(self.replicas):
            self.volume(ordinal)
        self.create("apis/apps/v1", "statefulsets", self.stateful_set(*changes, seed=seed))
        if wait:
            self.all_ready()

    def stateful_set(self, *changes: Change, seed: int = 50) -> Object:
        """The example's, with our image; ``changes`` are applied to it in turn."""
        body = _document("statefulset.yaml")
        put(body, "spec.replicas", self.replicas)
        pod = body["spec"]["template"]["spec"]
        for container in (*pod["initContainers"], *pod["containers"]):
            container |= {"image": self.image, "imagePullPolicy": "Never"}
        for variable in pod["containers"][0]["env"]:
            if variable["name"] == "SEED_RECORDS":
                variable["value"] = str(seed)
        for change in changes:
            change(body)
        return body

    def change(self, *changes: Change) -> None:
        """Change the StatefulSet as it is now."""
        path = self.path("apis/apps/v1", "statefulsets", "orders")

        def done() -> bool:
            body = self.cluster.client.get(path)
            for change in changes:
                change(body)
            try:
                self.cluster.client.replace(path, body)
            except ApiError as error:
                if error.status == 409:
                    return False
                raise
            return True

        eventually(done, "the StatefulSet is changed")

    def storage_format(self, **changes: Any) -> Object:
        """The example's StorageFormat with changes (paths with ``__`` for dots)."""
        body = _document("storageformat.yaml")
        for path, value in changes.items():
            put(body, path.replace("__", "."), value)
        return body

    def apply(self, *bodies: Object) -> None:
        """``kubectl apply`` of all of them at once."""
        text = yaml.safe_dump_all([json.loads(json.dumps(one)) for one in bodies])
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=text)

    def patch(self, spec: Mapping[str, Any]) -> None:
        """Change the StorageFormat's spec (a merge patch)."""
        self.cluster.client.patch(
            self.path(f"apis/{API_VERSION}", "storageformats", "orders"), {"spec": spec}
        )

    def disruption_budget(self, *, min_available: int) -> None:
        """A PodDisruptionBudget for the app's pods, called ``orders``."""
        selector = {"matchLabels": {"app": "orders"}}
        spec = {"minAvailable": min_available, "selector": selector}
        body = {"metadata": {"name": "orders"}, "spec": spec}
        self.create("apis/policy/v1", "poddisruptionbudgets", body)

    def create(self, group: str, plural: str, body: Object) -> Object:
        return self.cluster.client.create(self.path(group, plural), body)

    def path(self, group: str, plural: str, name: str = "") -> str:
        where = f"/{group}/namespaces/{self.namespace}/{plural}"
        return f"{where}/{name}" if name else where

    # --- looking ------------------------------------------------------------------------------------------

    def pods(self) -> dict[str, Object]:
        """The app's pods by name."""
        path = f"{self.path('api/v1', 'pods')}?labelSelector=app%3Dorders"
        return {one["metadata"]["name"]: one for one in self.cluster.client.list(path)}

    def pod(self, ordinal: int) -> Object | None:
        return self.cluster.pod(self.namespace, f"orders-{ordinal}")

    def uid(self, ordinal: int) -> str:
        pod = self.pod(ordinal)
        return str(pod["metadata"]["uid"]) if pod is not None else ""

    def all_ready(self) -> None:
        """Wait until every pod is ready."""
        wanted = {f"orders-{ordinal}" for ordinal in range(self.replicas)}

        def ready() -> bool:
            pods = self.pods()
            return wanted <= {name for name, pod in pods.items() if is_ready(pod)}

        eventually(ready, f"{self.replicas} pods are ready in {self.namespace}")

    def state(self, ordinal: int) -> Mapping[str, Any]:
        """What the sidecar of that ordinal reports; empty while there is no FormatState."""
        path = self.path(f"apis/{API_VERSION}", "formatstates", f"orders.orders-{ordinal}")
        try:
            return dict(self.cluster.client.get(path).get("status") or {})
        except ApiError as error:
            if error.status == 404:
                return {}
            raise

    def permit(self, ordinal: int) -> Mapping[str, Any] | None:
        """The permit that the controller has given to that ordinal."""
        path = self.path(f"apis/{API_VERSION}", "formatstates", f"orders.orders-{ordinal}")
        if not self.cluster.client.exists(path):
            return None
        found = (self.cluster.client.get(path).get("spec") or {}).get("permit")
        return dict(found) if found else None

    def wait_for_phase(self, ordinal: int, *phases: str) -> Mapping[str, Any]:
        """The report of that ordinal once it says one of these phases."""

        def said() -> Mapping[str, Any] | None:
            state = self.state(ordinal)
            return state if state.get("phase") in phases else None

        found: Mapping[str, Any] = eventually(said, f"orders-{ordinal} says {' or '.join(phases)}")
        return found

    def status(self) -> Mapping[str, Any]:
        path = self.path(f"apis/{API_VERSION}", "storageformats", "orders")
        return dict(self.cluster.client.get(path).get("status") or {})

    def condition(self, kind: str) -> Mapping[str, Any]:
        found = [one for one in self.status().get("conditions", ()) if one["type"] == kind]
        return found[0] if found else {}

    def wait_for_rollout(self, *phases: str) -> Mapping[str, Any]:
        """``status.rollout`` once it is in one of these phases."""

        def said() -> Mapping[str, Any] | None:
            rollout: Mapping[str, Any] = self.status().get("rollout") or {}
            return rollout if rollout.get("phase") in phases else None

        found: Mapping[str, Any] = eventually(said, f"the rollout says {' or '.join(phases)}")
        return found

    def wait_until_ready(self, *, timeout: float = PATIENCE_SECONDS) -> None:
        """``kubectl wait --for=condition=Ready``, as a person would, for the generation that is there now."""
        path = self.path(f"apis/{API_VERSION}", "storageformats", "orders")
        generation = self.cluster.client.get(path)["metadata"]["generation"]

        def observed() -> bool:
            return bool(self.condition("Ready").get("observedGeneration") == generation)

        eventually(observed, "the controller has seen the newest spec")
        self.cluster.kubectl(
            *("wait", "-n", self.namespace, "--for=condition=Ready", "sf/orders"),
            f"--timeout={timeout:.0f}s",
            timeout=timeout + 30,
        )

    # --- the app ------------------------------------------------------------------------------------------

    def ask(self, ordinal: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request to the app of that ordinal. Raises OSError when it does not answer."""
        pod = self.pod(ordinal)
        address = (pod or {}).get("status", {}).get("podIP")
        if not address:
            raise ConnectionError(f"orders-{ordinal} has no address")
        return request(address, method, path, body)

    def summary(self, ordinal: int) -> dict[str, Any]:
        """Count, digest and format of the records of that ordinal."""

        def answered() -> dict[str, Any] | None:
            status, content = self.ask(ordinal, "GET", "/orders")
            return content if status == 200 else None

        found: dict[str, Any] = eventually(answered, f"orders-{ordinal} answers")
        return found

    def order(self, ordinal: int, key: str) -> tuple[int, Any]:
        """What the app of that ordinal says of one order, once it answers."""
        found: tuple[int, Any] = eventually(
            lambda: self.ask(ordinal, "GET", f"/orders{key}"), f"orders-{ordinal} knows {key}"
        )
        return found

    def orders_in(self, ordinal: int, folder: str) -> dict[str, Any]:
        """All orders right below ``folder`` (it ends with a slash) that the app of that ordinal has."""
        found: dict[str, Any] = {}
        start, end = folder, f"{folder}\U0010ffff"  # on the level of the folder's own orders
        while True:
            path = f"/orders?start={quote(start)}&end={quote(end)}&limit=1000"
            status, answer = eventually(
                partial(self.ask, ordinal, "GET", path),
                f"orders-{ordinal} lists {folder}",
            )
            assert status == 200, answer
            page = dict(answer["orders"])
            if page.keys() <= found.keys():
                return found
            found |= page
            start = answer["orders"][-1][0]  # again the first of the next page

    def app_started(self, ordinal: int) -> bool:
        """Whether the app's container runs, or has ever run in this pod."""
        pod = self.pod(ordinal)
        statuses = (pod or {}).get("status", {}).get("containerStatuses") or ()
        return any(one.get("started") or one["state"].get("running") for one in statuses)

    def app_started_at(self, ordinal: int) -> str:
        """When the app's container that runs now was started (RFC 3339, whole seconds)."""
        statuses = (self.pod(ordinal) or {}).get("status", {}).get("containerStatuses") or ()
        running = [one["state"].get("running") or {} for one in statuses]
        return str(running[0].get("startedAt") or "") if running else ""

    def restart(self, ordinal: int, *, wait: bool = True) -> None:
        """Delete the pod of that ordinal, at once; returns when another is ready, or just there."""
        uid = self.uid(ordinal)
        self.cluster.delete_pod(self.namespace, f"orders-{ordinal}")
        eventually(lambda: self.uid(ordinal) not in {"", uid}, f"another orders-{ordinal} is there")
        if wait:
            self.all_ready()

    def describe(self) -> str:
        """Everything that helps to understand a failure."""
        parts = []
        for words in (
            ("get", "sf,fs,sts,pods,pvc,pdb", "-o", "wide"),
            ("get", "sf", "-o", "yaml"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            done = self.cluster.kubectl(*words, "-n", self.namespace, check=False)
            parts.append(f"$ kubectl {' '.join(words)}\n{done.stdout}{done.stderr}")
        for name in self.pods():
            for container in ("storageformat", "storageformat-gate", "app"):
                done = self.cluster.kubectl(
                    *("logs", name, "-c", container, "--tail=30", "-n", self.namespace), check=False
                )
                parts.append(f"--- {name} {container}\n{done.stdout}{done.stderr}")
        return "\n".join(parts)


def request(address: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request to a pod."""
    connection = http.client.HTTPConnection(address, 8080, timeout=10)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()


def app_script() -> Object:
    """The ConfigMap with the app."""
    script = (EXAMPLE / "app.py").read_text(encoding="utf-8")
    return {"metadata": {"name": "orders-app"}, "data": {"app.py": script}}


def in_parallel(body: Object) -> None:
    """A change of the StatefulSet: its pods do not wait for each other, neither at the start nor later."""
    body["spec"]["podManagementPolicy"] = "Parallel"


def is_ready(pod: Object) -> bool:
    """Whether it is Ready, and is to stay."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _document(name: str) -> Object:
    body: Object = yaml.safe_load((EXAMPLE / name).read_text(encoding="utf-8"))
    return body


# --- who writes all the time, and who watches -----------------------------------------------------------------


@dataclass
class Writer:
    """Puts one order after the other into one pod and keeps what was acknowledged."""

    shop: Shop
    ordinal: int
    acknowledged: dict[str, Any] = field(default_factory=dict)
    failures: int = 0
    """How many tries were not acknowledged: nobody answered, or it was refused."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _address: str = ""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=60)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            key = f"/writer/{self.ordinal}/{number}"
            value = {"number": number, "of": f"orders-{self.ordinal}", "paid": number % 2 == 0}
            if self._put(key, value):
                self.acknowledged[key] = value
                number += 1
            else:
                self.failures += 1
            # A pace, not a wait: a database that is written to all the time, on a machine with two cores.
            self._stop.wait(0.02)

    def _put(self, key: str, value: Any) -> bool:
        try:
            if not self._address:
                pod = self.shop.pod(self.ordinal)
                self._address = (pod or {}).get("status", {}).get("podIP") or ""
            if not self._address:
                return False
            status, _ = request(self._address, "PUT", f"/orders{key}", value)
        except (OSError, ApiError, ValueError):
            self._address = ""  # a new pod has a new one
            return False
        return status == 201

    def lost(self) -> list[str]:
        """The acknowledged orders that the app does not have, or has otherwise."""
        found = self.shop.orders_in(self.ordinal, f"/writer/{self.ordinal}/")
        return [key for key, value in self.acknowledged.items() if found.get(key) != value]


@contextmanager
def writing(shop: Shop) -> Iterator[list[Writer]]:
    """Writers for every pod; afterwards not one acknowledged order may be missing."""
    writers = [Writer(shop, ordinal) for ordinal in range(shop.replicas)]
    for writer in writers:
        writer.start()
    eventually(lambda: all(len(one.acknowledged) >= 5 for one in writers), "all have written")
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()
    shop.all_ready()
    for writer in writers:
        assert writer.lost() == []


@dataclass
class Chronicle:
    """What a rollout looked like from outside, ten times a second."""

    shop: Shop
    most_out: int = 0
    uids: dict[str, set[str]] = field(default_factory=dict)
    converting_together: int = 0
    order: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        pods = self.shop.pods()
        for name, pod in pods.items():
            known = self.uids.setdefault(name, set())
            if known and pod["metadata"]["uid"] not in known:
                self.order.append(name)
            known.add(pod["metadata"]["uid"])
        self.most_out = max(
            self.most_out, self.shop.replicas - sum(is_ready(pod) for pod in pods.values())
        )
        states = self.shop.cluster.client.list(
            self.shop.path(f"apis/{API_VERSION}", "formatstates")
        )
        busy = [one for one in states if (one.get("status") or {}).get("phase") == "Converting"]
        self.converting_together = max(self.converting_together, len(busy))

    def run(self) -> None:
        while not self._stop.is_set():
            # An outage is part of some stories.
            with suppress(OSError, ApiError):
                self.look()
            time.sleep(0.1)


@contextmanager
def chronicled(shop: Shop) -> Iterator[Chronicle]:
    """A chronicle of what happens meanwhile."""
    chronicle = Chronicle(shop)
    chronicle.look()
    thread = threading.Thread(target=chronicle.run, daemon=True)
    thread.start()
    try:
        yield chronicle
    finally:
        chronicle._stop.set()
        thread.join(timeout=30)
