"""Pods that ask for what cannot be: each is refused with what is wrong and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admission.pods import claim, injected, mount, mounted, pod, refused

A, B = mount("/data", "a"), mount("/data", "b")


def volume(kind: str, **value: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "data", kind: value}]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (pod(""), "it names no StorageFormat; write NAME or NAME=/PATH"),
        (pod("Orders"), "'Orders' is no name of a StorageFormat"),
        (pod("orders,orders=/data/x.db"), "orders is there twice"),
        (pod("orders=data/x.db"), "orders=data/x.db: the path is absolute"),
        (pod("orders=/data/../x.db"), "the path is absolute and in its shortest form"),
        (pod("orders=/data/*/x.db"), "a glob may stand in the last part only"),
        (
            pod("nothing"),
            "no StorageFormat nothing in this namespace; create it first, or say the path",
        ),
        (pod("orders=/elsewhere/x.db"), "no volumeMount of any container has it"),
        (pod("orders=/database/x.db"), "no volumeMount of any container has it"),
        (
            pod(containers=[mounted(mount("/data/orders.db", subPath="orders.db"))]),
            "/data/orders.db itself is a mount of the container app",
        ),
        (pod(**volume("emptyDir")), "the volume data is of the kind emptyDir"),
        (pod(**volume("ephemeral")), "the volume data is of the kind ephemeral"),
        (pod(**volume("csi", driver="x")), "the volume data is of the kind csi"),
        (pod(**volume("someday")), "the volume data is of the kind someday"),
        (pod(volumes=[{"name": "data"}]), "the volume data is of the kind emptyDir"),
        (pod(**volume("configMap", name="x")), "is a configMap, which nobody can write to"),
        (pod(volumes=[]), "the volume data is not among the pod's volumes"),
        (
            pod(**volume("persistentVolumeClaim", claimName="x", readOnly=True)),
            "read-only for the whole pod",
        ),
        (
            pod(containers=[mounted(A, name="x"), mounted(B, name="y")]),
            "x (a at /data), y (b at /data); say whose it is: storageformat.dev/container",
        ),
        (pod(options={"container": "x"}), "there is no container x; there are app"),
        (pod(os__name="windows"), "the pod is for windows"),
        (pod(nodeSelector={"kubernetes.io/os": "windows"}), "the pod is for windows"),
        (
            pod(containers=[mounted(mount(), name="storageformat")]),
            "there is a container storageformat that is none of ours",
        ),
        (
            pod(initContainers=[{"name": "storageformat-gate"}]),
            "there is a container storageformat-gate that is none of ours",
        ),
        (
            pod(volumes=[claim("data"), {"name": "storageformat-run", "emptyDir": {}}]),
            "there is a volume storageformat-run that is none of ours",
        ),
        (
            pod("orders=/run/x.db", containers=[mounted(mount("/run"))]),
            "/run and the sidecar's own /run/storageformat overlap",
        ),
        (
            pod(containers=[mounted(mount(), ports=[{"containerPort": 9865}])]),
            "the port 9865 of the sidecar's metrics is taken by the container app",
        ),
        (
            pod(options={"metrics-port": "x"}),
            "annotation storageformat.dev/metrics-port: 'x' is no",
        ),
        (
            pod(options={"metrics-port": "0"}),
            "annotation storageformat.dev/metrics-port: 0 is no port",
        ),
        (
            pod(options={"run-as-user": "-1"}),
            "annotation storageformat.dev/run-as-user: '-1' is no",
        ),
        (
            pod(options={"run-as-group": "9999999999"}),
            "annotation storageformat.dev/run-as-group: 9999999999 is no id",
        ),
        (pod(options={"requests": "cpu"}), "'cpu': write cpu=QUANTITY"),
        (pod(options={"limits": "gpu=1"}), "'gpu=1': write cpu=QUANTITY"),
        (
            pod(options={"limits": "cpu=much"}),
            "annotation storageformat.dev/limits: cpu: 'much' is no",
        ),
        (pod(options={"pickle-allow": "os"}), "'os' is no class; write MODULE.NAME"),
        (
            pod(options={"migrations": "A_b"}),
            "annotation storageformat.dev/migrations: 'A_b' is no",
        ),
        (pod(options={"migrations": "a:/data/m"}), "/data/m and the app's volume at /data overlap"),
    ],
)
def test_it_is_said_what_is_wrong(body: dict[str, Any], says: str) -> None:
    """The message names pod, annotation and the thing."""
    message = refused(body)
    assert message.startswith("pod shop/orders-0, annotation storageformat.dev/")
    assert says in message


def test_a_pod_that_has_no_name_yet() -> None:
    """Its workload's word for it is shown."""
    body = pod("")
    body["metadata"] = {**body["metadata"], "generateName": "orders-7f-"}
    del body["metadata"]["name"], body["metadata"]["namespace"]
    assert refused(body).startswith("pod shop/orders-7f-…, annotation")


@pytest.mark.parametrize(
    ("env", "missing"),
    [
        ([], "WHERE"),
        ([{"name": "WHERE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}], "WHERE"),
        ([{"name": "WHERE", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}], "WHERE"),
        ([{"name": "WHERE", "value": "$(OTHER)"}], "OTHER"),
    ],
)
def test_a_sub_path_of_what_the_sidecar_cannot_have(env: list[Any], missing: str) -> None:
    """A variable that is neither written out nor from the Downward API is named."""
    app = mounted(mount(subPathExpr="$(WHERE)"), env=env)
    assert f"needs {missing}, which is neither" in refused(pod(containers=[app]))


def test_a_sub_path_of_a_variable_that_means_two_things() -> None:
    """The sidecar's own variables cannot become others."""
    app = mounted(mount(subPathExpr="$(POD_NAME)"), env=[{"name": "POD_NAME", "value": "x"}])
    assert "names the variable POD_NAME, which means something else" in refused(
        pod(containers=[app])
    )


def test_users_that_differ() -> None:
    """One sidecar has one user: who it shall be is asked for, and taken."""
    one = mounted(mount(), name="one", securityContext={"runAsUser": 1})
    two = mounted(mount(), name="two", securityContext={"runAsUser": 2})
    message = refused(pod(containers=[one, two]))
    assert "the containers one, two run as different users" in message
    assert "storageformat.dev/run-as-user: UID" in message
    injected(pod(containers=[one, two], options={"run-as-user": "1"}))

    two["volumeMounts"] = [mount("/b", "b")]
    body = pod("a=/data/a.db,b=/b/b.db", containers=[one, two], volumes=[claim("data"), claim("b")])
    message = refused(body)
    assert "annotation storageformat.dev/run-as-user: one sidecar has one user" in message
    assert "a by 1, b by 2" in message
    injected(pod(options={"run-as-user": "0"}) | {"spec": body["spec"]})


def test_a_sidecar_that_serves_something_else() -> None:
    """One that was written by hand is not changed: what it lacks is told."""
    by_hand = injected(pod())
    for asked, says in (
        ("orders,users", "which serves orders and not users"),
        ("orders=/data/other.db", "which serves orders=/data/orders.db and not /data/other.db"),
    ):
        by_hand["metadata"]["annotations"]["storageformat.dev/inject"] = asked
        assert says in refused(by_hand)


def test_what_is_on_the_host_is_taken() -> None:
    """A hostPath outlives the pod: its database is converted, and the controller never evicts for it."""
    injected(pod(**volume("hostPath", path="/var/lib/orders")))
