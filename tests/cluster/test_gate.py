"""The app starts when its gate opens: not before the database is what it shall be, and never later than it must."""

from __future__ import annotations

import os

from cluster import Cluster, images
from controlplane.client import Object
from tests.cluster import processes
from tests.cluster.operator import Operator
from tests.cluster.processes import GATE, MANY, caught, starts_without_api, without_api
from tests.cluster.shop import Change, Shop, eventually

NEW = "sqlitedict(hierarchical msgpack zstd)"
OLD = "sqlitedict(natural pickle)"


def sidecar_arguments(*arguments: str) -> Change:
    """More arguments of the sidecar, in place of those that an earlier call has added."""

    def change(body: Object) -> None:
        sidecar = body["spec"]["template"]["spec"]["initContainers"][0]
        sidecar["args"] = [*sidecar["args"][:3], *arguments]

    return change


def test_not_before_a_conversion_is_done(shop: Shop) -> None:
    """However long it takes, and whether or not the gate dies meanwhile; where nothing is to be done, at once."""
    shop.replicas = 1
    shop.open(seed=MANY)
    before = shop.summary(0)
    # There was no StorageFormat: the app is as free as without a sidecar.
    assert before["format"] == OLD
    assert shop.state(0) == {}
    shop.apply(shop.storage_format())
    with caught(shop, 0) as one:
        gate = shop.cluster.container_pid(shop.namespace, "orders-0", GATE)
        os.kill(gate, 9)
        eventually(lambda: processes.restarts(shop.pod(0), GATE) == 1, "the gate was restarted")
        processes.app_stays_down(shop, 0, seconds=2)
        assert one.under_way
    shop.wait_until_ready()
    shop.all_ready()
    assert shop.summary(0) == {**before, "format": NEW}
    state = shop.state(0)
    assert state["phase"] == "Converted"
    assert shop.app_started_at(0) >= state["lastConversion"]["at"]

    # In the target already, and then without a StorageFormat again: nothing is done.
    for phase in ("Converted", None):
        if phase is None:
            shop.cluster.client.delete(
                shop.path("apis/storageformat.dev/v1alpha1", "storageformats", "orders")
            )
            eventually(lambda: shop.state(0) == {}, "its FormatState goes with it")
        shop.restart(0)
        assert shop.summary(0) == {**before, "format": NEW}
        assert shop.state(0).get("phase") == phase
    assert processes.history(shop, 0) == [("conversion", "succeeded")]


def test_not_before_a_permit_comes_or_the_wait_is_over(shop: Shop, operator: Operator) -> None:
    """A pod that starts without a permit waits for one. When none comes in time, its app starts as before."""
    shop.replicas = 1
    shop.open(sidecar_arguments("--permit-wait", "4"), seed=100)
    before = shop.summary(0)
    operator.scale(0)
    try:
        shop.apply(shop.storage_format())
        shop.restart(0, wait=False)
        assert shop.wait_for_phase(0, "Waiting")["reason"] == "NoPermit"
        assert not shop.app_started(0)
        shop.all_ready()
        assert shop.summary(0) == before
        state = shop.wait_for_phase(0, "RestartRequired")
        assert state["reason"] == "NoPermit"
        assert state["restartRequired"]

        # One that waits longer is still there when the controller comes.
        uid = shop.uid(0)
        shop.change(sidecar_arguments("--permit-wait", "600"))
        eventually(lambda: shop.uid(0) not in {"", uid}, "the StatefulSet has replaced it")
        uid = shop.uid(0)
        shop.wait_for_phase(0, "Waiting")
        processes.app_stays_down(shop, 0, seconds=2)
    finally:
        operator.scale(1)
    shop.wait_until_ready()
    # It was converted where it stood.
    assert shop.uid(0) == uid
    assert shop.summary(0) == {**before, "format": NEW}


def test_sidecars_are_there_before_the_operator(another_cluster: Cluster) -> None:
    """No CRDs, no rights, then not even an API server: the app starts. The operator may come later."""
    namespace = another_cluster.create_namespace("shop")
    shop = Shop(another_cluster, namespace, images.PRODUCT, replicas=1)
    shop.open(sidecar_arguments("--api-wait", "3"), seed=100)
    before = shop.summary(0)
    assert before["format"] == OLD
    with without_api(another_cluster):
        processes.restart_sandbox(shop, 0)
        assert starts_without_api(shop, 0) == OLD
    Operator(another_cluster).install()
    shop.apply(shop.storage_format())
    shop.wait_until_ready()
    assert shop.summary(0) == {**before, "format": NEW}
