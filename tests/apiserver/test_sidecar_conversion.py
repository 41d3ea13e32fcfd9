"""The main job on a real API server: a StorageFormat is applied, real processes convert, everybody is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controlplane import ControlPlane
from tests.apiserver.sidecars import (
    FORMATS,
    RECORDS,
    ROLLING,
    STATE,
    Cluster,
    Sidecar,
    assert_holds,
    eventually,
    exit_of,
    go_on,
    hash_of,
    kept_as_it_is,
    paused,
    says,
    state_of,
    wanted,
)
from tests.sidecar.pods import fetch
from tests.support.databases import marker_of, sample

MAX_REQUESTS = 8


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path) as cluster:
        yield cluster


def test_an_applied_storageformat_converts(cluster: Cluster) -> None:
    """kubectl apply, a pod starts: every record converted, the gate passed, FormatState and metrics tell it."""
    pod = cluster.pod()
    before = pod.database.stat().st_size
    body = json.dumps(wanted(pod))
    cluster.plane.kubectl("apply", "-n", cluster.namespace, "-f", "-", stdin=body)
    owner = cluster.plane.admin.get(cluster.path("storageformats", "orders"))
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    assert exit_of(gate) == 0
    assert 'message="the database is in v2"' in says(gate, "gate=open .*").group()
    assert_holds(pod.database, "v2")

    status = cluster.reports(phase="Converted", gate="Open")
    after = pod.database.stat().st_size
    conversion = status.pop("lastConversion")
    assert conversion.pop("at") <= status.pop("updatedAt")
    assert conversion.pop("durationSeconds") > 0
    assert conversion == {
        "result": "succeeded",
        "from": "v1",
        "to": "v2",
        "rows": len(RECORDS),
        "bytesBefore": before,
        "bytesAfter": after,
        "conversionID": (marker_of(pod.database) or {})["conversion"],
    }
    assert status.pop("sidecarVersion")
    assert status == {
        "podName": "orders-0",
        "podUID": pod.options["--pod-uid"],
        "path": str(pod.database),
        "observedGeneration": 1,
        "targetHash": hash_of(wanted(pod)),
        "targetFormat": "v2",
        "currentFormat": "v2",
        "phase": "Converted",
        "reason": "InTargetFormat",
        "message": "the database is in v2",
        "backup": {"present": False},
        "gate": "Open",
        "restartRequired": False,
        "apiVersion": "1",
    }
    metadata = cluster.state()["metadata"]
    assert metadata["labels"] == {"storageformat.dev/storageformat": "orders"}
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "storageformat.dev/v1alpha1",
            "kind": "StorageFormat",
            "name": "orders",
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": False,
        }
    ]

    seen = sidecar.metrics()
    assert seen['storageformat_conversions_total{result="succeeded"}'] == 1
    assert sum(value for name, value in seen.items() if "conversions_total" in name) == 1
    assert seen["storageformat_backups_created_total"] == 1
    assert seen["storageformat_backup_present"] == 0
    assert seen["storageformat_gate_open"] == 1
    assert seen["storageformat_restart_required"] == 0
    assert seen["storageformat_conversion_duration_seconds_count"] == 1
    assert seen["storageformat_database_size_bytes"] == after
    assert seen["storageformat_last_success_timestamp_seconds"] <= os.stat(pod.database).st_ctime
    labels = {"storageformat": "orders", "database": str(pod.database)}
    for family in text_string_to_metric_families(fetch(sidecar.port, "/metrics")[1]):
        for sample_ in family.samples:
            assert not {"pod", "namespace"} & sample_.labels.keys()
            if family.name == "storageformat_gate_open":
                assert sample_.labels == labels


def test_three_sidecars_at_once(cluster: Cluster) -> None:
    """Three pods start together: each converts its own database and writes its own FormatState only."""
    pods = [cluster.pod(f"orders-{n}", records=sample(200 + n, seed=n)) for n in range(3)]
    for pod in pods:
        cluster.create(wanted(pod))
    sidecars = [cluster.sidecar(pod) for pod in pods]
    gates = [pod.gate() for pod in pods]
    assert [exit_of(gate) for gate in gates] == [0, 0, 0]
    for number, (pod, sidecar) in enumerate(zip(pods, sidecars, strict=True)):
        assert_holds(pod.database, "v2", sample(200 + number, seed=number))
        status = cluster.reports(state_of(pod), phase="Converted", gate="Open")
        assert status["podUID"] == pod.options["--pod-uid"]
        assert status["lastConversion"]["rows"] == 200 + number
        assert sidecar.metrics()['storageformat_conversions_total{result="succeeded"}'] == 1
    names = [
        one["metadata"]["name"] for one in cluster.plane.admin.list(cluster.path("formatstates"))
    ]
    assert sorted(names) == ["orders-1.orders-1", "orders-2.orders-2", "orders.orders-0"]


def test_requests_of_a_conversion_are_few(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """From start to the last report at most eight requests, counted by the sidecar; the API server agrees."""
    pod = cluster.pod()
    cluster.create(wanted(pod))
    before = _served(cluster)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    assert exit_of(gate) == 0
    polls = 0

    def reported() -> bool:
        nonlocal polls
        polls += 1
        return cluster.status().get("gate") == "Open"

    eventually(reported)
    eventually(sidecar.is_watching)
    counted = _counted(sidecar)
    record_property("api_requests_per_conversion", sum(counted.values()))
    assert sum(counted.values()) <= MAX_REQUESTS
    assert counted["create"] == 1
    assert set(counted) == {"get", "create", "patch"}

    def agreed() -> bool:
        served = {verb: n - before.get(verb, 0) for verb, n in _served(cluster).items()}
        # The watch lists each kind once; with one name in its selector that is counted as GET.
        served["GET"] -= polls + 2
        names = {"get": "GET", "create": "POST", "patch": "PATCH"}
        return {verb: served.get(name, 0) for verb, name in names.items()} == counted

    eventually(agreed, "the API server counted the same requests")


def _counted(sidecar: Sidecar) -> dict[str, float]:
    counted: dict[str, float] = {}
    for family in text_string_to_metric_families(fetch(sidecar.port, "/metrics")[1]):
        for one in family.samples:
            if one.name == "storageformat_api_requests_total":
                counted[one.labels["verb"]] = counted.get(one.labels["verb"], 0) + one.value
    return counted


def _served(cluster: Cluster) -> dict[str, float]:
    """What the API server has counted of our group, by verb."""
    served: dict[str, float] = {}
    text = cluster.plane.admin.get("/metrics")["text"]
    wanted_lines = [line for line in text.splitlines() if "apiserver_request_total" in line]
    for family in text_string_to_metric_families("\n".join(wanted_lines) + "\n"):
        for one in family.samples:
            if one.labels.get("group") == "storageformat.dev":
                served[one.labels["verb"]] = served.get(one.labels["verb"], 0) + one.value
    return served


# --- the StorageFormat changes --------------------------------------------------------------------


def test_changed_twice_quickly(cluster: Cluster) -> None:
    """Two changes during a conversion: the last one wins, what was in between is never converted to."""
    pod = cluster.pod()
    cluster.create(wanted(pod))
    sidecar = cluster.sidecar(pod, pause_at="build.after-staging")
    gate = pod.gate()
    paused(pod)
    cluster.change(target="v1")
    cluster.change(target="v3")
    eventually(sidecar.is_watching)
    go_on(pod)
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v3")
    status = cluster.reports(phase="Converted", gate="Open", currentFormat="v3")
    assert status["observedGeneration"] == 3
    assert status["targetHash"] == hash_of(wanted(pod, spec__target="v3"))
    assert (status["lastConversion"]["from"], status["lastConversion"]["to"]) == ("v2", "v3")
    assert sidecar.metrics()['storageformat_conversions_total{result="succeeded"}'] == 2


def test_deleted_while_waiting(cluster: Cluster) -> None:
    """A gate that waits for a permit opens as soon as the StorageFormat is deleted; the database stays."""
    pod = cluster.pod(permit_wait="600")
    cluster.create(wanted(pod, spec__rollout=ROLLING))
    before = kept_as_it_is(pod.database)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    cluster.reports(phase="Waiting", reason="NoPermit", gate="Closed")
    assert sidecar.metrics()["storageformat_gate_open"] == 0
    eventually(sidecar.is_watching)
    cluster.delete()
    assert exit_of(gate) == 0
    says(gate, "gate=open .*no StorageFormat orders")
    assert kept_as_it_is(pod.database) == before
    assert sidecar.metrics()["storageformat_gate_open"] == 1


def test_deleted_after_the_conversion(cluster: Cluster) -> None:
    """Nothing is converted back: not while the app runs, and not when the pod starts again."""
    pod = cluster.pod()
    cluster.create(wanted(pod))
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    cluster.reports(phase="Converted", gate="Open")
    eventually(sidecar.is_watching)
    before = kept_as_it_is(pod.database)
    cluster.delete()
    eventually(lambda: sidecar.health()["databases"][0]["reason"] == "NoStorageFormat")
    assert sidecar.terminate() == 0
    again = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert again.health()["databases"][0]["reason"] == "NoStorageFormat"
    assert kept_as_it_is(pod.database) == before
    assert_holds(pod.database, "v2")


def test_made_while_the_app_runs(cluster: Cluster) -> None:
    """A StorageFormat that comes after the gate touches nothing; the next start converts."""
    pod = cluster.pod()
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    before = kept_as_it_is(pod.database)
    cluster.create(wanted(pod, spec__formats=FORMATS))
    status = cluster.reports(phase="RestartRequired", restartRequired=True, gate="Open")
    assert (status["reason"], status["currentFormat"]) == ("AppRunning", "v1")
    sidecar.shows("storageformat_restart_required", 1)
    assert kept_as_it_is(pod.database) == before
    assert sidecar.terminate() == 0
    again = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert_holds(pod.database, "v2")
    cluster.reports(STATE, phase="Converted", restartRequired=False)
    assert again.metrics()["storageformat_restart_required"] == 0
