"""What a sidecar may not do, or cannot know yet: said by name, and never a reason to hold the app back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import ApiError, ControlPlane
from tests.apiserver.sidecars import (
    DEPLOY,
    ROLLING,
    Cluster,
    assert_holds,
    eventually,
    exit_of,
    hash_of,
    kept_as_it_is,
    says,
    wanted,
)
from tests.sidecar.pods import Pod

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLE = f"{RBAC}/clusterroles/storageformat-sidecar"
BINDING = f"{RBAC}/clusterrolebindings/storageformat-sidecar"


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def role(control_plane: ControlPlane) -> Iterator[None]:
    """Role and binding of all sidecars are a test's to change: they are as they were afterwards."""
    yield
    control_plane.kubectl("apply", "-f", str(DEPLOY / "rbac.yaml"))


def code_of(cluster: Cluster, pod: Pod, method: str, *path: str, body: Any = None) -> int:
    """How the API server answers that request with the pod's token."""
    token = (Path(pod.options["--token-dir"]) / "token").read_text()
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    try:
        cluster.plane.client(token).request(method, cluster.path(*path), body, content_type=kind)
    except ApiError as error:
        return error.status
    return 200


@pytest.mark.usefixtures("role")
def test_nothing_is_allowed(cluster: Cluster) -> None:
    """Without the RoleBinding: verb and resource are named, the app starts; once it is there, all is noticed."""
    pod = cluster.pod(api_wait="0.5")
    cluster.create(wanted(pod))
    before = kept_as_it_is(pod.database)
    cluster.plane.admin.delete(BINDING)
    eventually(lambda: code_of(cluster, pod, "GET", "storageformats", "orders") == 403)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    assert exit_of(gate) == 0
    says(gate, "gate=open .*may not `get storageformats`.*storageformats.storageformat.dev")
    sidecar.says("API server gives no answer .*may not `get storageformats`")
    fact = sidecar.health()["databases"][0]
    assert (fact["reason"], fact["gate"], fact["api"]) == ("APIForbidden", "open", "forbidden")
    seen = sidecar.metrics()
    name = 'storageformat_api_requests_total{code="403",resource="storageformats",verb="get"}'
    assert seen[name] >= 1
    assert kept_as_it_is(pod.database) == before
    cluster.plane.kubectl("apply", "-f", str(DEPLOY / "rbac.yaml"))
    cluster.reports(phase="RestartRequired", gate="Open")
    assert kept_as_it_is(pod.database) == before


@pytest.mark.usefixtures("role")
def test_reporting_is_not_allowed(cluster: Cluster) -> None:
    """A role without `patch` on the status: converted and opened all the same, and the missing right is named."""
    pod = cluster.pod()
    cluster.create(wanted(pod))
    rules = cluster.plane.admin.get(ROLE)["rules"]
    kept = [one for one in rules if one["resources"] != ["formatstates/status"]]
    assert len(kept) == len(rules) - 1
    cluster.plane.admin.patch(ROLE, {"rules": kept})
    probe = ("formatstates", "orders.orders-0", "status")
    eventually(lambda: code_of(cluster, pod, "PATCH", *probe, body={"status": {}}) == 403)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v2")
    sidecar.says("cannot report .*may not `patch formatstates/status`")
    assert cluster.status() == {}
    cluster.plane.kubectl("apply", "-f", str(DEPLOY / "rbac.yaml"))
    cluster.reports(phase="Converted", gate="Open")
    sidecar.says("reporting again")


def test_a_token_that_is_not_accepted(cluster: Cluster) -> None:
    """401 from the start: said, the gate opens; a good token in the file is picked up by itself."""
    pod = cluster.pod(api_wait="0.5")
    cluster.create(wanted(pod))
    token = Path(pod.options["--token-dir"]) / "token"
    good = token.read_text()
    token.write_text("nonsense")
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    assert exit_of(gate) == 0
    says(gate, "gate=open .*the token is not accepted")
    assert sidecar.health()["databases"][0]["gate"] == "open"
    token.write_text(good)
    cluster.reports(phase="RestartRequired", gate="Open")


def test_the_crds_come_later(bare_control_plane: ControlPlane, tmp_path: Path) -> None:
    """Kind not installed: the gate opens at once. Installed later: noticed without a restart, a permit too."""
    plane = bare_control_plane
    for name in ("rbac", "admission-policy"):
        plane.kubectl("apply", "-f", str(DEPLOY / f"{name}.yaml"))
    namespace = plane.create_namespace("later")
    with Cluster(plane, namespace, tmp_path) as cluster:
        # If it had to wait for the API the test would take these ten minutes.
        pod = cluster.pod(api_wait="600", permit_wait="600")
        eventually(lambda: code_of(cluster, pod, "GET", "storageformats", "orders") == 404)
        before = kept_as_it_is(pod.database)
        sidecar, gate = cluster.sidecar(pod), pod.gate()
        assert exit_of(gate) == 0
        says(gate, "gate=open .*not installed")
        assert sidecar.health()["databases"][0]["api"] == "unserved"
        plane.install(DEPLOY)
        body = wanted(pod)
        plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))
        cluster.reports(phase="RestartRequired", reason="AppRunning", gate="Open")
        rolling = wanted(pod, spec__rollout=ROLLING)
        plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(rolling))
        cluster.reports(phase="RestartRequired", observedGeneration=2)
        cluster.permit(hash_of(rolling))
        cluster.reports(phase="Armed", armedFor=hash_of(rolling))
        assert kept_as_it_is(pod.database) == before
        assert sidecar.text().count("worker started") == 1
