"""A real Prometheus with Kubernetes discovery, scraping sidecars and controller as the chart's PodMonitors would."""

from __future__ import annotations

import json
from typing import Any

from cluster import Cluster
from cluster.prometheus import Prometheus
from tests.cluster import processes
from tests.cluster.operator import SYSTEM
from tests.cluster.processes import caught
from tests.cluster.shop import Shop, eventually


def configuration(cluster: Cluster, *namespaces: str) -> str:
    """Pods' ports called sf-metrics or metrics, each second; ``instance`` is namespace/pod, not the address."""

    def pods(job: str, port: str) -> dict[str, Any]:
        discovery = {
            "role": "pod",
            "kubeconfig_file": str(cluster.kubeconfig),
            "namespaces": {"names": list(namespaces)},
        }
        keep = {
            "source_labels": ["__meta_kubernetes_pod_container_port_name"],
            "regex": port,
            "action": "keep",
        }
        labels = [
            {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target}
            for source, target in (
                ("namespace", "namespace"),
                ("pod_name", "pod"),
                ("pod_container_init", "init"),
            )
        ]
        # A new pod has a new address: without this every restart would begin new series.
        instance = {
            "source_labels": ["__meta_kubernetes_namespace", "__meta_kubernetes_pod_name"],
            "separator": "/",
            "target_label": "instance",
        }
        return {
            "job_name": job,
            "scrape_interval": "1s",
            "kubernetes_sd_configs": [discovery],
            "relabel_configs": [keep, *labels, instance],
        }

    jobs = [pods("sidecar", "sf-metrics"), pods("controller", "metrics")]
    return json.dumps({"scrape_configs": jobs})  # JSON is YAML


def seen(prometheus: Prometheus, query: str) -> float:
    """The value of a query once there is one that is not 0."""
    value: float = eventually(lambda: prometheus.value(query), query, timeout=60)
    return value


def test_sees_the_backup_and_the_recovery(cluster: Cluster, shop: Shop) -> None:
    """Conversion, backup and controller; then a pod killed in mid-conversion, whose recovery `increase()` counts."""
    shop.replicas = 1
    shop.open(seed=20_000)
    here = f'namespace="{shop.namespace}"'
    with cluster.prometheus(configuration(cluster, shop.namespace, SYSTEM)) as prometheus:
        seen(prometheus, f'up{{job="sidecar",{here}}}')
        # The controller's and the webhook's pods.
        seen(prometheus, f'min(up{{job="controller",namespace="{SYSTEM}"}})')
        seen(prometheus, "min(storageformat_webhook_certificate_expiry_timestamp_seconds) - time()")
        # A native sidecar's port is found although it stands among the init containers.
        (target,) = prometheus.query(f'up{{job="sidecar",{here}}}')
        assert target["metric"]["instance"] == f"{shop.namespace}/orders-0"
        assert target["metric"]["init"] == "true"
        assert prometheus.value(f"storageformat_backup_present{{{here}}}") == 0

        shop.apply(shop.storage_format(spec__backup={"retainFor": "15s"}))
        shop.wait_until_ready()
        of = f'storageformat_namespace="{shop.namespace}",storageformat="orders"'
        seen(prometheus, f"max_over_time(storageformat_backup_present{{{here}}}[5m])")
        seen(
            prometheus,
            f'increase(storageformat_conversions_total{{{here},result="succeeded"}}[5m])',
        )
        seen(prometheus, f"increase(storageformat_backups_created_total{{{here}}}[5m])")
        seen(prometheus, f'storageformat_controller_rollout_phase{{{of},phase="Complete"}}')
        seen(prometheus, f'storageformat_controller_pods{{{of},state="Converted"}}')
        assert (
            prometheus.value(f'storageformat_controller_evictions_total{{{of},result="evicted"}}')
            == 1
        )
        eventually(
            lambda: prometheus.value(f"storageformat_backup_present{{{here}}}") == 0,
            "the backup is gone after its time",
        )

        pod = shop.pod(0) or {}
        address, uid = pod["status"]["podIP"], pod["metadata"]["uid"]
        seen(prometheus, f"storageformat_gate_open{{{here}}}")
        shop.patch({"target": "v1"})
        eventually(lambda: shop.uid(0) not in {"", uid}, "the pod is another")
        with caught(shop, 0):
            # As when the node dies: nobody is asked to end, and the pod comes again elsewhere.
            cluster.stop_kubelet()
            processes.kill(shop, 0, processes.SIDECAR)
            cluster.delete_pod(shop.namespace, "orders-0", grace_seconds=0)
        cluster.start_kubelet()
        shop.wait_until_ready()
        assert (shop.pod(0) or {})["status"]["podIP"] != address
        recovered = f"sum(increase(storageformat_recoveries_total{{{here}}}[5m]))"
        seen(prometheus, recovered)
        seen(prometheus, f"time() - storageformat_last_recovery_timestamp_seconds{{{here}}} < 300")
        # One series over three pods, because the instance is the pod's name.
        addresses = prometheus.query(f"count by (instance) (storageformat_gate_open{{{here}}})")
        assert len(addresses) == 1
        assert (
            seen(prometheus, f"count(count_over_time(storageformat_gate_open{{{here}}}[10m]))") == 1
        )
