"""Killed, stopped, left by its gate, and what of that happens while the app runs."""

from __future__ import annotations

import os
import re
import signal

import pytest

import format_store
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, eventually, metrics
from tests.sidecar.scenes import (
    assert_converted,
    assert_untouched,
    environ,
    go_on,
    paused_worker,
    phase,
    rolling,
    wanted,
)


def test_a_change_while_the_app_runs_touches_nothing(api: FakeApi, pod: Pod) -> None:
    """RestartRequired, and the bytes stay as they are, also after the worker was killed."""
    pod.options["--gate-grace"] = "0.1"
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
