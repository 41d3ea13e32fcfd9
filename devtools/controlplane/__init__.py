"""A real Kubernetes API server on loopback, for the tests and for ``make demo API=real``.

etcd and kube-apiserver run as plain processes of the person who started them: no root, no
containers, no kubelet (a Pod is an object that nothing runs). Nobody's kubeconfig is read or
written, and everything is gone when the process that started it is.

    with ControlPlane.started() as plane:
        plane.admin.create("/api/v1/namespaces", {"metadata": {"name": "demo"}})
        plane.kubectl("apply", "-k", "deploy")

What never lives here: anything of the product. The product does not know that this exists.
"""

from __future__ import annotations

from controlplane.binaries import Binaries, BinariesUnavailable, find_kubectl
from controlplane.client import ApiError, Client
from controlplane.plane import ControlPlane, ControlPlaneError

__all__ = [
    "ApiError",
    "Binaries",
    "BinariesUnavailable",
    "Client",
    "ControlPlane",
    "ControlPlaneError",
    "find_kubectl",
]
