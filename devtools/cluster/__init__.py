"""A real one-node Kubernetes on this machine, for the tests and for ``make cluster``.

etcd, API server, controllers, scheduler, kubelet, kube-proxy and containerd, in namespaces of their
own: several clusters run side by side, none sees the machine's network, and all of one ends with
one process. Root only. Images come from archives: there is no registry, no DNS and no way out.

    with Cluster.started("mine", [pause(), product()]) as cluster:
        cluster.create_namespace("shop")
        cluster.volume("shop", "data-orders-0", uid=1000)
        cluster.kubectl("apply", "-f", "examples/orders")

What never lives here: anything of the product. The product does not know that this exists.
"""

from __future__ import annotations

from cluster.cluster import Cluster, condition
from cluster.errors import ClusterError, ClusterUnavailable
from cluster.prometheus import Prometheus
from cluster.volumes import Volume

__all__ = [
    "Cluster",
    "ClusterError",
    "ClusterUnavailable",
    "Prometheus",
    "Volume",
    "condition",
]
