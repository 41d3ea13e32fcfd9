"""The main job: a sidecar and its gate as real processes, against an API server that does what it is told."""

from __future__ import annotations

import signal
from pathlib import Path

import format_store
from format_store import PLAIN_SQLITEDICT
from tests.sidecar.conftest import RECORDS, fill
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, eventually, fetch, health, metrics, python
from tests.sidecar.scenes import (
    STATE,
    V2,
    assert_converted,
    assert_untouched,
    format_of,
    go_on,
    hash_of,
    paused_worker,
    phase,
    rolling,
    wanted,
)


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


def test_converts_optimised(api: FakeApi, pod: Pod) -> None:
    """As the image runs it, with ``python -O``: no step of the conversion hides in an assert."""
    api.apply(wanted(pod))
    command = [*python("-O", "-m", "format_operator", "sidecar"), *pod.arguments()]
    sidecar = pod.start(command, "sidecar.log")
    assert pod.gate().ends() == 0
    assert_converted(pod.database)
    worker = int(sidecar.says(r"worker started pid=(\d+)")[1])
    assert b"-O" in Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")
    phase(api, "Converted")


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


def test_a_database_that_the_app_makes_later_is_noticed(api: FakeApi, pod: Pod) -> None:
    """The gate opened on nothing; the app then made a database, in the old format: that is what counts."""
    pod.database.unlink()
    pod.worker()
    assert pod.gate().ends() == 0
    fill(pod.database)
    api.apply(wanted(pod))
    assert phase(api, "RestartRequired")["currentFormat"] == "v1"
    assert_untouched(pod.database)


def test_a_database_that_comes_after_its_storageformat_is_noticed(api: FakeApi, pod: Pod) -> None:
    """Without waiting for the next resync: the volume may hold the old format from now on."""
    pod.database.unlink()
    api.apply(wanted(pod))
    pod.worker()
    assert pod.gate().ends() == 0
    assert phase(api, "Idle")["reason"] == "NoDatabase"
    fill(pod.database)
    phase(api, "RestartRequired")


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


def test_another_path_is_not_served(api: FakeApi, pod: Pod) -> None:
    """The StorageFormat is about another file than the sidecar was started for."""
    api.apply(wanted(pod, spec__database__path="/data/else.db"))
    pod.worker()
    assert pod.gate().ends() == 0
    assert_untouched(pod.database)
    assert "/data/else.db" in phase(api, "PathNotServed")["message"]


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
