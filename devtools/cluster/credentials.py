"""Keys, tokens and kubeconfigs: who is who in the cluster."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.network import Network
from controlplane import Binaries

NODE = "node"

#: Our name for it → the user and groups that Kubernetes knows it by.
_USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
}


@dataclass(frozen=True)
class Credentials:
    """What `make` put into ``folder``."""

    folder: Path
    server: str

    @classmethod
    def make(cls, folder: Path, network: Network, binaries: Binaries) -> Credentials:
        """Make everything new. Raises CalledProcessError."""
        folder.mkdir(mode=0o700)
        names = ["kubernetes", "kubernetes.default", network.node, network.api_service]
        subprocess.run([str(binaries.path("pki")), str(folder), *names], check=True)
        one = cls(folder, f"https://{network.node}:6443")
        lines = []
        for name, (user, groups) in _USERS.items():
            token = secrets.token_hex(16)
            lines.append(f'{token},{user},{name},"{groups}"\n')
            (folder / f"{name}.token").write_text(token)
            one.write_kubeconfig(one.kubeconfig(name), token)
        (folder / "tokens.csv").write_text("".join(lines))
        return one

    @property
    def ca_file(self) -> Path:
        """Who signed the API server's certificate."""
        return self.folder / "ca.crt"

    def token(self, name: str) -> str:
        """The token of that component, or of ``admin``."""
        return (self.folder / f"{name}.token").read_text()

    def kubeconfig(self, name: str) -> Path:
        """The kubeconfig of that component, or of ``admin``."""
        return self.folder / f"{name}.kubeconfig"

    def write_kubeconfig(self, path: Path, token: str, *, namespace: str = "default") -> Path:
        """Write a kubeconfig for whoever has that token; returns ``path``."""
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        cluster = {"server": self.server, "certificate-authority-data": authority}
        context = {"cluster": "one", "user": "one", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "one", "cluster": cluster}],
            "users": [{"name": "one", "user": {"token": token}}],
            "contexts": [{"name": "one", "context": context}],
            "current-context": "one",
        }
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path
