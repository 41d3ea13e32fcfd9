"""A real kube-apiserver for the demo: the CRDs, the RBAC and the admission policy of ``deploy/`` are in effect.

Each pod has a token that is bound to it, as a kubelet would have got it. A kubectl that reads nobody's
kubeconfig but the control plane's own does what people would do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from controlplane import ApiError, ControlPlane
from controlplane.client import wait_until
from format_operator.api.names import API_VERSION, KIND_FORMATSTATE, PLURAL_FORMATSTATES

_DEPLOY = Path(__file__).parents[2] / "deploy"
_ACCOUNT = "index"


class Real:
    """Use as a context manager, on the main thread. ``directory`` is for the servers' files."""

    title = "kube-apiserver and etcd"

    def __init__(self, namespace: str, directory: Path) -> None:
        self.namespace = namespace
        self._plane = ControlPlane(directory)

    def __enter__(self) -> Self:
        try:
            self._plane.start()
            self._plane.install(_DEPLOY)
            self._plane.create_namespace(self.namespace)
            self._plane.create_service_account(self.namespace, _ACCOUNT)
            wait_until(self._policy_holds, what="the admission policy is in effect")
        except BaseException:
            self._plane.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._plane.stop()

    @property
    def url(self) -> str:
        return self._plane.server

    def add_pod(self, name: str, directory: Path) -> str:
        """Make the pod's object and put the files of its token into ``directory``; returns its UID."""
        pod = self._plane.create_pod(
            self.namespace, name, service_account=_ACCOUNT, labels={"app": "index"}
        )
        token = self._plane.token(self.namespace, _ACCOUNT, pod=pod)
        directory.mkdir(mode=0o700)
        (directory / "token").write_text(token)
        (directory / "namespace").write_text(self.namespace)
        (directory / "ca.crt").write_bytes(self._plane.ca_file.read_bytes())
        return str(pod["metadata"]["uid"])

    def apply(self, manifest: Path) -> str:
        """``kubectl apply``: returns what that says."""
        return self._kubectl("apply", "-f", str(manifest))

    def formatstates(self) -> list[dict[str, Any]]:
        """All FormatStates, by name."""
        return self._plane.admin.list(self._formatstates)

    def get_formatstates(self) -> str:
        """``kubectl get formatstates``."""
        return self._kubectl("get", "formatstates")

    @property
    def _formatstates(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL_FORMATSTATES}"

    def _kubectl(self, *arguments: str) -> str:
        return self._plane.kubectl("-n", self.namespace, *arguments).stdout.strip()

    def _policy_holds(self) -> bool:
        """It takes effect a moment after it was applied. Until then a token without a pod may write."""
        unbound = self._plane.client(self._plane.token(self.namespace, _ACCOUNT))
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND_FORMATSTATE,
            "metadata": {"name": "index.nobody"},
        }
        try:
            unbound.request("POST", f"{self._formatstates}?dryRun=All", body)
        except ApiError as error:
            return "bound to a pod" in error.message
        return False
