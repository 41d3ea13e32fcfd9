"""The webhook as a process with its own role's token, called by the real API server, as the chart configures it."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from controlplane import ApiError, ControlPlane
from controlplane.client import Object, wait_until
from format_operator.admission.certificates import Pair
from format_operator.api.injection import INJECT
from format_operator.api.names import API_VERSION
from tests.chart.helm import Helm, only
from tests.sidecar.pods import Process, fetch, metrics, python
from tests.support.objects import storageformat

SYSTEM: Final = "storageformat-system"
NAME: Final = "storageformat-webhook"
HOST: Final = "127.0.0.1"
IMAGE: Final = "registry/storageformat:1"
PATIENCE_SECONDS: Final = 40.0
RESTRICTED: Final = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_SECRETS: Final = f"/api/v1/namespaces/{SYSTEM}/secrets"


def eventually(what: Callable[[], Any], text: str = "") -> Any:
    """The first true value of ``what``."""
    return wait_until(what, timeout=PATIENCE_SECONDS, every=0.05, what=text)


@dataclass
class Hook:
    """One configuration of one control plane, and the processes that answer for it; ``close`` takes all away."""

    plane: ControlPlane
    folder: Path
    helm: Helm
    port: int = 0
    processes: list[Process] = field(default_factory=list)

    def configure(self, *, path: str = "/mutate", bundle: bytes | None = None) -> None:
        """The chart's configuration with an address in the place of the Service, and an empty Secret."""
        found = self.helm.template({"fullnameOverride": "storageformat"})
        body = only(found, "MutatingWebhookConfiguration", webhook=True)
        self.port = self.port or _free_port()
        (one,) = body["webhooks"]
        one["clientConfig"] = {"url": f"https://{HOST}:{self.port}{path}"}
        if bundle is not None:
            one["clientConfig"]["caBundle"] = base64.b64encode(bundle).decode()
        self.remove()
        self.create_secret()
        self.plane.admin.create(_CONFIGURATIONS, body)

    def start(self, *arguments: str, port: int | None = None, server: str = "") -> Process:
        """One more instance."""
        number = len(self.processes)
        token = self.folder / "webhook-token"
        token.write_text(self.plane.token(SYSTEM, NAME), encoding="ascii")
        options = [
            *("--image", IMAGE, "--address", HOST, "--port", str(port or self.port)),
            *("--kube-api", server or self.plane.server, "--ca-file", str(self.plane.ca_file)),
            *("--token-file", str(token), "--metrics-address", HOST, "--metrics-port", "0"),
            *("--drain", "0", "--look-every", "0.2", "--log-level", "debug"),
        ]
        command = python("-m", "format_operator", "webhook", *options, *arguments)
        process = Process(command, self.folder / f"webhook-{number}.log")
        self.processes.append(process)
        return process

    def generating(self, *arguments: str, port: int | None = None) -> Process:
        """One that makes its certificate itself."""
        more = ("--certificate-secret", NAME, "--certificate-namespace", SYSTEM)
        which = ("--configuration", NAME, "--host", HOST, *arguments)
        return self.start(*more, *which, port=port)

    def given(self, pair: Pair, *arguments: str, server: str = "") -> Process:
        """One whose certificate is in files."""
        self.give(pair)
        return self.start("--certificate-dir", str(self.folder), *arguments, server=server)

    def give(self, pair: Pair) -> None:
        """Put these files in place."""
        for name, content in (("tls.key", pair.key), ("tls.crt", pair.certificate)):
            (self.folder / "next").write_bytes(content)
            (self.folder / "next").rename(self.folder / name)

    # --- what is there ------------------------------------------------------------------------------------

    def trust(self, bundle: bytes) -> None:
        """What the API server trusts from now on."""
        value = base64.b64encode(bundle).decode()
        change = {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": value}
        self.plane.admin.patch(
            f"{_CONFIGURATIONS}/{NAME}", [change], content_type="application/json-patch+json"
        )

    def bundle(self) -> bytes:
        """What it trusts now."""
        (one,) = self.plane.admin.get(f"{_CONFIGURATIONS}/{NAME}")["webhooks"]
        return base64.b64decode(one["clientConfig"].get("caBundle") or "")

    def secret(self, data: Mapping[str, str] | None = None) -> dict[str, str]:
        """The Secret's data; ``data`` replaces it."""
        path = f"{_SECRETS}/{NAME}"
        body = self.plane.admin.get(path)
        if data is not None:
            body = self.plane.admin.replace(path, body | {"data": dict(data)})
        found: dict[str, str] = body.get("data") or {}
        return found

    def ready(self, process: Process) -> None:
        """Wait until it says so, and the API server has called it."""
        port = int(process.says(r"serving metrics address=\S+ port=(\d+)", within=30)[1])
        eventually(lambda: fetch(port, "/readyz")[0] == 200, process.text())

    def requests(self, process: Process) -> dict[str, float]:
        """How many answers of each kind it has given."""
        port = int(process.says(r"serving metrics address=\S+ port=(\d+)", within=30)[1])
        pattern = re.compile(r'storageformat_webhook_requests_total\{result="(\w+)"\}')
        found = ((pattern.fullmatch(key), value) for key, value in metrics(port).items())
        return {match[1]: value for match, value in found if match is not None and value}

    def shown(self, port: int | None = None) -> str:
        """The certificate that a handshake gets."""
        return ssl.get_server_certificate((HOST, port or self.port))

    def create_secret(self) -> None:
        """As the chart makes it."""
        body = only(
            self.helm.template({"fullnameOverride": "storageformat"}), "Secret", webhook=True
        )
        self.plane.admin.create(_SECRETS, body | {"metadata": {"name": NAME}})

    def delete_secret(self) -> None:
        self.plane.admin.delete(f"{_SECRETS}/{NAME}")

    def remove(self) -> None:
        for path in (f"{_CONFIGURATIONS}/{NAME}", f"{_SECRETS}/{NAME}"):
            if self.plane.admin.exists(path):
                self.plane.admin.delete(path)

    def close(self) -> None:
        self.remove()
        for process in self.processes:
            process.close()


@dataclass
class Pods:
    """Pods of one namespace."""

    plane: ControlPlane
    namespace: str

    def allow_everything(self) -> None:
        """No pod security standard any more."""
        label = {"pod-security.kubernetes.io/enforce": "privileged"}
        path = f"/api/v1/namespaces/{self.namespace}"
        self.plane.admin.patch(path, {"metadata": {"labels": label}})

    def storageformat(self, name: str = "orders", **changes: Any) -> None:
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/storageformats"
        self.plane.admin.create(path, storageformat(name, **changes))

    def create(self, asked: str | None = "orders", *, dry_run: bool = False, **spec: Any) -> Object:
        """Raises ApiError where the pod is not let in."""
        annotations = {} if asked is None else {INJECT: asked}
        app: Object = {
            "name": "app",
            "image": "app:1",
            "securityContext": {**RESTRICTED, "runAsUser": 999},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        body = {
            "metadata": {"name": f"p-{uuid.uuid4().hex[:8]}", "annotations": annotations},
            "spec": {
                # An admission plugin's work elsewhere.
                "serviceAccountName": "default",
                "containers": [app],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
                **spec,
            },
        }
        query = "?dryRun=All" if dry_run else ""
        return self.plane.admin.create(f"/api/v1/namespaces/{self.namespace}/pods{query}", body)

    def refused(self, asked: str = "orders", **spec: Any) -> str:
        """What whoever made the pod is told."""
        try:
            self.create(asked, dry_run=True, **spec)
        except ApiError as error:
            return error.message
        raise AssertionError("the pod was let in")

    def let_in(self, asked: str = "orders") -> bool:
        """Whether such a pod is let in; without one."""
        try:
            return injected(self.create(asked, dry_run=True))
        except ApiError:
            return False


def injected(pod: Object) -> bool:
    names = [one["name"] for one in pod["spec"].get("initContainers") or ()]
    return names[:2] == ["storageformat", "storageformat-gate"]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port
