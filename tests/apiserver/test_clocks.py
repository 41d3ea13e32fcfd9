"""Machines whose clocks are hours away from the API server's, and jump."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane import ControlPlane
from tests.apiserver.controllers import SYSTEM, Controllers, Rollout
from tests.apiserver.sidecars import (
    ROLLING,
    Cluster,
    assert_holds,
    eventually,
    exit_of,
    hash_of,
    wanted,
)
from tests.sidecar.pods import Process
from tests.support import skewed
from tests.support.skewed import Clock


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def controllers(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Controllers]:
    made = Controllers(control_plane, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_permit_on_a_machine_whose_clock_is_wrong(
    cluster: Cluster, tmp_path: Path, hours: int
) -> None:
    """One that has ended permits nothing, one that has not is stored and used, also when the clock jumps in between."""
    clock = Clock(tmp_path, hours)
    pod = cluster.pod(permit_wait="0.5")
    body = wanted(pod, spec__rollout=ROLLING)
    cluster.create(body)
    cluster.permit(hash_of(body), minutes=-10)
    with clock.worn():
        sidecar = cluster.sidecar(pod, program=f"{skewed.MODULE} sidecar")
        assert exit_of(pod.gate()) == 0
        assert_holds(pod.database, "v1")
        cluster.reports(phase="RestartRequired", reason="PermitExpired", gate="Open")
        eventually(sidecar.is_watching)
        cluster.permit(hash_of(body))
        cluster.reports(phase="Armed", armedFor=hash_of(body))
        clock.set(-hours)
        assert sidecar.terminate() == 0
        cluster.sidecar(pod, program=f"{skewed.MODULE} sidecar")
        assert exit_of(pod.gate()) == 0
    assert_holds(pod.database, "v2")


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_controller_whose_clock_is_wrong(
    controllers: Controllers,
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    hours: int,
) -> None:
    """Its permits last an hour by the API server's clock; the rollout goes on when its own jumps."""
    rollout = Rollout(control_plane, namespace, replicas=2)
    rollout.make()
    clock = Clock(tmp_path, hours)
    with clock.worn():
        controllers.start(namespace=namespace, program=skewed.MODULE)
    for ordinal in range(2):
        rollout.report(ordinal, "RestartRequired", reason="AppRunning")
    for ordinal in (1, 0):
        uid = rollout.uid(ordinal)
        rollout.arm(ordinal)
        permit = rollout.permit(ordinal)
        assert permit is not None
        left = datetime.fromisoformat(permit["expires"]) - datetime.now(UTC)
        assert 3300 < left.total_seconds() <= 3605
        rollout.gone(ordinal, uid)
        clock.set(-hours)
        rollout.convert(ordinal)
    eventually(lambda: rollout.condition("Ready").get("status") == "True", "Ready")


def test_one_leads_whatever_the_clocks_say(
    controllers: Controllers, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Clocks four hours apart, one that jumps: nobody takes the Lease from whoever renews it, or waits for hours."""
    processes: list[Process] = []
    for hours in (-2, 2):
        (place := tmp_path / f"{hours}").mkdir()
        clock = Clock(place, hours)
        with clock.worn():
            process = controllers.start(namespace=namespace, lease=namespace, program=skewed.MODULE)
        process.says("leading" if not processes else "synced", within=30)
        processes.append(process)
    path = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{namespace}"
    seen: set[str] = set()

    def renewed(times: int) -> bool:
        lease = control_plane.admin.get(path)
        assert lease["spec"]["leaseTransitions"] == 1
        seen.add(lease["metadata"]["resourceVersion"])
        return len(seen) >= times

    first, second = processes
    eventually(lambda: renewed(4), "it is renewed")
    Clock(tmp_path / "-2", 2).set(2)
    eventually(lambda: renewed(14), "it is renewed for longer than it lasts")
    assert "standing by" not in first.text()
    assert "leading" not in second.text()
    first.send(signal.SIGKILL)
    second.says("leading", within=30)
