"""PID 1: keeps a worker running, hands SIGTERM on, reaps, and stays small."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from format_operator.sidecar import supervisor
from tests.sidecar.pods import Process, environment, eventually, python

ARGUMENTS = ["--database", "orders=/data/orders.db", "--pod-name", "orders-0"]

START = """
import sys
from format_operator.sidecar import supervisor
program, *arguments = sys.argv[1:]
worker = [sys.executable, "-c", program]
sys.exit(supervisor.main(arguments, worker_command=worker, timing=supervisor.Timing(stop=0.5)))
"""
WORKS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("working", flush=True)
while True:
    time.sleep(60)
"""
DIES = "import os; os._exit(7)"
HANGS = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("working", flush=True)
while True:
    time.sleep(60)
"""
LEAVES_ORPHANS = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.3)
    os._exit(0)
print("working", flush=True)
time.sleep(60)
"""

Start = Callable[[str], Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def begin(program: str) -> Process:
        command = [*python("-c", START), program, *ARGUMENTS]
        started.append(Process(command, tmp_path / "supervisor.log"))
        return started[-1]

    yield begin
    for process in started:
        for pid in re.findall(r"worker started pid=(\d+)", process.text()):
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.close()


def workers(process: Process) -> list[int]:
    return [int(pid) for pid in re.findall(r"worker started pid=(\d+)", process.text())]


def test_a_killed_worker_is_restarted_within_five_seconds(start: Start) -> None:
    """The container lives on, and another worker runs."""
    process = start(WORKS)
    process.says("working")
    began = time.monotonic()
    os.kill(workers(process)[0], signal.SIGKILL)
    process.says(r"worker ended pid=\d+ signal=SIGKILL")
    eventually(lambda: len(workers(process)) == 2)
    assert time.monotonic() - began < 5
    assert process.is_running


def test_the_worker_has_one_arena(start: Start) -> None:
    """Else what conversions leave free in the arenas of their threads adds up."""
    process = start(WORKS)
    process.says("working")
    environment = Path(f"/proc/{workers(process)[0]}/environ").read_bytes().split(b"\0")
    assert b"MALLOC_ARENA_MAX=1" in environment


def test_a_worker_knows_how_many_there_were(start: Start) -> None:
    """For its metrics: those before it cannot tell any more."""
    process = start(WORKS)
    for ended in range(2):
        eventually(lambda: len(workers(process)) == ended + 1)  # noqa: B023 # called at once
        environment = Path(f"/proc/{workers(process)[-1]}/environ").read_bytes().split(b"\0")
        assert f"STORAGEFORMAT_WORKER_RESTARTS={ended}".encode() in environment
        assert b"STORAGEFORMAT_WORKER_HANGS=0" in environment
        os.kill(workers(process)[-1], signal.SIGKILL)


def test_restarts_slow_down_but_go_on(start: Start) -> None:
    """A worker that dies at once is tried again after 1 s, then 2 s."""
    process = start(DIES)
    eventually(lambda: len(workers(process)) == 3)
    assert re.findall(r"restarts in=(\d)s", process.text())[:2] == ["1", "2"]
    assert "exit=7" in process.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_signal_is_handed_on(start: Start, number: signal.Signals) -> None:
    """The worker ends first, then the supervisor, with 0."""
    process = start(WORKS)
    process.says("working")
    process.send(number)
    assert process.ends(within=3) == 0
    process.says(r"worker ended pid=\d+ exit=0")


def test_sigterm_between_two_workers_ends_at_once(start: Start) -> None:
    """Nothing is waited for when nothing runs."""
    process = start(DIES)
    process.says("restarts in=2s")
    process.send(signal.SIGTERM)
    assert process.ends(within=1) == 0


def test_a_worker_that_hangs_is_killed(start: Start) -> None:
    """It gets a few seconds (here half a one); the grace period of the pod is not spent on it."""
    process = start(HANGS)
    process.says("working")
    process.send(signal.SIGTERM)
    assert process.ends(within=3) == 0
    process.says("signal=SIGKILL")
    assert supervisor.Timing().stop == 5


def test_wrong_arguments_are_said_at_once(tmp_path: Path) -> None:
    """Usage is exit 2 and a sentence, not a loop of restarts."""
    command = python(
        "-m", "format_operator", "sidecar", "--database", "orders.db=/x", "--pod-name", "p"
    )
    process = Process(command, tmp_path / "supervisor.log")
    try:
        assert process.ends() == 2
        assert "without dots" in process.text()
        assert "worker started" not in process.text()
    finally:
        process.close()


def test_it_reaps_children_that_are_not_its_worker(tmp_path: Path) -> None:
    """Orphans of the container become PID 1's; they do not stay as zombies."""
    # A subreaper is to its descendants what PID 1 is to a container.
    program = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n" + START
    process = Process([*python("-c", program), LEAVES_ORPHANS, *ARGUMENTS], tmp_path / "reaper.log")
    try:
        process.says("working")
        eventually(lambda: _children(process.pid) == workers(process))
    finally:
        for pid in workers(process):
            os.kill(pid, signal.SIGKILL)
        process.close()


def test_it_imports_next_to_nothing() -> None:
    """It lives as long as the pod: no asyncio, no store, no HTTP."""
    code = (
        "import sys, format_operator.sidecar.supervisor; "
        "print({'asyncio', 'aiohttp', 'sqlite3', 'kopf', 'format_store', 'json.tool', 'subprocess', "
        "'prometheus_client'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert ended.stdout.strip() == "set()"


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
