"""Gates, workers and watches that come and go: always right, and nothing is held longer than it is needed."""

from __future__ import annotations

import os
import random
import re
import signal
from contextlib import suppress
from pathlib import Path

import format_store
from format_store import Format
from tests.sidecar.conftest import RECORDS
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, Process, eventually, pass_gate
from tests.sidecar.scenes import V2, phase, wanted
from tests.support.processes import Held

FORMATS = {"v1": Format.sqlitedict(), "v2": V2}
PATIENCE = 30.0


def test_gates_that_come_and_go(api: FakeApi, pod: Pod) -> None:
    """Killed, many at once, with a worker that is killed as well: who is told "open" finds the target, and never waits for ever."""
    chance = random.Random(6)
    api.apply(wanted(pod, spec__target="v1"))
    pod.options |= {"--resync": "3600", "--api-wait": "60"}
    sidecar = pod.sidecar()
    assert pod.gate().ends(within=PATIENCE) == 0
    for turn in range(6):
        target = ("v2", "v1")[turn % 2]
        api.apply(wanted(pod, spec__target=target))
        gates = [pod.gate() for _ in range(chance.randint(1, 3))]
        for doomed in chance.sample(gates, chance.randint(0, len(gates) - 1)):
            if chance.random() < 0.5:
                doomed.says("gate=", within=PATIENCE)
            doomed.send(signal.SIGKILL)
            gates.remove(doomed)
        if turn % 3 == 1:
            _kill_worker(sidecar)
            gates.append(pod.gate())
        for gate in gates:
            assert gate.ends(within=PATIENCE) == 0
            _assert_holds(pod.database, target)
    assert "internal error" not in sidecar.text()
    assert "Traceback" not in sidecar.text()


def test_what_came_and_went_leaves_nothing_open(api: FakeApi, pod: Pod) -> None:
    """Gates, edits, conversions and cut watches: what each of fifteen rounds left open would be seen.

    A connection may be kept for the next request, or not, and asyncio starts its few threads for the names of hosts as it
    needs them: the least of the last rounds is compared with the most of the first ones.
    """
    api.apply(wanted(pod))
    pod.options["--resync"] = "3600"
    sidecar = pod.sidecar()
    held: list[list[int]] = []
    for turn in range(15):
        api.apply(wanted(pod, spec__target=("v2", "v1")[turn % 2]))
        pass_gate(pod)
        phase(api, "Converted")
        eventually(lambda: _watches(api) == [True, True], within=PATIENCE)
        held.append(_held(sidecar))
        begun = _watches_begun(api)
        api.cut_watches()
        eventually(lambda begun=begun: _watches_begun(api) >= begun + 2, within=PATIENCE)  # type: ignore[misc] # a lambda in a loop
    first, last = zip(*held[2:6], strict=True), zip(*held[-4:], strict=True)
    # One that each round left would be six by then.
    assert all(min(now) < max(then) + 4 for then, now in zip(first, last, strict=True)), str(held)


def _watches(api: FakeApi) -> list[bool]:
    return [api.watching(plural) for plural in ("storageformats", "formatstates")]


def _watches_begun(api: FakeApi) -> int:
    return sum(one.watch for one in list(api.requests))


def _held(sidecar: Process) -> list[int]:
    """Descriptors and threads, of the supervisor and of the worker."""
    both = [Held.by(pid) for pid in (sidecar.pid, _worker(sidecar))]
    return [number for one in both for number in (one.descriptors, one.threads)]


def _assert_holds(path: Path, target: str) -> None:
    found = format_store.inspect(path).format
    assert found == FORMATS[target] or (found is None and target == "v1")
    with format_store.open_store(path, flag="r") as store:
        assert dict(store.items()) == RECORDS


def _worker(sidecar: Process) -> int:
    return int(re.findall(r"worker started pid=(\d+)", sidecar.text())[-1])


def _kill_worker(sidecar: Process) -> None:
    worker = _worker(sidecar)
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    sidecar.says(rf"worker ended pid={worker} signal=SIGKILL")
