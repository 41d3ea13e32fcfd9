"""etcd forgets what a watch wants to go on from."""

from __future__ import annotations

from pathlib import Path

from controlplane import ApiError, ControlPlane
from tests.apiserver.controllers import Controllers, Rollout, eventually
from tests.apiserver.link import Link
from tests.apiserver.sidecars import DEPLOY, Cluster, exit_of, kept_as_it_is, wanted


def test_watches_that_expired(bare_control_plane: ControlPlane, tmp_path: Path) -> None:
    """Cut off while etcd compacts: resuming is refused (410), and sidecar and controller notice what was changed and deleted."""
    plane = bare_control_plane
    plane.install(DEPLOY)
    rollout = Rollout(plane, plane.create_namespace("shop"), replicas=2)
    controllers = Controllers(plane, tmp_path)
    with (
        Link(plane.port) as link,
        Cluster(plane, plane.create_namespace("pods"), tmp_path / "pods", link.url) as cluster,
    ):
        controllers.server = link.url
        try:
            _play(plane, link, cluster, controllers, rollout)
        finally:
            controllers.close()


def _play(
    plane: ControlPlane,
    link: Link,
    cluster: Cluster,
    controllers: Controllers,
    rollout: Rollout,
) -> None:
    pod = cluster.pod(resync="3600")
    cluster.create(wanted(pod))
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    rollout.make()
    for ordinal in range(2):
        rollout.report(ordinal, "Converted")
    controller = controllers.start("--resync", "3600", namespace=rollout.namespace)
    eventually(lambda: rollout.condition("Ready").get("status") == "True", "Ready")
    cluster.reports(phase="Converted", gate="Open")
    eventually(sidecar.is_watching)
    before = kept_as_it_is(pod.database)

    known = plane.admin.get(cluster.path("storageformats"))["metadata"]["resourceVersion"]
    link.down()
    cluster.change(target="v3")
    plane.admin.delete(
        f"/api/v1/namespaces/{rollout.namespace}/pods/orders-1", gracePeriodSeconds=0
    )
    plane.compact()
    plane.stop_apiserver(hard=True)
    plane.start_apiserver()
    eventually(lambda: _has_expired(plane, cluster.path("storageformats"), known), "expired")
    link.up()

    cluster.reports(phase="RestartRequired", targetFormat="v3")
    eventually(lambda: rollout.condition("Ready").get("status") == "False", "not Ready")
    assert kept_as_it_is(pod.database) == before
    # And what happens from now on.
    cluster.change(target="v2")
    cluster.reports(phase="Converted", targetFormat="v2")
    rollout.pod(1)
    rollout.report(1, "Converted")
    eventually(lambda: rollout.condition("Ready").get("status") == "True", "Ready again")
    assert "worker ended" not in sidecar.text()
    assert controller.is_running


def _has_expired(plane: ControlPlane, path: str, version: str) -> bool:
    """Whether a watch that goes on from there is refused."""
    try:
        answer = plane.admin.get(f"{path}?watch=true&timeoutSeconds=5&resourceVersion={version}")
    except ApiError as error:
        assert error.status == 429, "it is not ready yet"  # noqa: PT017 # only that is waited for
        return False
    return (answer.get("type"), answer.get("object", {}).get("code")) == ("ERROR", 410)
