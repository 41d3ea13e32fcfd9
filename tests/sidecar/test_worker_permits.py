"""Permits: waited for, wrong, stored while the app runs, withdrawn."""

from __future__ import annotations

import signal

import pytest

from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, eventually, metrics
from tests.sidecar.scenes import (
    STATE,
    assert_converted,
    assert_untouched,
    hash_of,
    in_minutes,
    phase,
    rolling,
)


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


def test_a_permit_that_the_volume_does_not_take(api: FakeApi, pod: Pod) -> None:
    """Such as on a full one: it is no silent wait but a failure that says why, and passes with its cause."""
    body = rolling(pod)
    pod.options["--permit-wait"] = "0"
    api.apply(body)
    pod.worker()
    assert pod.gate().ends() == 0
    phase(api, "RestartRequired")
    eventually(lambda: api.watching("formatstates"))
    desired = pod.database.with_name(f".{pod.database.name}.storageformat") / "desired.json"
    desired.unlink()
    desired.mkdir()  # as good as no space, also for root
    api.permit(STATE, hash_of(body), in_minutes(10))
    status = phase(api, "Failed")
    assert status["reason"] == "StorageError"
    assert "the permit to convert cannot be stored" in status["message"]
    assert status["restartRequired"] is True
    assert_untouched(pod.database)
    desired.rmdir()
    assert phase(api, "Armed")["armedFor"] == hash_of(body)


def test_a_withdrawn_permit_is_not_used_when_the_api_answers(api: FakeApi, pod: Pod) -> None:
    """The API's word wins over the one on the volume."""
    body = rolling(pod)
    pod.options["--permit-wait"] = "0.1"
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


def test_a_report_whose_answer_was_lost_leaves_nothing_behind(api: FakeApi, pod: Pod) -> None:
    """ "Armed" was written, the answer lost, the permit withdrawn: no word of it stays, or the pod would be evicted."""
    body = rolling(pod)
    api.apply(body)
    pod.options["--permit-wait"] = "0"
    pod.worker()
    assert pod.gate().ends() == 0
    eventually(lambda: api.status(STATE).get("gate") == "Open")
    eventually(lambda: api.watching("formatstates"))
    api.lost_answers = 1
    api.permit(STATE, hash_of(body), in_minutes(10))
    eventually(lambda: api.status(STATE).get("armedFor"))
    api.set_spec(STATE, {})
    phase(api, "RestartRequired")
    assert "armedFor" not in api.status(STATE)
