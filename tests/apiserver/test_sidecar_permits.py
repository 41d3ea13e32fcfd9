"""RollingRestart, with the test in the controller's place: nothing converts without a permit that is in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import ControlPlane
from format_store.layout import Layout
from tests.apiserver.link import Link
from tests.apiserver.sidecars import (
    ROLLING,
    Cluster,
    Sidecar,
    assert_holds,
    eventually,
    exit_of,
    hash_of,
    kept_as_it_is,
    name_of,
    says,
    state_of,
    wanted,
)
from tests.sidecar.pods import Pod


@pytest.fixture
def link(control_plane: ControlPlane) -> Iterator[Link]:
    with Link(control_plane.port) as link:
        yield link


@pytest.fixture
def cluster(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, link: Link
) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path, link.url) as cluster:
        yield cluster


def rolling(pod: Pod, **changes: Any) -> dict[str, Any]:
    return wanted(pod, spec__rollout=ROLLING, **changes)


def stored(pod: Pod) -> dict[str, Any]:
    """What the sidecar keeps on the volume."""
    try:
        text = (Layout.of(pod.database).state / "desired.json").read_text()
    except FileNotFoundError:
        return {}
    document: dict[str, Any] = json.loads(text)
    return document


def armed(cluster: Cluster, pod: Pod) -> Sidecar:
    """A pod whose app runs on the old format, and whose sidecar has a permit for the next start."""
    body = rolling(pod)
    cluster.create(body)
    pod.options["--permit-wait"] = "0"
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    cluster.reports(phase="RestartRequired", reason="NoPermit")
    cluster.permit(hash_of(body))
    status = cluster.reports(phase="Armed", armedFor=hash_of(body), gate="Open")
    assert status["restartRequired"] is True
    assert stored(pod)["permit"]["targetHash"] == hash_of(body)
    assert stored(pod)["storageFormat"]["spec"]["target"] == "v2"
    return sidecar


def test_no_permit_in_time(cluster: Cluster) -> None:
    """Waiting for --permit-wait, then the gate opens on the old format, and a restart is asked for."""
    pod = cluster.pod(permit_wait="0.5")
    cluster.create(rolling(pod))
    before = kept_as_it_is(pod.database)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    says(gate, "gate=closed database=orders reason=NoPermit")
    assert exit_of(gate) == 0
    says(gate, "gate=open .*no permit from the controller in time; the app starts on v1")
    status = cluster.reports(phase="RestartRequired", reason="NoPermit", gate="Open")
    assert status["restartRequired"] is True
    assert kept_as_it_is(pod.database) == before
    assert sidecar.shows("storageformat_restart_required", 1)["storageformat_gate_open"] == 1


def test_a_permit_while_the_gate_waits(cluster: Cluster) -> None:
    """Waiting is reported; the permit that follows is noticed by the watch, and converts."""
    pod = cluster.pod(permit_wait="600")
    body = rolling(pod)
    cluster.create(body)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    status = cluster.reports(phase="Waiting", reason="NoPermit", gate="Closed")
    assert status["targetHash"] == hash_of(body)
    eventually(sidecar.is_watching)
    cluster.permit(hash_of(body))
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v2")
    cluster.reports(phase="Converted", gate="Open")
    assert cluster.state()["spec"]["permit"]["targetHash"] == hash_of(body)


def test_permits_that_do_not_count(cluster: Cluster) -> None:
    """Expired, or given for another target: said by name, nothing converted, nothing stored."""
    pods = [cluster.pod(f"orders-{number}", permit_wait="0.5") for number in range(2)]
    for pod in pods:
        cluster.create(rolling(pod))
    cluster.permit(hash_of(rolling(pods[0])), minutes=-1, name=state_of(pods[0]))
    cluster.permit(hash_of(rolling(pods[1], spec__target="v3")), name=state_of(pods[1]))
    before = [kept_as_it_is(pod.database) for pod in pods]
    for pod in pods:
        cluster.sidecar(pod)
    gates = [pod.gate() for pod in pods]
    reasons = ["PermitExpired", "PermitForAnotherTarget"]
    for pod, gate, reason, untouched in zip(pods, gates, reasons, before, strict=True):
        says(gate, f"gate=closed database={name_of(pod)} reason={reason}")
        assert exit_of(gate) == 0
        says(gate, "gate=open .*the app starts on v1")
        cluster.reports(state_of(pod), phase="RestartRequired", reason=reason)
        assert kept_as_it_is(pod.database) == untouched
        assert stored(pod)["permit"] is None


def test_the_stored_permit_converts_without_the_api(cluster: Cluster, link: Link) -> None:
    """Armed while the app runs; at the next gate the permit on the volume is enough, though nobody answers."""
    pod = cluster.pod(api_wait="0.5")
    first = armed(cluster, pod)
    before = kept_as_it_is(pod.database)
    assert first.metrics()["storageformat_restart_required"] == 1
    first.kill_container()
    assert kept_as_it_is(pod.database) == before
    link.down()
    second, gate = cluster.sidecar(pod), pod.gate()
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v2")
    assert second.metrics()['storageformat_conversions_total{result="succeeded"}'] == 1
    assert cluster.status()["phase"] == "Armed"  # nobody could be told
    link.up()
    cluster.reports(phase="Converted", gate="Open", restartRequired=False)


def test_a_stored_permit_that_expired_since(cluster: Cluster, link: Link) -> None:
    """What ran out on the volume permits nothing, also while the API is away; the app starts on the old format."""
    pod = cluster.pod(api_wait="0.5")
    first = armed(cluster, pod)
    assert first.terminate() == 0
    place = Layout.of(pod.database).state / "desired.json"
    document = json.loads(place.read_text())
    document["permit"]["expires"] = "2020-01-01T00:00:00Z"
    place.write_text(json.dumps(document))
    before = kept_as_it_is(pod.database)
    link.down()
    cluster.sidecar(pod)
    gate = pod.gate()
    assert exit_of(gate) == 0
    says(gate, "gate=open .*permit expired.*the app starts on v1")
    assert kept_as_it_is(pod.database) == before


def test_a_withdrawn_permit(cluster: Cluster) -> None:
    """The API's word wins over the volume's: withdrawn while nobody looked, it is not used."""
    pod = cluster.pod()
    first = armed(cluster, pod)
    first.kill_container()
    cluster.withdraw()
    before = kept_as_it_is(pod.database)
    cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    cluster.reports(phase="RestartRequired", reason="NoPermit")
    assert kept_as_it_is(pod.database) == before
    assert stored(pod)["permit"] is None


def test_disarmed_while_the_app_runs(cluster: Cluster) -> None:
    """Withdrawn, and given again: the report follows each time, and so does the volume."""
    pod = cluster.pod()
    sidecar = armed(cluster, pod)
    eventually(sidecar.is_watching)
    before = kept_as_it_is(pod.database)
    cluster.withdraw()
    status = cluster.reports(phase="RestartRequired", gate="Open")
    assert "armedFor" not in status
    eventually(lambda: stored(pod)["permit"] is None)
    cluster.permit(hash_of(rolling(pod)))
    cluster.reports(phase="Armed")
    # Another target: the permit was not for that one.
    cluster.change(target="v3")
    status = cluster.reports(phase="RestartRequired", targetFormat="v3")
    assert "armedFor" not in status
    eventually(lambda: stored(pod)["permit"] is None)
    assert kept_as_it_is(pod.database) == before
