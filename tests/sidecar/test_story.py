"""The story of one conversion, in the JSON lines of a real pod: found by the conversion's id alone."""

from __future__ import annotations

import json
from typing import Any

from format_store import Phase, history
from tests.sidecar.conftest import RECORDS
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, Process
from tests.sidecar.scenes import assert_converted, environ, phase, wanted
from tests.support.databases import execute

Line = dict[str, Any]


def lines(process: Process) -> list[Line]:
    """Every line that the sidecar wrote, each of which has to be JSON."""
    return [json.loads(line) for line in process.text().splitlines()]


def story(process: Process, conversion: str) -> list[Line]:
    return [line for line in lines(process) if line.get("conversion") == conversion]


def one(found: list[Line], event: str) -> Line:
    (line,) = [line for line in found if line["event"] == event]
    return line


def as_json(pod: Pod) -> None:
    pod.options["--log-format"] = "json"


def test_a_conversion_from_needed_to_ended(api: FakeApi, pod: Pod) -> None:
    """Each line names conversion, database, StorageFormat and pod; phases have their durations, the end rows and bytes."""
    as_json(pod)
    api.apply(wanted(pod, spec__backup={"retainFor": "1h"}))
    before = pod.database.stat().st_size
    sidecar, gate = pod.sidecar(), pod.gate("orders")
    assert gate.ends() == 0
    conversion = phase(api, "Converted")["lastConversion"]["conversionID"]
    told = story(sidecar, conversion)
    for line in told:
        assert (line["role"], line["namespace"], line["pod"]) == ("sidecar", "default", "orders-0")
        assert (line["storageformat"], line["database"]) == ("orders", str(pod.database))
    assert [line["time"] for line in told] == sorted(line["time"] for line in told)

    assert told[0]["event"] == "conversion needed"
    assert {key: told[0][key] for key in ("target", "bytes")} == {"target": "v2", "bytes": before}
    phases = [line["phase"] for line in told if line["event"] == "phase ended"]
    assert phases == [str(one) for one in Phase if one not in {Phase.IDLE, Phase.RECOVERING}]
    assert all(line["seconds"] >= 0 for line in told if line["event"] == "phase ended")
    (built,) = [line for line in told if line.get("phase") == "building"]
    assert built["rows"] == len(RECORDS)
    assert one(told, "backup created")["bytes"] == before
    assert told[-1]["event"] == "conversion ended"
    expected = {"result": "succeeded", "rows": len(RECORDS), "bytes_before": before}
    expected["bytes_after"] = pod.database.stat().st_size
    assert {key: told[-1][key] for key in expected} == expected
    assert {line["role"] for line in lines(sidecar)} == {"supervisor", "sidecar"}


def test_a_refusal_has_its_reason_and_what_to_do(api: FakeApi, pod: Pod) -> None:
    """The end of the story is the error's reason, message and hint, and the phase in which it came."""
    as_json(pod)
    execute(pod.database, "INSERT INTO unnamed (key, value) VALUES ('/stray', 'no pickle')")
    api.apply(wanted(pod))
    sidecar = pod.worker()
    pod.gate()
    phase(api, "Refused")
    ended = next(line for line in lines(sidecar) if line["event"] == "conversion ended")
    assert (ended["level"], ended["result"]) == ("warning", "refused")
    assert (ended["reason"], ended["phase"]) == ("UndeclaredFormat", "checking")
    assert "its rows do not all fit" in ended["message"]
    assert ended["hint"].startswith("Nothing was touched.")
    told = story(sidecar, ended["conversion"])
    assert (told[0]["event"], told[-1]) == ("conversion needed", ended)


def test_a_recovery_goes_on_with_the_story(api: FakeApi, pod: Pod) -> None:
    """A conversion that a kill ended is recovered by the next worker under the id that it began with."""
    as_json(pod)
    api.apply(wanted(pod))
    with environ(KILL_AT="swap.after-fsync"):
        dying = pod.worker(driver="tests.sidecar.driver")
    gate = pod.gate()
    assert dying.ends() == -9
    began = one(lines(dying), "conversion needed")
    sidecar = pod.worker()
    assert gate.ends() == 0
    assert_converted(pod.database)
    told = story(sidecar, began["conversion"])
    recovered = one(told, "recovered")
    assert (recovered["outcome"], recovered["database"]) == ("completed", str(pod.database))
    assert recovered["detail"]
    entries = history.read(pod.database).entries
    assert {entry["conversionID"] for entry in entries} == {began["conversion"]}


def test_gate_and_supervisor_speak_json_too(api: FakeApi, pod: Pod) -> None:
    """The gate's lines, and the supervisor's among the worker's, have the same first fields."""
    as_json(pod)
    api.apply(wanted(pod))
    sidecar = pod.sidecar()
    gate = pod.gate("orders", options=("--log-format", "json"))
    assert gate.ends() == 0
    last = lines(gate)[-1]
    assert (last["role"], last["event"], last["level"]) == ("gate", "gate open", "info")
    assert last["message"] == "the database is in v2"
    started = one(lines(sidecar), "worker started")
    assert (started["role"], started["pod"]) == ("supervisor", "orders-0")
    assert started["pid"] > 0
