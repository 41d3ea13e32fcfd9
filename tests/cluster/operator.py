"""The operator on a real cluster, installed from its chart as a person would."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster import Cluster, ClusterError, images
from controlplane.client import wait_until

CHART: Final = Path(__file__).parents[2] / "charts" / "storageformat-operator"
SYSTEM: Final = "storageformat-system"
DEPLOYMENT: Final = "deployment/storageformat-operator"
LEASE: Final = "storageformat-operator"


@dataclass(frozen=True)
class Operator:
    """One release of the chart."""

    cluster: Cluster
    namespace: str = SYSTEM
    release: str = "storageformat"

    def install(self, *options: str) -> None:
        """``helm upgrade --install``, with the image that this checkout makes."""
        repository, _, tag = images.PRODUCT.rpartition(":")
        image = f"image.repository={repository},image.tag={tag},image.pullPolicy=Never"
        # `restricted`, as deploy/ has it; Helm makes the namespace without labels.
        if not self.cluster.client.exists(f"/api/v1/namespaces/{self.namespace}"):
            self.cluster.create_namespace(self.namespace)
        self.cluster.helm(
            *("upgrade", "--install", self.release, str(CHART), "--namespace", self.namespace),
            *("--set", image, "--set", "logLevel=debug", *options, "--wait", "--timeout", "120s"),
        )

    def pods(self) -> list[str]:
        """Names of the controller's pods."""
        label = "app.kubernetes.io%2Fcomponent%3Dcontroller"
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={label}"
        return [one["metadata"]["name"] for one in self.cluster.client.list(path)]

    def kill(self) -> None:
        """SIGKILL to the controller, and wait until its container is another."""
        (pod,) = self.pods()
        pid = self.cluster.container_pid(self.namespace, pod, "controller")
        os.kill(pid, signal.SIGKILL)

        def another() -> bool:
            try:
                return self.cluster.container_pid(self.namespace, pod, "controller") != pid
            except Exception:  # between two containers there is none
                return False

        wait_until(another, timeout=120, every=0.2, what="the controller's container is another")

    def leader(self) -> tuple[str, int]:
        """The pod that holds the Lease, and its process's id on this machine."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{LEASE}"

        def found() -> tuple[str, int] | None:
            holder = self.cluster.client.get(path)["spec"].get("holderIdentity") or ""
            for pod in self.pods():
                if holder.startswith(f"{pod}_"):
                    try:
                        return pod, self.cluster.container_pid(self.namespace, pod, "controller")
                    except ClusterError:  # between two containers there is none
                        return None
            return None

        leads: tuple[str, int] = wait_until(found, timeout=120, every=0.1, what="somebody leads")
        return leads

    def kill_leader(self, leader: tuple[str, int]) -> None:
        """SIGKILL to it; its pod goes, too, because a container's next start would be delayed."""
        pod, pid = leader
        os.kill(pid, signal.SIGKILL)
        self.cluster.delete_pod(self.namespace, pod)

    def scale(self, replicas: int) -> None:
        """So many instances; returns when they are there, or gone."""
        self.cluster.kubectl("scale", DEPLOYMENT, f"--replicas={replicas}", "-n", self.namespace)
        if replicas:
            self.cluster.kubectl(
                *("rollout", "status", DEPLOYMENT, "-n", self.namespace, "--timeout=90s")
            )
        else:
            wait_until(lambda: not self.pods(), timeout=60, what="the controller is gone")

    def logs(self) -> str:
        """The end of every instance's log."""
        command = ("logs", "--prefix", "--tail=60", "-n", self.namespace)
        label = "app.kubernetes.io/component=controller"
        return self.cluster.kubectl(*command, "-l", label, check=False).stdout
