"""Other workloads than a rolling StatefulSet, on a real cluster."""

from __future__ import annotations

from typing import Any

from controlplane.client import Object
from format_operator.api.names import API_VERSION
from tests.cluster.shop import UID, Shop, app_script, eventually, is_ready, request


def deployment(shop: Shop, strategy: str) -> Object:
    """The example's pods, made by a Deployment on one claim."""
    template = shop.stateful_set()["spec"]["template"]
    template["spec"]["volumes"].append(
        {"name": "data", "persistentVolumeClaim": {"claimName": "orders-data"}}
    )
    labels = {"matchLabels": template["metadata"]["labels"]}
    spec: dict[str, Any] = {"replicas": 1, "selector": labels, "template": template}
    spec["strategy"] = {"type": strategy}
    return {"metadata": {"name": "orders"}, "spec": spec}


def ready_pod(shop: Shop, *, but: str = "") -> Object:
    """The one pod that is ready, once it is another than ``but``."""

    def found() -> Object | None:
        pods = [one for one in shop.pods().values() if is_ready(one)]
        return pods[0] if len(pods) == 1 and pods[0]["metadata"]["uid"] != but else None

    pod: Object = eventually(found, "one pod is ready")
    return pod


def summary(pod: Object) -> dict[str, Any]:
    status, content = request(pod["status"]["podIP"], "GET", "/orders")
    assert status == 200
    return dict(content)


def test_a_deployment_that_recreates(shop: Shop) -> None:
    """RollingUpdate is refused with its reason; after Recreate it converts: another pod, one FormatState left."""
    cluster = shop.cluster
    shop.create("api/v1", "configmaps", app_script())
    cluster.volume(shop.namespace, "orders-data", uid=UID)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    body = {"metadata": {"name": "orders-data"}, "spec": claim}
    shop.create("api/v1", "persistentvolumeclaims", body)
    shop.create("apis/apps/v1", "deployments", deployment(shop, "RollingUpdate"))
    first = ready_pod(shop)
    before = summary(first)
    shop.apply(shop.storage_format())
    shop.wait_for_rollout("Blocked")
    degraded = shop.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "UnsupportedStrategy")
    assert "Recreate" in degraded["message"]
    assert ready_pod(shop)["metadata"]["uid"] == first["metadata"]["uid"]

    path = shop.path("apis/apps/v1", "deployments", "orders")
    strategy = {"type": "Recreate", "rollingUpdate": None}
    cluster.client.patch(path, {"spec": {"strategy": strategy}})
    shop.wait_until_ready()
    after = summary(ready_pod(shop, but=first["metadata"]["uid"]))
    assert after["digest"] == before["digest"]
    assert after["format"] == "sqlitedict(hierarchical msgpack zstd)"
    # The old pod's FormatState spoke of the same volume: the new one's does now.
    states = shop.path(f"apis/{API_VERSION}", "formatstates")
    eventually(lambda: len(cluster.client.list(states)) == 1, "one FormatState per volume")
    assert shop.status()["persistedFormats"] == [{"name": "v2", "count": 1}]
