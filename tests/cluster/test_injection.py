"""An annotation instead of containers: the chart's webhook puts them into the pods of a real StatefulSet."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import Cluster, images
from controlplane import ApiError
from controlplane.client import Object
from format_operator.api.injection import INJECT
from tests.cluster.operator import SYSTEM
from tests.cluster.shop import Shop, chronicled, eventually, in_parallel, is_ready, writing

WEBHOOK = "deployment/storageformat-operator-webhook"
RUN_AND_TOKEN = {"storageformat-run", "storageformat-token"}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
OURS = ["storageformat", "storageformat-gate"]


@pytest.fixture
def two(shop: Shop) -> Shop:
    """Two pods of the example."""
    shop.replicas = 2
    return shop


def asks(annotation: str) -> Any:
    """A change of the example's StatefulSet: nothing of ours in its template but the annotation."""

    def change(body: Object) -> None:
        template = body["spec"]["template"]
        template["metadata"]["annotations"][INJECT] = annotation
        spec = template["spec"]
        spec["initContainers"] = [
            {
                "name": "before",
                "image": images.PRODUCT,
                "imagePullPolicy": "Never",
                "command": ["python", "-c", "import os; print(os.listdir('/data'))"],
                "securityContext": spec["containers"][0]["securityContext"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ]
        spec["volumes"] = [one for one in spec["volumes"] if one["name"] not in RUN_AND_TOKEN]

    return change


def touched(body: Object) -> None:
    """A change of the StatefulSet that means nothing to its pods."""
    body["metadata"].setdefault("annotations", {})["touched"] = "yes"


def test_an_annotation_is_enough(two: Shop) -> None:
    """The pods get sidecar and gate before their own init container, as the user of the app; the rollout converts them one
    after the other under load, and nothing is lost. Without the StorageFormat they were told to wait for it."""
    shop = two
    shop.open(in_parallel, asks("orders"), seed=50, wait=False)

    def told() -> bool:
        events = shop.cluster.client.list(shop.path("api/v1", "events"))
        return any("there is no StorageFormat orders" in one["message"] for one in events)

    eventually(told, "an event says what is missing")
    assert not shop.pods()
    shop.apply(shop.storage_format(spec__target="v1"))
    shop.change(touched)  # its controller would try again some time: longer after each refusal
    shop.all_ready()
    for pod in shop.pods().values():
        containers = pod["spec"]["initContainers"]
        assert [one["name"] for one in containers] == [*OURS, "before"]
        assert containers[0]["securityContext"]["runAsUser"] == 10001
        assert containers[0]["args"] == ["sidecar", "--database", "orders=/data/orders.db"]
    shop.wait_until_ready()
    before = [shop.summary(ordinal)["digest"] for ordinal in range(2)]
    with writing(shop), chronicled(shop) as chronicle:
        shop.apply(shop.storage_format())
        shop.wait_until_ready()
    assert {shop.summary(ordinal)["format"] for ordinal in range(2)} == {
        "sqlitedict(hierarchical msgpack zstd)"
    }
    assert chronicle.most_out == 1
    assert chronicle.order == ["orders-1", "orders-0"]
    assert len(before) == shop.status()["pods"] == 2
    assert shop.condition("Degraded")["reason"] == "AsExpected"


def test_a_new_webhook_is_not_noticed(cluster: Cluster, shop: Shop) -> None:
    """While the webhook's pods are replaced by others, no pod that asks is refused."""
    pod = {
        "metadata": {"name": "probe", "annotations": {INJECT: "orders=/data/orders.db"}},
        "spec": {
            "containers": [
                {
                    "name": "app",
                    "image": images.PRODUCT,
                    "securityContext": RESTRICTED,
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }
    path = f"{shop.path('api/v1', 'pods')}?dryRun=All"
    label = "app.kubernetes.io%2Fcomponent%3Dwebhook"
    pods = f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector={label}"
    old = {one["metadata"]["uid"] for one in cluster.client.list(pods)}
    assert len(old) == 2
    refusals: list[str] = []

    def replaced() -> bool:
        try:
            made = cluster.client.create(path, pod)
            assert [one["name"] for one in made["spec"]["initContainers"]] == OURS
        except ApiError as error:
            refusals.append(error.message)
        found = cluster.client.list(pods)
        uids = {one["metadata"]["uid"] for one in found}
        return len(uids) == 2 and not uids & old and all(map(is_ready, found))

    cluster.kubectl("rollout", "restart", WEBHOOK, "-n", SYSTEM)
    eventually(replaced, "both are others")
    assert refusals == []
