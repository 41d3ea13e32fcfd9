"""The API server is away: nothing waits for it longer than it must, and all is told when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import ApiError, Binaries, ControlPlane
from controlplane.client import wait_until
from tests.apiserver.link import Link
from tests.apiserver.sidecars import (
    DEPLOY,
    FORMATS,
    Cluster,
    assert_holds,
    eventually,
    exit_of,
    go_on,
    kept_as_it_is,
    paused,
    says,
    wanted,
)

SUCCEEDED = 'storageformat_conversions_total{result="succeeded"}'


@pytest.fixture(scope="module")
def plane(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that the tests of this module stop and start."""
    plane = ControlPlane(tmp_path_factory.mktemp("outages") / "controlplane", binaries)
    try:
        plane.start()
        plane.install(DEPLOY)
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def own(plane: ControlPlane, tmp_path: Path) -> Iterator[Cluster]:
    """Pods of the control plane that may be stopped; it runs again afterwards."""
    namespace = plane.create_namespace(f"t-{abs(hash(tmp_path)):x}")
    with Cluster(plane, namespace, tmp_path) as cluster:
        yield cluster
    if not plane.alive("kube-apiserver"):
        plane.start_apiserver()


@pytest.fixture
def link(control_plane: ControlPlane) -> Iterator[Link]:
    with Link(control_plane.port) as link:
        yield link


@pytest.fixture
def cluster(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, link: Link
) -> Iterator[Cluster]:
    """Pods that reach the shared control plane through ``link`` only."""
    with Cluster(control_plane, namespace, tmp_path, link.url) as cluster:
        yield cluster


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "no answer"])
def test_away_at_the_start(cluster: Cluster, link: Link, silent: bool) -> None:
    """Refused or silent: the gate opens within --api-wait on the old format and says why; later all is noticed."""
    pod = cluster.pod(api_wait="0.5")
    cluster.create(wanted(pod))
    before = kept_as_it_is(pod.database)
    link.down()
    if silent:
        link.up(silent=True)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    says(gate, "gate=closed database=orders reason=AskingAPI")
    assert exit_of(gate) == 0
    opened = says(gate, "gate=open message=.*").group()
    assert ("did not answer in time" if silent else "get storageformats") in opened
    assert "no StorageFormat was seen before" in opened
    assert "object at 0x" not in opened
    assert sidecar.health()["databases"][0]["reason"] == "APIUnreachable"
    assert sidecar.health()["works"] is True
    seen = sidecar.metrics()
    assert seen["storageformat_gate_open"] == 1
    assert kept_as_it_is(pod.database) == before
    assert cluster.state() == {}
    link.down()
    link.up()
    status = cluster.reports(phase="RestartRequired", reason="APIUnreachable", gate="Open")
    assert status["restartRequired"] is True
    assert kept_as_it_is(pod.database) == before


def test_back_before_the_wait_is_over(cluster: Cluster, link: Link) -> None:
    """Away at the start but back within --api-wait: converted as if nothing had been."""
    pod = cluster.pod(api_wait="600")
    cluster.create(wanted(pod))
    link.down()
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    sidecar.says("API server gives no answer")
    assert gate.is_running
    link.up()
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v2")
    cluster.reports(phase="Converted", gate="Open")


def test_the_api_server_dies_during_a_conversion(own: Cluster) -> None:
    """The conversion finishes, the gate opens, the app may run; the report comes when the server is back."""
    pod = own.pod()
    own.create(wanted(pod))
    sidecar = own.sidecar(pod, pause_at="build.after-staging")
    gate = pod.gate()
    paused(pod)
    own.reports(phase="Converting", gate="Closed")
    own.plane.stop_apiserver(hard=True)
    go_on(pod)
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v2")
    assert sidecar.metrics()[SUCCEEDED] == 1
    sidecar.says("cannot report")
    own.plane.start_apiserver()
    status = own.reports(phase="Converted", gate="Open")
    assert status["lastConversion"]["result"] == "succeeded"


def test_away_for_long(own: Cluster) -> None:
    """Nothing ends and nothing is flooded; when the server is back, the watch is too, and notices a change."""
    pod = own.pod(resync="1")
    own.create(wanted(pod))
    sidecar = own.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    own.reports(phase="Converted", gate="Open")
    eventually(sidecar.is_watching)
    before = kept_as_it_is(pod.database)
    own.plane.stop_apiserver(hard=True)
    sidecar.says("API server gives no answer")
    seen = sidecar.metrics()
    name = 'storageformat_api_requests_total{code="none",resource="storageformats",verb="get"}'
    eventually(lambda: sidecar.metrics()[name] >= seen[name] + 2)
    assert sidecar.health()["works"] is True
    assert seen["storageformat_gate_open"] == 1
    own.plane.start_apiserver()
    sidecar.says("API server answers")
    own.change(target="v3")
    own.reports(phase="RestartRequired", targetFormat="v3")
    assert kept_as_it_is(pod.database) == before
    # Refused, no answer, overloaded while it starts: each once, however long it takes.
    assert sidecar.text().count("API server gives no answer") < 5
    assert sidecar.text().count("worker started") == 1


def test_answers_that_come_in_pieces(cluster: Cluster, link: Link) -> None:
    """A slow line, and a StorageFormat of several packets: an answer is read to its end before it is understood."""
    pod = cluster.pod()
    more = [{"name": f"later-{n}", "sqlitedict": {"tables": [f"table-{n}" * 9]}} for n in range(20)]
    cluster.create(wanted(pod, spec__formats=[*FORMATS, *more]))
    link.pieces = 400
    cluster.sidecar(pod)
    gate = pod.gate()
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v2")
    cluster.reports(phase="Converted", gate="Open")
    assert "InvalidStorageFormat" not in gate.text()


def test_the_watch_is_cut(cluster: Cluster, link: Link) -> None:
    """A connection that breaks is made again by itself; the next change is noticed without a full look."""
    pod = cluster.pod(resync="3600")
    cluster.create(wanted(pod))
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    cluster.reports(phase="Converted", gate="Open")
    eventually(sidecar.is_watching)
    assert link.cut() > 0
    cluster.change(target="v3")
    cluster.reports(phase="RestartRequired", targetFormat="v3")
    assert sidecar.health()["watchers"]["orders"]["alive"] is True
    assert "worker ended" not in sidecar.text()


def test_the_token_is_rotated(own: Cluster) -> None:
    """The old token is worth nothing any more: requests and the watch go on with the one in the file."""
    pod = own.pod(resync="3600")
    own.create(wanted(pod))
    sidecar = own.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    own.reports(phase="Converted", gate="Open")
    eventually(sidecar.is_watching)
    file = Path(pod.options["--token-dir"]) / "token"
    old = own.plane.client(file.read_text())
    # A token that is bound to a pod ends with the pod's object; the server forgets what it has verified.
    pods = f"/api/v1/namespaces/{own.namespace}/pods/{pod.name}"
    own.plane.admin.delete(pods, gracePeriodSeconds=0)
    own.give_token(pod)
    own.plane.stop_apiserver(hard=True)
    own.plane.start_apiserver()
    wait_until(lambda: _status_of(old, own) == 401, what="the old token is refused")
    own.change(target="v3")
    own.reports(phase="RestartRequired", targetFormat="v3")
    assert "worker ended" not in sidecar.text()


def _status_of(client: object, cluster: Cluster) -> int:
    try:
        client.get(cluster.path("storageformats", "orders"))  # type: ignore[attr-defined]
    except ApiError as error:
        return error.status
    return 200
