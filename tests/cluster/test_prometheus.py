"""A real Prometheus with Kubernetes discovery, scraping sidecars and controller as the chart's PodMonitors would."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

import yaml

import alertrules
import dashboard
import dashboard_picture
from cluster import Cluster
from cluster.prometheus import Prometheus
from tests.cluster import processes
from tests.cluster.operator import SYSTEM
from tests.cluster.processes import caught
from tests.cluster.shop import Shop, eventually

#: Where `make picture` wants the dashboard's answers, of three pods; nobody else does.
PICTURE: Final = os.environ.get("STORAGEFORMAT_DASHBOARD_ANSWERS")
REPLICAS: Final = 3 if PICTURE else 1


def configuration(cluster: Cluster, *namespaces: str, rules: Path) -> str:
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
    document = {
        "global": {"evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": jobs,
    }
    return json.dumps(document)  # JSON is YAML


def seen(prometheus: Prometheus, query: str) -> float:
    """The value of a query once there is one that is not 0."""
    value: float = eventually(lambda: prometheus.value(query), query, timeout=60)
    return value


def ask_the_dashboard(prometheus: Prometheus, began: float, namespace: str) -> None:
    """Every query of the committed dashboard has an answer, but those that are about trouble that was not."""
    asked = list(
        dashboard_picture.answers(
            *(prometheus, began, time.time()),
            namespace=namespace,
            storageformat="orders",
            interval="15s",
        )
    )
    empty = {expr for _, expr, series in asked if not series}
    assert empty <= dashboard.rare(), empty
    assert len(asked) > len(dashboard.rare())
    if PICTURE:
        Path(PICTURE).write_text(json.dumps(dashboard_picture.document(asked, began)))


def ask_the_alerts(prometheus: Prometheus, namespace: str) -> None:
    """After a recovery that went well one alert tells of it, and none says that a database is in trouble."""
    recovered = f'ALERTS{{alertname="StorageFormatRecovered",namespace="{namespace}"}}'
    assert seen(prometheus, f"max({recovered})") == 1
    firing = prometheus.query('ALERTS{alertstate="firing",severity="critical"}')
    assert firing == []


def test_sees_the_backup_and_the_recovery(cluster: Cluster, shop: Shop, tmp_path: Path) -> None:
    """Conversion, backup and controller; then a pod killed in mid-conversion, whose recovery `increase()` counts.

    The dashboard has something to show in each of its panels, and the alerts are evaluated by the same Prometheus.
    """
    shop.replicas = REPLICAS
    shop.open(seed=20_000)
    here = f'namespace="{shop.namespace}"'
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(alertrules.groups()))
    config = configuration(cluster, shop.namespace, SYSTEM, rules=rules)
    began = time.time()
    with cluster.prometheus(config) as prometheus:
        first = f'{here},pod="orders-0"'
        seen(prometheus, f'up{{job="sidecar",{first}}}')
        # The controller's and the webhook's pods.
        seen(prometheus, f'min(up{{job="controller",namespace="{SYSTEM}"}})')
        seen(prometheus, "min(storageformat_webhook_certificate_expiry_timestamp_seconds) - time()")
        # A native sidecar's port is found although it stands among the init containers.
        (target,) = prometheus.query(f'up{{job="sidecar",{first}}}')
        assert target["metric"]["instance"] == f"{shop.namespace}/orders-0"
        assert target["metric"]["init"] == "true"
        assert prometheus.value(f"storageformat_backup_present{{{first}}}") == 0

        shop.apply(shop.storage_format(spec__backup={"retainFor": "15s"}))
        shop.wait_until_ready()
        of = f'storageformat_namespace="{shop.namespace}",storageformat="orders"'
        seen(prometheus, f"max_over_time(storageformat_backup_present{{{first}}}[5m])")
        seen(
            prometheus,
            f'increase(storageformat_conversions_total{{{first},result="succeeded"}}[5m])',
        )
        seen(prometheus, f"increase(storageformat_backups_created_total{{{first}}}[5m])")
        seen(prometheus, f'storageformat_controller_rollout_phase{{{of},phase="Complete"}}')
        seen(prometheus, f'storageformat_controller_pods{{{of},state="Converted"}}')
        assert (
            prometheus.value(f'storageformat_controller_evictions_total{{{of},result="evicted"}}')
            == REPLICAS
        )
        eventually(
            lambda: prometheus.value(f"max(storageformat_backup_present{{{here}}})") == 0,
            "the backup is gone after its time",
        )

        pod = shop.pod(0) or {}
        address, uid = pod["status"]["podIP"], pod["metadata"]["uid"]
        seen(prometheus, f"storageformat_gate_open{{{first}}}")
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
        seen(prometheus, f"time() - storageformat_last_recovery_timestamp_seconds{{{first}}} < 300")
        # One series over three pods, because the instance is the pod's name.
        addresses = prometheus.query(f"count by (instance) (storageformat_gate_open{{{here}}})")
        assert len(addresses) == REPLICAS
        assert (
            seen(prometheus, f"count(count_over_time(storageformat_gate_open{{{here}}}[10m]))")
            == REPLICAS
        )
        ask_the_alerts(prometheus, shop.namespace)
        ask_the_dashboard(prometheus, began, shop.namespace)
    told = cluster.kubectl("describe", "pod", "orders-0", "-n", shop.namespace).stdout
    assert "ConversionSucceeded" in told
    assert "ConversionRecovered" in told
