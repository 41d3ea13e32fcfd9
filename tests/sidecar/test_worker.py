"""The sidecar and its gate as real processes, against an API server that does what it is told."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import format_store
from format_operator.api.models import StorageFormat
from format_store import PLAIN_SQLITEDICT, Format
from tests.sidecar.conftest import RECORDS, fill
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, Process, eventually, fetch, health, metrics
from tests.support.objects import storageformat

V2 = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
STATE = "orders.orders-0"
ON_RESTART = {"strategy": "OnRestart"}


def wanted(pod: Pod, **changes: Any) -> dict[str, Any]:
    defaults = {"spec__database__path": str(pod.database), "spec__rollout": ON_RESTART}
    return storageformat(**(defaults | changes))


def rolling(pod: Pod, **changes: Any) -> dict[str, Any]:
    return wanted(pod, **({"spec__rollout": {"strategy": "RollingRestart"}} | changes))


def hash_of(body: dict[str, Any]) -> str:
    return StorageFormat.from_object(body).spec.target_hash()


def in_minutes(minutes: float) -> str:
    moment = datetime.now(UTC) + timedelta(minutes=minutes)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def format_of(path: Path) -> Format | None:
    return format_store.inspect(path).format


def assert_converted(path: Path) -> None:
    """In the target format, with every record, in the order in which the app wrote them."""
    assert format_of(path) == V2
    with format_store.open_store(path, flag="r") as store:
        assert dict(store.items()) == RECORDS
        assert list(store.keys()) == list(RECORDS)


def assert_untouched(path: Path) -> None:
    assert format_of(path) is None
    with closing(sqlite3.connect(path)) as connection:
        count = connection.execute("SELECT count(*) FROM unnamed").fetchone()[0]
    assert count == len(RECORDS)


def phase(api: FakeApi, expected: str, name: str = STATE) -> dict[str, Any]:
    """The status once it says that phase."""
    eventually(lambda: api.status(name).get("phase") == expected)
    return api.status(name)


@contextmanager
def environ(**variables: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def paused_worker(pod: Pod, place: str) -> Process:
    with environ(PAUSE_AT=place):
        return pod.worker(driver="tests.sidecar.driver")


def go_on(pod: Pod) -> None:
    (pod.folder / "go").touch()


# --- the main job -----------------------------------------------------------------------------------------


def test_converts_before_the_app_starts(api: FakeApi, pod: Pod) -> None:
    """A StorageFormat, a gate: the database is converted, the gate opens, status and metrics tell it."""
    api.apply(wanted(pod))
    sidecar, gate = pod.sidecar(), pod.gate()
    assert gate.ends() == 0
    assert_converted(pod.database)
    status = phase(api, "Converted")
    eventually(lambda: api.status(STATE).get("gate") == "Open")
    assert status["podUID"] == "uid-of-orders-0"
    assert status["currentFormat"] == status["targetFormat"] == "v2"
    assert status["targetHash"] == hash_of(wanted(pod))
    assert status["lastConversion"] | {"at": "", "durationSeconds": 0, "conversionID": ""} == {
        "at": "",
        "result": "succeeded",
        "from": "v1",
        "to": "v2",
        "rows": len(RECORDS),
        "bytesBefore": status["lastConversion"]["bytesBefore"],
        "bytesAfter": pod.database.stat().st_size,
        "durationSeconds": 0,
        "conversionID": "",
    }
    owner = (api.get("formatstates", STATE) or {})["metadata"]["ownerReferences"][0]
    stored = api.get("storageformats", "orders") or {}
    assert owner["uid"] == stored["metadata"]["uid"]
    assert owner["blockOwnerDeletion"] is False
    seen = metrics(pod.port(sidecar))
    assert seen['storageformat_conversions_total{result="succeeded"}'] == 1
    assert seen["storageformat_backups_created_total"] == 1
    assert seen["storageformat_backup_present"] == 0
    assert seen["storageformat_gate_open"] == 1
    assert seen["storageformat_restart_required"] == 0
    assert seen["storageformat_conversion_duration_seconds_count"] == 1
    assert seen["storageformat_conversion_progress_ratio"] == 1
    assert seen["storageformat_database_size_bytes"] == pod.database.stat().st_size
    assert seen['storageformat_conversion_phase{phase="idle"}'] == 1
    info = (
        'storageformat_database_format_info{compression="zstd",engine="sqlitedict",format="v2",'
        'key_encoding="hierarchical",value_codec="msgpack"}'
    )
    assert seen[info] == 1


def test_a_conversion_takes_few_writes(api: FakeApi, pod: Pod) -> None:
    """One POST, at most two PATCHes of the status, and nothing else is written; ours only."""
    api.apply(wanted(pod))
    pod.worker()
    assert pod.gate().ends() == 0
    eventually(lambda: api.status(STATE).get("gate") == "Open")
    eventually(lambda: api.watching("formatstates"))
    writes = api.writes()
    assert writes[0].method == "POST"
    assert len(writes) <= 3
    assert {seen.path.rpartition("/")[2] for seen in writes[1:]} == {"status"}
    assert all(seen.status < 300 for seen in writes)


def test_opens_at_once_when_already_converted(api: FakeApi, pod: Pod) -> None:
    """In the target format: the gate opens without a conversion, under any strategy."""
    format_store.convert(pod.database, V2)
    api.apply(rolling(pod))
    pod.worker()
    assert pod.gate().ends() == 0
    assert phase(api, "Converted")["reason"] == "InTargetFormat"


def test_opens_at_once_without_a_storageformat(api: FakeApi, pod: Pod) -> None:
    """Nobody asked for anything: nothing is touched, nothing is written to the API."""
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    assert_untouched(pod.database)
    assert api.writes() == []
    assert health(pod.port(sidecar))["databases"][0]["reason"] == "NoStorageFormat"


def test_absent_database_opens_at_once(api: FakeApi, pod: Pod) -> None:
    """A new volume: the app makes its database itself."""
    pod.database.unlink()
    api.apply(rolling(pod))
    pod.worker()
    assert pod.gate().ends() == 0
    assert not pod.database.exists()
    assert phase(api, "Idle")["reason"] == "NoDatabase"


def test_empty_database_is_marked_without_a_permit(api: FakeApi, pod: Pod) -> None:
    """A new replica's volume with an empty file gets the target's marker at once."""
    pod.database.write_bytes(b"")
    api.apply(rolling(pod))
    pod.worker()
    assert pod.gate().ends() == 0
    assert format_of(pod.database) == V2


def test_the_existing_formatstate_of_an_earlier_pod_is_taken_over(api: FakeApi, pod: Pod) -> None:
    """A StatefulSet's new pod reports in the FormatState of the old one; stale keys go away."""
    api.apply(wanted(pod))
    earlier = {"metadata": {"name": STATE}, "spec": {"claimUID": "claim"}}
    api.apply(
        earlier | {"status": {"podUID": "old", "armedFor": "x", "phase": "Armed"}}, "formatstates"
    )
    pod.worker()
    assert pod.gate().ends() == 0
    status = phase(api, "Converted")
    assert status["podUID"] == "uid-of-orders-0"
    assert "armedFor" not in status
    assert "POST" not in {seen.method for seen in api.requests}


# --- permits ----------------------------------------------------------------------------------------------


def test_waits_for_a_permit_and_converts_when_it_comes(api: FakeApi, pod: Pod) -> None:
    """RollingRestart: Waiting, until the controller's word arrives by watch."""
    body = rolling(pod)
    api.apply(body)
    pod.worker()
    gate = pod.gate()
    assert phase(api, "Waiting")["reason"] == "NoPermit"
    assert gate.is_running
    eventually(lambda: api.watching("formatstates"))
    api.permit(STATE, hash_of(body), in_minutes(10))
    assert gate.ends() == 0
    assert_converted(pod.database)


@pytest.mark.parametrize(
    ("target_hash", "minutes", "reason"),
    [("0123456789abcdef", 10, "PermitForAnotherTarget"), ("", -1, "PermitExpired")],
)
def test_a_wrong_permit_permits_nothing(
    api: FakeApi, pod: Pod, target_hash: str, minutes: float, reason: str
) -> None:
    """Expired, or for another target: the app starts on the old format when the wait is over."""
    body = rolling(pod)
    api.apply(body)
    api.apply({"metadata": {"name": STATE}}, "formatstates")
    api.permit(STATE, target_hash or hash_of(body), in_minutes(minutes))
    pod.options["--permit-wait"] = "1"
    pod.worker()
    gate = pod.gate()
    gate.says(f"gate=closed .*{reason}")
    assert gate.ends() == 0
    gate.says("gate=open .*starts on v1")
    assert_untouched(pod.database)
    assert phase(api, "RestartRequired")["reason"] == reason


def test_armed_while_the_app_runs_then_converted_without_the_api(api: FakeApi, pod: Pod) -> None:
    """A permit that comes while the app runs is stored; after a restart it holds though the API is away."""
    body = rolling(pod)
    pod.options |= {"--permit-wait": "0", "--api-wait": "0.5"}
    api.apply(body)
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    assert phase(api, "RestartRequired")["restartRequired"] is True
    eventually(lambda: api.watching("formatstates"))
    api.permit(STATE, hash_of(body), in_minutes(10))
    assert phase(api, "Armed")["armedFor"] == hash_of(body)
    assert_untouched(pod.database)
    assert metrics(pod.port(sidecar))["storageformat_restart_required"] == 1
    sidecar.send(signal.SIGTERM)
    assert sidecar.ends() == 0
    api.down()
    pod.worker()
    assert pod.gate().ends() == 0
    assert_converted(pod.database)


def test_a_withdrawn_permit_is_not_used_when_the_api_answers(api: FakeApi, pod: Pod) -> None:
    """The API's word wins over the one on the volume."""
    body = rolling(pod)
    pod.options["--permit-wait"] = "1"
    api.apply(body)
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    eventually(lambda: api.watching("formatstates"))
    api.permit(STATE, hash_of(body), in_minutes(10))
    phase(api, "Armed")
    sidecar.send(signal.SIGTERM)
    assert sidecar.ends() == 0
    api.set_spec(STATE, {})
    pod.worker()
    assert pod.gate().ends() == 0
    assert_untouched(pod.database)
    assert phase(api, "RestartRequired")["reason"] == "NoPermit"


# --- the API server is away -------------------------------------------------------------------------------


def test_api_away_opens_the_gate_after_a_while(api: FakeApi, pod: Pod) -> None:
    """Nothing stored, nobody answers: the app starts, and the gate's last line says why."""
    api.down()
    pod.options["--api-wait"] = "0.6"
    sidecar = pod.worker()
    gate = pod.gate()
    gate.says("gate=closed .*AskingAPI")
    assert gate.ends() == 0
    gate.says("gate=open .*get storageformats")
    assert_untouched(pod.database)
    assert health(pod.port(sidecar))["works"] is True


def test_api_back_in_time_is_noticed(api: FakeApi, pod: Pod) -> None:
    """Down at the start, up before the wait is over: converted as if nothing had been."""
    api.apply(wanted(pod))
    api.down()
    pod.worker()
    gate = pod.gate()
    gate.says("AskingAPI")
    api.up()
    assert gate.ends() == 0
    assert_converted(pod.database)
    phase(api, "Converted")


def test_api_down_during_a_conversion_is_reported_later(api: FakeApi, pod: Pod) -> None:
    """A conversion needs no API; the report is made up for when it answers again."""
    api.apply(wanted(pod))
    worker = paused_worker(pod, "build.after-staging")
    gate = pod.gate()
    eventually((pod.folder / "paused").exists)
    api.down()
    go_on(pod)
    assert gate.ends() == 0
    assert_converted(pod.database)
    worker.says("cannot report|API server gives no answer|gate opened")
    api.up()
    phase(api, "Converted")


def test_forbidden_is_said_clearly(api: FakeApi, pod: Pod) -> None:
    """403: the verb and resource that are missing are named, and the app starts all the same."""
    api.apply(wanted(pod))
    api.forbidden = {("GET", "storageformats"), ("GET", "formatstates")}
    pod.options["--api-wait"] = "0.5"
    pod.worker()
    gate = pod.gate()
    assert gate.ends() == 0
    gate.says("gate=open .*may not `get storageformats`")
    assert_untouched(pod.database)


def test_crd_installed_later_is_noticed(api: FakeApi, pod: Pod) -> None:
    """No CRD at the start: the gate opens. Installed later, the StorageFormat is seen and reported on."""
    api.installed = False
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    assert "not installed" in health(pod.port(sidecar))["databases"][0]["message"]
    api.installed = True
    api.apply(wanted(pod))
    phase(api, "RestartRequired")
    eventually(lambda: api.watching("storageformats"))
    assert_untouched(pod.database)


def test_token_is_read_for_every_request(api: FakeApi, pod: Pod) -> None:
    """The kubelet rotates the token: requests and the watch go on with the new one."""
    token = pod.folder / "token"
    token.write_text("first")
    api.tokens = {"first"}
    api.apply(wanted(pod))
    pod.options["--resync"] = "1"
    pod.worker()
    assert pod.gate().ends() == 0
    phase(api, "Converted")
    eventually(lambda: api.watching("storageformats"))
    api.tokens = {"second"}
    token.write_text("second")
    api.cut_watches()
    eventually(lambda: any(seen.watch and seen.token == "second" for seen in list(api.requests)))
    api.apply(wanted(pod, spec__target="v1"))
    phase(api, "RestartRequired")


@pytest.mark.parametrize("how", ["cut", "silent"])
def test_a_lost_watch_is_healed(api: FakeApi, pod: Pod, how: str) -> None:
    """A watch that was cut comes back; one that is silent is made up for by asking now and then."""
    api.apply(wanted(pod))
    pod.options["--resync"] = "1" if how == "silent" else "300"
    pod.worker()
    assert pod.gate().ends() == 0
    phase(api, "Converted")
    eventually(lambda: api.watching("storageformats"))
    if how == "silent":
        api.silent_watches = True
    else:
        api.cut_watches()
    api.apply(wanted(pod, spec__target="v1"))
    phase(api, "RestartRequired")


def test_too_many_requests_is_obeyed(api: FakeApi, pod: Pod) -> None:
    """429 on writes: they are repeated until they succeed, and hold nothing up."""
    api.apply(wanted(pod))
    api.overloaded = 2
    pod.worker()
    assert pod.gate().ends() == 0
    phase(api, "Converted")
    assert [seen.status for seen in api.writes()].count(429) == 2


def test_nothing_is_written_while_nothing_happens(api: FakeApi, pod: Pod) -> None:
    """Several full looks later, not one write was added."""
    api.apply(wanted(pod))
    pod.options["--resync"] = "0.2"
    pod.worker()
    assert pod.gate().ends() == 0
    eventually(lambda: api.status(STATE).get("gate") == "Open")
    writes, looks = len(api.writes()), len(api.requests)
    eventually(lambda: len(api.requests) >= looks + 20)
    assert len(api.writes()) == writes


# --- while the app runs -----------------------------------------------------------------------------------


def test_a_change_while_the_app_runs_touches_nothing(api: FakeApi, pod: Pod) -> None:
    """RestartRequired, and the bytes stay as they are, also after the worker was killed."""
    sidecar = pod.sidecar()
    assert pod.gate().ends() == 0
    before = pod.database.read_bytes()
    eventually(lambda: api.watching("storageformats"))
    api.apply(wanted(pod))
    phase(api, "RestartRequired")
    worker = int(re.findall(r"worker started pid=(\d+)", sidecar.text())[-1])
    os.kill(worker, signal.SIGKILL)
    sidecar.says(r"worker ended pid=\d+ signal=SIGKILL")
    eventually(lambda: sidecar.text().count("serving metrics") == 2)
    eventually(lambda: metrics(pod.port(sidecar))["storageformat_restart_required"] == 1)
    assert pod.database.read_bytes() == before
    assert metrics(pod.port(sidecar))["storageformat_gate_open"] == 1


def test_pending_work_waits_for_the_gate(api: FakeApi, pod: Pod) -> None:
    """A worker that starts without a gate does not even recover; with one, recovery comes first."""
    api.apply(wanted(pod))
    with environ(KILL_AT="build.after-staging"):
        pod.worker(driver="tests.sidecar.driver")
        gate = pod.gate()
        eventually((pod.folder / "killed").exists)
    gate.close()
    pending = format_store.inspect(pod.database).pending
    assert len(pending) == 1
    sidecar = pod.worker()
    phase(api, "Recovering")
    assert format_store.inspect(pod.database).pending == pending
    assert pod.gate().ends() == 0
    assert_converted(pod.database)
    seen = metrics(pod.port(sidecar))
    assert seen['storageformat_recoveries_total{outcome="discarded"}'] == 1
    assert seen["storageformat_last_recovery_timestamp_seconds"] > 0
    assert phase(api, "Converted")["lastRecovery"]["outcome"] == "discarded"


def test_recovery_needs_no_api(api: FakeApi, pod: Pod) -> None:
    """What a crash left is recovered though nobody answers; then the gate opens."""
    api.apply(wanted(pod))
    with environ(KILL_AT="build.after-staging"):
        pod.worker(driver="tests.sidecar.driver")
        gate = pod.gate()
        eventually((pod.folder / "killed").exists)
    gate.close()
    api.down()
    pod.options["--api-wait"] = "30"
    sidecar = pod.worker()
    gate = pod.gate()
    sidecar.says("recovered .*outcome=discarded")
    assert format_store.inspect(pod.database).pending == ()
    assert gate.is_running


# --- killed and stopped -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["build.after-staging", "swap.before-rename", "swap.after-rename"]
)
def test_killed_in_the_middle_of_a_conversion(api: FakeApi, pod: Pod, place: str) -> None:
    """The supervisor starts another worker; the gate stays and connects again; all records are there."""
    api.apply(wanted(pod))
    with environ(KILL_AT=place):
        first = pod.worker(driver="tests.sidecar.driver")
        gate = pod.gate()
        assert first.ends() == -signal.SIGKILL
        pod.worker(driver="tests.sidecar.driver")
        assert gate.ends() == 0
    assert_converted(pod.database)
    status = phase(api, "Converted")
    assert status["lastRecovery"]["outcome"] in {"discarded", "completed"}


def test_sigterm_in_the_middle_aborts_within_a_second(api: FakeApi, pod: Pod) -> None:
    """The staging copy goes, the database is as it was, and the exit is clean."""
    api.apply(wanted(pod))
    worker = paused_worker(pod, "build.after-staging")
    pod.gate()
    eventually((pod.folder / "paused").exists)
    worker.send(signal.SIGTERM)
    go_on(pod)
    assert worker.ends(within=3) == 0
    assert_untouched(pod.database)
    assert format_store.inspect(pod.database).pending == ()


def test_sigterm_does_not_wait_for_what_does_not_stop(api: FakeApi, pod: Pod) -> None:
    """A conversion that hangs is left to the next start; the process ends all the same."""
    api.apply(wanted(pod))
    worker = paused_worker(pod, "build.after-staging")
    pod.gate()
    eventually((pod.folder / "paused").exists)
    worker.send(signal.SIGTERM)
    assert worker.ends(within=3) == 0
    assert len(format_store.inspect(pod.database).pending) == 1


def test_supervisor_killed_ends_its_worker(api: FakeApi, pod: Pod) -> None:
    """No worker goes on without a supervisor, and the next pair takes over the socket."""
    api.apply(rolling(pod))
    sidecar = pod.sidecar()
    gate = pod.gate()
    sidecar.says("gate connected")
    sidecar.send(signal.SIGKILL)
    sidecar.ends()
    sidecar.says("the supervisor is gone")
    gate.says("SidecarAway")
    api.apply(wanted(pod))
    pod.sidecar()
    assert gate.ends() == 0
    assert_converted(pod.database)


def test_a_gate_that_leaves_does_not_stop_a_conversion(api: FakeApi, pod: Pod) -> None:
    """It was begun while a gate was connected; no app can start before another gate is told "open"."""
    api.apply(wanted(pod))
    worker = paused_worker(pod, "build.after-staging")
    gate = pod.gate()
    eventually((pod.folder / "paused").exists)
    gate.send(signal.SIGTERM)
    assert gate.ends(within=2) == 128 + signal.SIGTERM
    worker.says("gate gone")
    second = pod.gate()
    second.says("gate=closed")
    go_on(pod)
    assert second.ends() == 0
    assert_converted(pod.database)


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


# --- several databases ------------------------------------------------------------------------------------


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


def test_another_path_is_not_served(api: FakeApi, pod: Pod) -> None:
    """The StorageFormat is about another file than the sidecar was started for."""
    api.apply(wanted(pod, spec__database__path="/data/else.db"))
    pod.worker()
    assert pod.gate().ends() == 0
    assert_untouched(pod.database)
    assert "/data/else.db" in phase(api, "PathNotServed")["message"]


# --- failures ---------------------------------------------------------------------------------------------


def test_a_refusal_blocks_until_the_cause_is_gone(api: FakeApi, pod: Pod) -> None:
    """onFailure: Block. The status says what to do; after a change it is tried again at once."""
    body = wanted(pod, spec__unmarked=["v2"])
    api.apply(body)
    sidecar = pod.worker()
    gate = pod.gate()
    status = phase(api, "Refused")
    assert status["reason"] == "UndeclaredFormat"
    assert status["lastConversion"]["result"] == "refused"
    assert gate.is_running
    assert metrics(pod.port(sidecar))['storageformat_conversions_total{result="refused"}'] == 1
    assert metrics(pod.port(sidecar))["storageformat_gate_open"] == 0
    eventually(lambda: api.watching("storageformats"))
    api.apply(wanted(pod))
    assert gate.ends(within=5) == 0
    assert_converted(pod.database)


def test_a_database_in_use_is_tried_again(api: FakeApi, pod: Pod) -> None:
    """Somebody has it open: the gate stays closed and the conversion follows when it is closed."""
    api.apply(wanted(pod))
    with closing(sqlite3.connect(pod.database)) as connection:
        connection.execute("SELECT count(*) FROM unnamed").fetchone()
        pod.worker()
        gate = pod.gate()
        gate.says("gate=closed .*InUse")
        assert_untouched(pod.database)
    assert gate.ends() == 0
    assert_converted(pod.database)


def test_skew_is_blocked(api: FakeApi, pod: Pod) -> None:
    """An app that cannot read the target starts on the format it can read."""
    api.apply(wanted(pod))
    pod.options["--reads"] = "v1"
    pod.worker()
    assert pod.gate().ends() == 0
    assert_untouched(pod.database)
    assert phase(api, "Refused")["reason"] == "SkewBlocked"


def test_an_unreadable_database_keeps_the_gate_closed(api: FakeApi, pod: Pod) -> None:
    """A database that this version of the app cannot read: closed, and the gate's line says why."""
    format_store.convert(pod.database, V2)
    api.apply(wanted(pod, spec__target="v1", spec__rollout={"strategy": "RollingRestart"}))
    pod.options |= {"--reads": "v1", "--permit-wait": "0.2"}
    pod.worker()
    gate = pod.gate()
    gate.says("the app reads v1, the database is in v2")
    assert gate.is_running


def test_totals_survive_a_restart(api: FakeApi, pod: Pod) -> None:
    """The counters of the next process begin where the last one's ended."""
    api.apply(wanted(pod))
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    sidecar.send(signal.SIGTERM)
    assert sidecar.ends() == 0
    again = pod.worker()
    assert pod.gate().ends() == 0
    seen = metrics(pod.port(again))
    assert seen['storageformat_conversions_total{result="succeeded"}'] == 1
    assert seen["storageformat_backups_created_total"] == 1
    assert seen["storageformat_last_success_timestamp_seconds"] > 0


def test_a_retained_backup_is_reported_and_deleted_in_time(api: FakeApi, pod: Pod) -> None:
    """backup.retainFor: present with its size, then gone, by the sidecar's own timer."""
    api.apply(wanted(pod, spec__backup={"retainFor": "2s"}))
    size = pod.database.stat().st_size
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    status = phase(api, "Converted")
    assert status["backup"]["present"] is True
    assert status["backup"]["size"] == size
    assert metrics(pod.port(sidecar))["storageformat_backup_size_bytes"] == size
    eventually(lambda: metrics(pod.port(sidecar))["storageformat_backup_present"] == 0)
    eventually(lambda: api.status(STATE)["backup"] == {"present": False})
    assert format_store.inspect(pod.database).backups == ()


def test_deleted_formatstate_is_made_again(api: FakeApi, pod: Pod) -> None:
    """Somebody deletes the report: it is written anew."""
    api.apply(wanted(pod))
    pod.worker()
    assert pod.gate().ends() == 0
    eventually(lambda: api.status(STATE).get("gate") == "Open")
    eventually(lambda: api.watching("formatstates"))
    api.delete("formatstates", STATE)
    eventually(lambda: api.status(STATE).get("gate") == "Open")


def test_deleted_storageformat_is_forgotten(api: FakeApi, pod: Pod) -> None:
    """After the deletion nothing is converted, not even with the API away."""
    api.apply(rolling(pod))
    pod.options |= {"--permit-wait": "0", "--api-wait": "0.3"}
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    phase(api, "RestartRequired")
    eventually(lambda: api.watching("storageformats"))
    desired = pod.folder / ".orders.db.storageformat" / "desired.json"
    eventually(lambda: '"v2"' in desired.read_text())
    api.delete("storageformats", "orders")
    eventually(lambda: '"v2"' not in desired.read_text())
    sidecar.send(signal.SIGTERM)
    assert sidecar.ends() == 0
    api.down()
    pod.worker()
    assert pod.gate().ends() == 0
    assert_untouched(pod.database)


def test_the_target_changed_twice_quickly(api: FakeApi, pod: Pod) -> None:
    """What counts is the last word: there and back during a conversion ends where the API says."""
    api.apply(wanted(pod))
    paused_worker(pod, "build.after-staging")
    gate = pod.gate()
    eventually((pod.folder / "paused").exists)
    eventually(lambda: api.watching("storageformats"))
    api.apply(wanted(pod, spec__target="v1"))
    api.apply(wanted(pod))
    api.apply(wanted(pod, spec__target="v1"))
    go_on(pod)
    assert gate.ends() == 0
    phase(api, "Converted")
    assert format_of(pod.database) == PLAIN_SQLITEDICT


def test_a_taken_metrics_port_does_not_hold_the_app(api: FakeApi, pod: Pod) -> None:
    """The gate opens though /metrics cannot be served."""
    pod.options["--metrics-port"] = str(api.port)
    sidecar = pod.worker()
    assert pod.gate().ends() == 0
    sidecar.says("cannot serve metrics")


def test_health_answers_before_any_gate(pod: Pod) -> None:
    """/healthz and /metrics are up first, with zeros."""
    sidecar = pod.worker()
    port = pod.port(sidecar)
    assert fetch(port, "/healthz")[0] == 200
    assert metrics(port)['storageformat_recoveries_total{outcome="restored"}'] == 0
