"""Several databases in one pod: a gate for each, globs, two StorageFormats for one path."""

from __future__ import annotations

from tests.sidecar.conftest import fill
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, eventually, metrics
from tests.sidecar.scenes import (
    assert_converted,
    assert_untouched,
    go_on,
    hash_of,
    in_minutes,
    paused_worker,
    phase,
    rolling,
    wanted,
)


def test_two_databases_and_a_gate_for_each(api: FakeApi, pod: Pod) -> None:
    """A gate opens when its databases are ready, whatever the others do."""
    users = pod.folder / "users.db"
    fill(users)
    pod.databases = [f"orders={pod.database}", f"users={users}"]
    api.apply(wanted(pod))
    api.apply(rolling(pod, metadata__name="users", spec__database__path=str(users)))
    pod.worker()
    assert pod.gate("orders").ends() == 0
    assert_converted(pod.database)
    both = pod.gate()
    both.says("gate=closed database=users reason=NoPermit")
    assert phase(api, "Waiting", "users.orders-0")
    body = api.get("storageformats", "users") or {}
    eventually(lambda: api.get("formatstates", "users.orders-0"))
    eventually(lambda: api.watching("formatstates"))
    api.permit("users.orders-0", hash_of(body), in_minutes(10))
    assert both.ends() == 0
    assert_converted(users)


def test_a_glob_converts_every_match_by_itself(api: FakeApi, pod: Pod) -> None:
    """One FormatState with counts; a bad file is named and does not keep the others from converting."""
    tenants = pod.folder / "tenants"
    tenants.mkdir()
    for name in ("a", "b", "c"):
        fill(tenants / f"{name}.db")
    (tenants / "bad.db").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    (tenants / "notes.txt").write_text("no match")
    pod.databases = [f"tenants={tenants}/*.db"]
    body = wanted(
        pod,
        metadata__name="tenants",
        spec__database__path=f"{tenants}/*.db",
        spec__onFailure="StartApp",
    )
    api.apply(body)
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    for name in ("a", "b", "c"):
        assert_converted(tenants / f"{name}.db")
    status = phase(api, "Refused", "tenants.orders-0")
    counts = status["databases"]
    assert (counts["total"], counts["converted"], counts["failed"]) == (4, 3, 1)
    assert counts["firstFailures"][0]["database"] == f"{tenants}/bad.db"
    seen = metrics(pod.port(sidecar))
    assert seen['storageformat_conversions_total{result="succeeded"}'] == 3
    assert seen['storageformat_conversions_total{result="refused"}'] == 1


def test_without_a_gate_no_further_conversion_begins(api: FakeApi, pod: Pod) -> None:
    """The one under way is finished; the next file of the glob waits for the next gate."""
    second = pod.folder / "orders2.db"
    fill(second)
    pod.databases = [f"orders={pod.folder}/orders*.db"]
    api.apply(wanted(pod, spec__database__path=f"{pod.folder}/orders*.db"))
    worker = paused_worker(pod, "build.after-staging")
    gate = pod.gate()
    eventually((pod.folder / "paused").exists)
    gate.close()
    worker.says("gate gone")
    go_on(pod)
    assert phase(api, "RestartRequired")["databases"]["converted"] == 1
    assert_converted(pod.database)
    assert_untouched(second)
    assert pod.gate().ends() == 0
    assert_converted(second)


def test_two_storageformats_for_one_path_conflict(api: FakeApi, pod: Pod) -> None:
    """The older one governs; the other says Conflict and converts nothing."""
    pod.databases = [f"older={pod.database}", f"younger={pod.database}"]
    old = wanted(pod, metadata__name="older", metadata__creationTimestamp="2020-01-01T00:00:00Z")
    api.apply(wanted(pod, metadata__name="younger", spec__target="v1"))
    api.apply(old)
    pod.worker()
    assert pod.gate().ends() == 0
    assert_converted(pod.database)
    phase(api, "Converted", "older.orders-0")
    assert "older" in phase(api, "Conflict", "younger.orders-0")["message"]
