"""The API server is away, forbids, forgets, is slow; its objects come and go."""

from __future__ import annotations

import signal

import pytest

from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, eventually, health
from tests.sidecar.scenes import (
    STATE,
    assert_converted,
    assert_untouched,
    go_on,
    paused_worker,
    phase,
    rolling,
    wanted,
)


def test_api_away_opens_the_gate_after_a_while(api: FakeApi, pod: Pod) -> None:
    """Nothing stored, nobody answers: the app starts, and the gate's last line says why."""
    api.down()
    pod.options["--api-wait"] = "0.4"
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
    pod.options["--api-wait"] = "0.3"
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
    pod.options["--resync"] = "0.3"
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
    pod.options["--resync"] = "0.3" if how == "silent" else "300"
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


def test_a_discovery_that_left_the_kinds_out(api: FakeApi, pod: Pod) -> None:
    """A bad answer while the watch is set up: the kinds are watched all the same, after another look."""
    api.apply(wanted(pod))
    api.empty_discoveries = 1
    pod.options["--resync"] = "3600"
    pod.worker().says("did not list everything .*missing=formatstates,storageformats")
    eventually(lambda: api.watching("storageformats") and api.watching("formatstates"), within=20)


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
