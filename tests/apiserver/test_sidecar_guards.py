"""What a sidecar does not do though it was asked to, and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from controlplane import ControlPlane
from tests.apiserver.sidecars import (
    RECORDS,
    ROLLING,
    Cluster,
    assert_holds,
    eventually,
    exit_of,
    kept_as_it_is,
    says,
    wanted,
)
from tests.support.databases import execute, write_plain

REFUSED = 'storageformat_conversions_total{result="refused"}'
SUCCEEDED = 'storageformat_conversions_total{result="succeeded"}'
#: A value that no format in ``unmarked`` can be.
STRAY = "INSERT INTO unnamed (key, value) VALUES ('/stray', 'neither pickle nor anything')"


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path) as cluster:
        yield cluster


def test_a_target_that_the_app_cannot_read(cluster: Cluster) -> None:
    """The annotation names v1 only: the app starts on v1, SkewBlocked; once it names both, the next start converts."""
    pod = cluster.pod()
    annotations = pod.folder / "annotations"
    annotations.write_text('app="orders"\nstorageformat.dev/reads="v1"\n')
    pod.options["--annotations-file"] = str(annotations)
    cluster.create(wanted(pod))
    before = kept_as_it_is(pod.database)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    assert exit_of(gate) == 0
    says(gate, "gate=open .*this pod's app reads v1, the target is v2")
    status = cluster.reports(phase="Refused", reason="SkewBlocked", gate="Open")
    assert status["currentFormat"] == "v1"
    assert kept_as_it_is(pod.database) == before
    assert sidecar.terminate() == 0
    annotations.write_text('app="orders"\nstorageformat.dev/reads="v1, v2"\n')
    cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert_holds(pod.database, "v2")
    cluster.reports(phase="Converted")


def test_a_database_that_the_app_cannot_read(cluster: Cluster) -> None:
    """An older app over a converted database: the gate stays closed and says why, until the way back is permitted."""
    pod = cluster.pod()
    cluster.create(wanted(pod))
    first = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert first.terminate() == 0
    before = kept_as_it_is(pod.database)
    pod.options |= {"--reads": "v1", "--permit-wait": "0"}
    cluster.change(target="v1", rollout=ROLLING)
    second, gate = cluster.sidecar(pod), pod.gate()
    says(gate, "gate=closed .*the app reads v1, the database is in v2, so the gate stays closed")
    status = cluster.reports(phase="Waiting", gate="Closed")
    assert kept_as_it_is(pod.database) == before
    assert second.metrics()["storageformat_gate_open"] == 0
    assert gate.is_running
    eventually(second.is_watching)
    cluster.permit(status["targetHash"])
    assert exit_of(gate) == 0
    assert_holds(pod.database, "v1")


def test_another_path_is_not_served(cluster: Cluster) -> None:
    """A StorageFormat about another file than the container was started for: said, nothing touched, gate open."""
    pod = cluster.pod()
    cluster.create(wanted(pod, spec__database__path="/data/else.db"))
    before = kept_as_it_is(pod.database)
    cluster.sidecar(pod)
    gate = pod.gate()
    assert exit_of(gate) == 0
    status = cluster.reports(phase="PathNotServed", reason="PathNotServed", gate="Open")
    assert "/data/else.db" in status["message"]
    assert str(pod.database) in status["message"]
    assert status["path"] == str(pod.database)
    assert kept_as_it_is(pod.database) == before


def test_two_storageformats_for_one_path(cluster: Cluster) -> None:
    """The older governs, the younger says Conflict; when the older is deleted, the younger takes its place."""
    pod = cluster.pod()
    pod.databases = [f"younger={pod.database}", f"zolder={pod.database}"]
    older = cluster.create(wanted(pod, "zolder"))
    created = datetime.fromisoformat(older["metadata"]["creationTimestamp"])
    # The API knows whole seconds only.
    eventually(lambda: datetime.now(UTC) >= created + timedelta(seconds=1))
    cluster.create(wanted(pod, "younger", spec__target="v3"))
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert_holds(pod.database, "v2")
    cluster.reports("zolder.orders-0", phase="Converted", gate="Open")
    status = cluster.reports("younger.orders-0", phase="Conflict", gate="Open")
    assert "zolder" in status["message"]
    eventually(sidecar.is_watching)
    before = kept_as_it_is(pod.database)
    cluster.delete("zolder")
    cluster.reports("younger.orders-0", phase="RestartRequired", targetFormat="v3")
    assert kept_as_it_is(pod.database) == before


def test_a_glob(cluster: Cluster) -> None:
    """Each match by itself, one FormatState with counts and first failures; a bad file costs the others nothing."""
    pod = cluster.pod()
    tenants = pod.folder / "tenants"
    tenants.mkdir()
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        write_plain(tenants / f"{name}.db", RECORDS[:50])
    execute(tenants / "b.db", STRAY)
    (tenants / "d.db").write_bytes(b"no database, but long enough to look like something" * 40)
    (tenants / "notes.txt").write_text("no match")
    bad = {name: kept_as_it_is(tenants / f"{name}.db") for name in "bd"}
    glob = f"{tenants}/*.db"
    pod.databases = [f"tenants={glob}"]
    cluster.create(wanted(pod, "tenants", spec__database__path=glob))
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    told = partial(cluster.reports, "tenants.orders-0", phase="Refused", gate="Closed")
    # Until all five were tried there are more.
    eventually(lambda: told()["databases"]["pending"] == 2)
    counts = told()["databases"]
    failures = counts.pop("firstFailures")
    assert counts == {"total": 5, "converted": 3, "pending": 2, "failed": 2}
    assert {(Path(one["database"]).name, one["reason"]) for one in failures} == {
        ("b.db", "UndeclaredFormat"),
        ("d.db", "NotASQLiteDatabase"),
    }
    assert all(one["message"] for one in failures)
    seen = sidecar.metrics()
    assert seen[SUCCEEDED] == 3
    assert seen[REFUSED] >= 2  # and again with each further attempt
    assert seen["storageformat_gate_open"] == 0
    assert gate.is_running
    eventually(sidecar.is_watching)
    cluster.change("tenants", onFailure="StartApp")
    assert exit_of(gate) == 0
    for name in "ace":
        assert_holds(tenants / f"{name}.db", "v2", RECORDS[:50])
    assert {name: kept_as_it_is(tenants / f"{name}.db") for name in "bd"} == bad
    status = cluster.reports("tenants.orders-0", phase="Refused", gate="Open")
    assert status["databases"]["converted"] == 3


@pytest.mark.parametrize("on_failure", ["Block", "StartApp"])
def test_a_refused_database(cluster: Cluster, on_failure: str) -> None:
    """Rows that fit no declared format: refused by name, bytes as they were; onFailure decides about the app."""
    pod = cluster.pod()
    execute(pod.database, STRAY)
    cluster.create(wanted(pod, spec__onFailure=on_failure))
    before = kept_as_it_is(pod.database)
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    opens = on_failure == "StartApp"
    if opens:
        assert exit_of(gate) == 0
        says(gate, "gate=open .*fit.*the app starts on v1")
    status = cluster.reports(
        phase="Refused", reason="UndeclaredFormat", gate="Open" if opens else "Closed"
    )
    assert "Nothing was touched" in status["message"]
    assert status["lastConversion"]["result"] == "refused"
    assert (status["lastConversion"]["to"], status["currentFormat"]) == ("v2", "v1")
    seen = sidecar.shows(REFUSED, 1)
    assert seen["storageformat_gate_open"] == opens
    assert seen[SUCCEEDED] == seen["storageformat_backups_created_total"] == 0
    assert kept_as_it_is(pod.database) == before
    if not opens:
        assert gate.is_running
        says(gate, "gate=closed database=orders reason=UndeclaredFormat")
        # Somebody mends it and says so by any change of the StorageFormat.
        execute(pod.database, "DELETE FROM unnamed WHERE key = '/stray'")
        eventually(sidecar.is_watching)
        cluster.change(backup={"retainFor": "1h"})
        assert exit_of(gate) == 0
        cluster.reports(phase="Converted", gate="Open")
