"""The controller as a process with its own role's token, on the real API server; pods that only the objects know.

Nobody runs the pods: a test says what their kubelet and their sidecar would say. What the controller does to them
is real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from controlplane import ApiError, ControlPlane
from controlplane.client import Object, wait_until
from format_operator.api.models import StorageFormat
from format_operator.api.names import API_VERSION, KIND_FORMATSTATE, STORAGEFORMAT_LABEL
from tests.sidecar.pods import Process, metrics, python
from tests.support.objects import storageformat

SYSTEM: Final = "storageformat-system"
PATIENCE_SECONDS: Final = 40.0


def eventually(what: Any, text: str = "") -> Any:
    """The first true value of ``what``."""
    return wait_until(what, timeout=PATIENCE_SECONDS, every=0.05, what=text)


@dataclass
class Controllers:
    """Controllers of one control plane; ``close`` kills what still runs."""

    plane: ControlPlane
    folder: Path
    processes: list[Process] = field(default_factory=list)
    server: str = ""

    def start(
        self,
        *arguments: str,
        namespace: str | None = None,
        lease: str = "",
        program: str = "format_operator",
    ) -> Process:
        """One more instance. ``namespace``: the only one that it looks after; ``program``: another module."""
        number = len(self.processes)
        token = self.folder / "controller-token"
        token.write_text(self.plane.token(SYSTEM, "storageformat-controller"), encoding="ascii")
        options = [
            *("--kube-api", self.server or self.plane.server, "--ca-file", str(self.plane.ca_file)),
            *("--token-file", str(token), "--metrics-address", "127.0.0.1", "--metrics-port", "0"),
            *("--identity", f"controller-{number}", "--log-level", "debug"),
            *(("--watch-namespace", namespace) if namespace else ()),
            *(
                ("--lease-namespace", SYSTEM, "--lease-name", lease, "--lease-seconds", "3")
                if lease
                else ("--no-lease",)
            ),
        ]
        command = python("-m", program, "controller", *options, *arguments)
        process = Process(command, self.folder / f"controller-{number}.log")
        self.processes.append(process)
        return process

    def metrics(self, process: Process) -> dict[str, float]:
        """What a scrape of it says."""
        return metrics(port_of(process))

    def close(self) -> None:
        for process in self.processes:
            process.close()


def port_of(process: Process) -> int:
    return int(process.says(r"serving metrics address=\S+ port=(\d+)", within=30)[1])


@dataclass
class Rollout:
    """One StorageFormat with a StatefulSet's pods in a namespace of its own."""

    plane: ControlPlane
    namespace: str
    replicas: int = 3
    workload: Object = field(default_factory=dict)

    # --- objects ------------------------------------------------------------------------------------------

    def make(self, **changes: Any) -> None:
        """The StatefulSet, its claims and ready pods, and the StorageFormat."""
        admin, ns = self.plane.admin, self.namespace
        self.workload = admin.create(f"/apis/apps/v1/namespaces/{ns}/statefulsets", self._set())
        self.settle()
        for ordinal in range(self.replicas):
            self._claim(ordinal)
            self.pod(ordinal)
        self.apply(**changes)

    def apply(self, **changes: Any) -> None:
        """The StorageFormat, made or changed."""
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/storageformats"
        body = storageformat(**changes)
        if self.plane.admin.exists(f"{path}/orders"):
            self.plane.admin.patch(f"{path}/orders", {"spec": body["spec"]})
        else:
            self.plane.admin.create(path, body)

    def settle(self) -> None:
        """The StatefulSet's own rollout is over."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/statefulsets/orders"
        generation = self.plane.admin.get(path)["metadata"]["generation"]
        status = {
            "replicas": self.replicas,
            "observedGeneration": generation,
            "currentRevision": "orders-1",
            "updateRevision": "orders-1",
        }
        self.plane.admin.patch(f"{path}/status", {"status": status})

    def pod(self, ordinal: int, *, ready: bool = True) -> Object:
        """A new pod of that ordinal."""
        admin, ns, name = self.plane.admin, self.namespace, f"orders-{ordinal}"
        metadata = {
            "name": name,
            "labels": {"app": "orders", "controller-revision-hash": "orders-1"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "StatefulSet",
                    "name": "orders",
                    "uid": self.workload["metadata"]["uid"],
                    "controller": True,
                }
            ],
        }
        spec = pod_spec()
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{name}"}}]
        made = admin.create(f"/api/v1/namespaces/{ns}/pods", {"metadata": metadata, "spec": spec})
        self.ready(ordinal, ready=ready)
        return made

    def ready(self, ordinal: int, *, ready: bool = True) -> None:
        """What its kubelet says: the gate has ended and the app is ready, or not."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/orders-{ordinal}/status"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        done: dict[str, Any] = {"terminated": {"exitCode": 0}}
        running: dict[str, Any] = {"running": {}}
        gate = {
            "name": "storageformat-gate",
            "state": done if ready else running,
            "ready": ready,
            "restartCount": 0,
            "image": "i",
            "imageID": "i",
        }
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "lastTransitionTime": now,
        }
        status = {
            "phase": "Running" if ready else "Pending",
            "conditions": [condition],
            "initContainerStatuses": [gate],
        }
        self.plane.admin.patch(path, {"status": status})

    def report(self, ordinal: int, phase: str, **status: Any) -> None:
        """What the sidecar of that ordinal says; its FormatState is made first where there is none."""
        admin, name = self.plane.admin, f"orders-{ordinal}"
        pod = admin.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/formatstates"
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND_FORMATSTATE,
            "metadata": {"name": f"orders.{name}", "labels": {STORAGEFORMAT_LABEL: "orders"}},
        }
        if not admin.exists(f"{path}/orders.{name}"):
            admin.create(path, body)
        said = {
            "podName": name,
            "podUID": pod["metadata"]["uid"],
            "targetHash": self.target_hash(),
            "phase": phase,
            "currentFormat": "v2" if phase == "Converted" else "v1",
            "gate": "Open",
            "apiVersion": "1",
        }
        admin.patch(f"{path}/orders.{name}/status", {"status": said | status})

    # --- what the controller did --------------------------------------------------------------------------

    def storageformat(self) -> Object:
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/storageformats/orders"
        return self.plane.admin.get(path)

    def target_hash(self) -> str:
        return StorageFormat.from_object(self.storageformat()).spec.target_hash()

    def status(self) -> Mapping[str, Any]:
        return dict(self.storageformat().get("status") or {})

    def condition(self, kind: str) -> Mapping[str, Any]:
        """That condition; empty while there is none."""
        found = [one for one in self.status().get("conditions", ()) if one["type"] == kind]
        return found[0] if found else {}

    def phase(self) -> str:
        return str((self.status().get("rollout") or {}).get("phase"))

    def state(self, ordinal: int) -> Object:
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/formatstates"
        return self.plane.admin.get(f"{path}/orders.orders-{ordinal}")

    def permit(self, ordinal: int) -> Mapping[str, Any] | None:
        """The permit that the pod of that ordinal has now."""
        return (self.state(ordinal).get("spec") or {}).get("permit")

    def permitted(self) -> list[int]:
        """The ordinals that hold a permit for the target."""
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/formatstates"
        wanted = self.target_hash()
        return sorted(
            int(one["metadata"]["name"].rpartition("-")[2])
            for one in self.plane.admin.list(path)
            if ((one.get("spec") or {}).get("permit") or {}).get("targetHash") == wanted
        )

    def arm(self, ordinal: int) -> None:
        """The sidecar has stored the permit that it was given."""
        eventually(lambda: ordinal in self.permitted(), f"a permit for {ordinal}")
        self.report(ordinal, "Armed", armedFor=self.target_hash(), reason="Permitted")

    def is_there(self, ordinal: int, uid: str) -> bool:
        """Whether that very pod is still there."""
        try:
            return self.uid(ordinal) == uid
        except ApiError as error:
            if error.status == 404:
                return False
            raise

    def uid(self, ordinal: int) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods/orders-{ordinal}"
        return str(self.plane.admin.get(path)["metadata"]["uid"])

    def gone(self, ordinal: int, uid: str) -> None:
        """Wait until the controller has evicted it: what nobody runs is gone at once."""
        eventually(lambda: not self.is_there(ordinal, uid), f"orders-{ordinal} is evicted")

    def convert(self, ordinal: int) -> None:
        """The StatefulSet makes the pod again, its sidecar converts, the app is ready."""
        self.pod(ordinal, ready=False)
        self.report(ordinal, "Converting", gate="Closed")
        self.report(ordinal, "Converted", gate="Open", armedFor=None)
        self.ready(ordinal)

    def _set(self) -> Object:
        labels = {"app": "orders"}
        return {
            "metadata": {"name": "orders"},
            "spec": {
                "replicas": self.replicas,
                "serviceName": "orders",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod_spec()},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": _CLAIM}],
            },
        }

    def _claim(self, ordinal: int) -> None:
        body = {"metadata": {"name": f"data-orders-{ordinal}"}, "spec": _CLAIM}
        path = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        self.plane.admin.create(path, body)


_CLAIM: Final = {
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Gi"}},
}


def pod_spec() -> Object:
    """Sidecar, gate and app, as far as the controller looks."""
    return {
        "initContainers": [
            {
                "name": "storageformat",
                "image": "i",
                "restartPolicy": "Always",
                "args": ["sidecar", "--database", "orders=/data/orders.db"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
            {"name": "storageformat-gate", "image": "i", "args": ["gate"]},
        ],
        "containers": [{"name": "app", "image": "i"}],
    }
