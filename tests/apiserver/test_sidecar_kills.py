"""Sidecars that are killed or stopped: what the next one finds, does and tells."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import ControlPlane
from format_store import open_store
from format_store.layout import Layout
from tests.apiserver.sidecars import (
    RECORDS,
    ROOT,
    Cluster,
    assert_holds,
    exit_of,
    go_on,
    kept_as_it_is,
    name_of,
    paused,
    pending,
    says,
    state_of,
    wanted,
)
from tests.sidecar.pods import environment
from tests.support.databases import records_on_disk
from tests.support.trees import unchanged

RECOVERIES = 'storageformat_recoveries_total{outcome="%s"}'
CONVERSIONS = 'storageformat_conversions_total{result="%s"}'
#: Where the death comes, how it is recovered.
PLACES = [
    ("build.after-staging", "discarded"),
    ("swap.before-rename", "discarded"),
    ("swap.after-rename", "completed"),
    ("cleanup.after-delete-preimage", "cleaned"),
]


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path) as cluster:
        yield cluster


def test_worker_killed_in_mid_conversion(cluster: Cluster) -> None:
    """Killed at four places, in four pods: the supervisor starts another worker, and the same gate waits for it.

    The gate passes when all is recovered and converted; how it was recovered is told.
    """
    pods = [cluster.pod(f"orders-{number}") for number in range(len(PLACES))]
    for pod in pods:
        cluster.create(wanted(pod))
    sidecars = [
        cluster.sidecar(pod, pause_at=place) for pod, (place, _) in zip(pods, PLACES, strict=True)
    ]
    gates = [pod.gate() for pod in pods]
    interrupted = []
    for pod, sidecar in zip(pods, sidecars, strict=True):
        paused(pod)
        (work,) = pending(pod.database)
        interrupted.append(work)
        sidecar.kill_worker()
        go_on(pod)
    for number, (_, outcome) in enumerate(PLACES):
        pod, sidecar, gate = pods[number], sidecars[number], gates[number]
        says(gate, "gate=closed reason=SidecarAway")
        assert exit_of(gate) == 0
        assert_holds(pod.database, "v2")
        status = cluster.reports(state_of(pod), phase="Converted", gate="Open")
        recovery = status["lastRecovery"]
        assert (recovery["outcome"], recovery["conversionID"]) == (outcome, interrupted[number])
        seen = sidecar.shows(RECOVERIES % outcome, 1)
        assert sum(value for name, value in seen.items() if "recoveries_total" in name) == 1
        assert seen["storageformat_last_recovery_timestamp_seconds"] > 0
        assert seen[CONVERSIONS % "succeeded"] == 1
        assert status["lastConversion"]["result"] == "succeeded"


def test_container_killed_in_mid_conversion(cluster: Cluster) -> None:
    """Supervisor and worker die at once, before the rename and after; the next container recovers, totals go on."""
    places = PLACES[1:3]
    pods = [cluster.pod(f"orders-{number}") for number in range(len(places))]
    for pod in pods:
        cluster.create(wanted(pod))
    first = [
        cluster.sidecar(pod, pause_at=place) for pod, (place, _) in zip(pods, places, strict=True)
    ]
    gates = [pod.gate() for pod in pods]
    second = []
    for pod, sidecar, gate in zip(pods, first, gates, strict=True):
        paused(pod)
        sidecar.kill_container()
        assert len(pending(pod.database)) == 1
        says(gate, "gate=closed reason=SidecarAway")
        second.append(cluster.sidecar(pod))
    told = []
    for pod, sidecar, gate, (_, outcome) in zip(pods, second, gates, places, strict=True):
        assert exit_of(gate) == 0
        assert_holds(pod.database, "v2")
        status = cluster.reports(state_of(pod), phase="Converted", gate="Open")
        assert status["lastRecovery"]["outcome"] == outcome
        totals = _totals(sidecar.shows(RECOVERIES % outcome, 1))
        assert totals[CONVERSIONS % "succeeded"] == 1
        told.append((status, totals))
        sidecar.kill_container()  # while the app runs
    third = [cluster.sidecar(pod) for pod in pods]
    for pod, sidecar, (status, totals) in zip(pods, third, told, strict=True):
        sidecar.shows(CONVERSIONS % "succeeded", 1)
        assert _totals(sidecar.metrics()) == totals
        again = cluster.reports(state_of(pod), phase="Converted", gate="Open")
        assert again["lastRecovery"] == status["lastRecovery"]
        assert again["lastConversion"] == status["lastConversion"]


@pytest.mark.parametrize(("place", "outcome"), PLACES[1:3])
def test_container_killed_on_the_way_back(cluster: Cluster, place: str, outcome: str) -> None:
    """A database follows its app's rollback, and the container dies before the rename or after it: the next one recovers,
    finishes the way back, and what the app had written since the first conversion is there."""
    pod = cluster.pod()
    cluster.create(wanted(pod, spec__onAppRollback="ConvertBack"))
    first = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert first.terminate() == 0
    with open_store(pod.database) as store:
        store["/written/since"] = {"paid": True}
        store.commit()
    pod.options["--reads"] = "v1"
    killed, gate = cluster.sidecar(pod, pause_at=place), pod.gate()
    paused(pod)
    killed.kill_container()
    assert len(pending(pod.database)) == 1
    after = cluster.sidecar(pod)
    assert exit_of(gate) == 0
    status = cluster.reports(phase="Refused", reason="SkewBlocked", gate="Open")
    assert status["currentFormat"] == "v1"
    assert status["lastRecovery"]["outcome"] == outcome
    assert_holds(pod.database, "v1", [*RECORDS, ("/written/since", {"paid": True})])
    after.shows(CONVERSIONS % "succeeded", 2)


def _totals(seen: dict[str, float]) -> dict[str, float]:
    """What must not fall when a process is replaced: what a volume's history tells, not when the API server answered."""
    parts = ("_recoveries_", "_conversions_", "_backups_created_", "_timestamp_seconds")
    ours = {
        name: value
        for name, value in seen.items()
        if name.startswith("storageformat_") and not name.startswith("storageformat_api_")
    }
    return {name: value for name, value in ours.items() if any(part in name for part in parts)}


def test_killed_while_the_app_runs(cluster: Cluster) -> None:
    """A worker, and a whole container, after the gate was passed: the next one touches nothing and closes nothing.

    A change of the StorageFormat then asks for a restart.
    """
    pods = [cluster.pod(f"orders-{number}") for number in range(2)]
    for pod in pods:
        cluster.create(wanted(pod))
    sidecars = [cluster.sidecar(pod) for pod in pods]
    for gate in [pod.gate() for pod in pods]:
        assert exit_of(gate) == 0
    for pod in pods:
        cluster.reports(state_of(pod), phase="Converted", gate="Open")
    before = [kept_as_it_is(pod.database) for pod in pods]
    sidecars[0].kill_worker()
    sidecars[1].kill_container()
    sidecars[1] = cluster.sidecar(pods[1])
    for sidecar in sidecars:
        sidecar.shows("storageformat_gate_open", 1)
        sidecar.shows(CONVERSIONS % "succeeded", 1)
    for pod in pods:
        cluster.change(name_of(pod), target="v1")
    for pod, sidecar, untouched in zip(pods, sidecars, before, strict=True):
        status = cluster.reports(state_of(pod), phase="RestartRequired", reason="AppRunning")
        told = (status["gate"], status["currentFormat"], status["targetFormat"])
        assert told == ("Open", "v2", "v1")
        seen = sidecar.shows("storageformat_restart_required", 1)
        assert seen["storageformat_gate_open"] == 1
        assert kept_as_it_is(pod.database) == untouched
        assert "gate waits" not in sidecar.text().rpartition("worker started")[2]


def test_pending_work_is_not_touched_while_the_app_may_run(cluster: Cluster) -> None:
    """A sidecar that starts without a gate does not recover even what it finds pending; with one, it does."""
    pod = cluster.pod()
    cluster.create(wanted(pod))
    _die_converting(pod.database, "swap.after-preimage")
    (work,) = pending(pod.database)
    before = kept_as_it_is(pod.database)
    assert before[2] == 2
    said = {".orders.db.storageformat/desired.json", ".orders.db.storageformat", "."}
    with unchanged(pod.folder, besides=said | {"sidecar-0.log", "gate.sock"}):
        first = cluster.sidecar(pod)
        status = cluster.reports(phase="Recovering", reason="RecoveryPending")
        assert status["gate"] == "Open"
        first.kill_worker()
        first.shows("storageformat_gate_open", 1)
        cluster.change(target="v3")
        cluster.reports(phase="Recovering", observedGeneration=2)
    assert kept_as_it_is(pod.database) == before
    assert Layout.of(pod.database).work_directory(work).preimage.samefile(pod.database)
    # The pod starts again: a gate, so the app does not run.
    assert first.terminate() == 0
    second = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert_holds(pod.database, "v3")
    second.shows(RECOVERIES % "discarded", 1)


def _die_converting(path: Path, place: str) -> None:
    driver = ROOT / "tests" / "crash" / "driver.py"
    target = json.dumps({"sqlitedict": {"keyEncoding": "hierarchical"}})
    done = subprocess.run(
        [sys.executable, driver, "convert", path, "--to", target, "--failpoint", place, "kill"],
        env=environment(),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_sigterm_aborts_a_conversion(cluster: Cluster) -> None:
    """A drain in mid-conversion: clean exit, the database as it was, counted as aborted; the next start converts."""
    pod = cluster.pod()
    cluster.create(wanted(pod))
    before = kept_as_it_is(pod.database)
    sidecar = cluster.sidecar(pod, pause_at="build.after-batch")
    gate = pod.gate()
    paused(pod)
    sidecar.process.send(signal.SIGTERM)
    sidecar.says("info stopping")
    go_on(pod)
    assert sidecar.process.ends(within=5) == 0
    assert "worker ended" in sidecar.text()
    assert "exit=0" in sidecar.text()
    assert kept_as_it_is(pod.database) == before
    assert records_on_disk(pod.database) == RECORDS
    assert pending(pod.database) == []
    assert gate.is_running
    again = cluster.sidecar(pod)
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v2")
    seen = again.shows(CONVERSIONS % "succeeded", 1)
    assert seen[CONVERSIONS % "aborted"] == 1
    assert seen[CONVERSIONS % "failed"] == 0
    assert cluster.reports(phase="Converted")["lastConversion"]["result"] == "succeeded"


def test_gate_is_stopped_with_its_pod(cluster: Cluster) -> None:
    """SIGTERM to gate and sidecar together, as when a waiting pod is deleted: both end, nothing was touched."""
    pod = cluster.pod()
    cluster.create(wanted(pod, spec__rollout={"strategy": "RollingRestart"}))
    before = kept_as_it_is(pod.database)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    cluster.reports(phase="Waiting", gate="Closed")
    gate.send(signal.SIGTERM)
    assert sidecar.terminate() == 0
    assert exit_of(gate) == 128 + signal.SIGTERM
    assert kept_as_it_is(pod.database) == before
