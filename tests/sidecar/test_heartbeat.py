"""When the supervisor replaces a worker whose loop is silent, and above all when it does not."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from format_operator.sidecar.heartbeat import Heart, Pulse, state_of
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, Process, eventually, python
from tests.sidecar.scenes import assert_converted, environ, go_on, wanted

START = """
import sys
from format_operator.sidecar import supervisor
timing = supervisor.Timing(restarts=(0.1,), beat=0.2, last_words=0.5)
worker = [sys.executable, "-W", "error", "-m", "tests.sidecar.driver"]
sys.exit(supervisor.main(worker_command=worker, timing=timing))
"""
EVERY = 5.0


def verdicts(*heard: bytes, states: str = "S", late: float = 0.0) -> list[bool]:
    """What each look finds, ``EVERY`` seconds apart; ``late`` is how much later each one was taken."""
    pulse = Pulse(0.0, EVERY)
    found = []
    for index, words in enumerate(heard):
        state = states[index % len(states)]
        found.append(pulse.hangs(pulse.look_at + late, words, state))
    return found


SILENT = (b"",) * 6


def test_a_loop_that_is_silent_for_half_a_minute_hangs() -> None:
    """Six looks in a row, and not one fewer."""
    assert verdicts(b".", *SILENT) == [False] * 6 + [True]
    assert not any(verdicts(b".", *SILENT[1:], b".", *SILENT[1:]))


def test_a_loop_that_never_turned_is_left_alone() -> None:
    """A start may take as long as it takes, and a worker that does not beat is none of ours."""
    assert not any(verdicts(*SILENT, *SILENT))


@pytest.mark.parametrize(
    "before", [b".<", b".<><", b".<.", b"<."], ids=["begun", "again", "beating", "first"]
)
def test_never_while_the_store_is_at_work(before: bytes) -> None:
    """A conversion may take hours and all processor time there is."""
    assert not any(verdicts(before, *SILENT * 100))


def test_silence_counts_from_when_the_store_is_done() -> None:
    """Its thread says so by itself, though the loop hangs."""
    assert verdicts(b".<", *SILENT, b">", *SILENT) == [False] * 13 + [True]


@pytest.mark.parametrize("state", ["T", "t", "D", "Z", "?"])
def test_never_while_it_cannot_run(state: str) -> None:
    """Stopped, traced, waiting for a disk: that is no fault of the worker's, and killing mends nothing."""
    assert not any(verdicts(b".", *SILENT * 3, states=state))


def test_silence_before_a_stop_does_not_count_after_it() -> None:
    """A worker that goes on gets the whole time again."""
    assert not any(verdicts(b".", *SILENT[1:], b"", *SILENT[1:], states="SSSSSST"))


def test_never_while_the_supervisor_is_late_itself() -> None:
    """A throttled container, a machine that is overloaded or was suspended: both are slow."""
    assert not any(verdicts(b".", *SILENT * 3, late=EVERY / 2))
    assert verdicts(b".", *SILENT, late=EVERY / 10)[-1]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Heart]]:
    ours, workers = socket.socketpair()
    with ours, workers:
        ours.setblocking(False)
        workers.setblocking(False)
        yield ours, Heart(workers.fileno())


def test_a_full_buffer_neither_blocks_nor_hides_the_work(
    ends: tuple[socket.socket, Heart],
) -> None:
    """What did not fit is said again by the next beat."""
    ours, heart = ends
    for _ in range(10_000):
        heart.works(begins=True)
        heart.works(begins=False)
    heart.works(begins=True)
    pulse = Pulse(0.0, EVERY)
    assert not pulse.hangs(EVERY, ours.recv(1 << 20), "S")
    heart.turns()
    assert ours.recv(10) == b".<"
    heart.works(begins=False)
    heart.turns()
    assert ours.recv(10) == b">."


def test_a_heart_without_a_supervisor(ends: tuple[socket.socket, Heart]) -> None:
    """Gone, or never there: nothing is raised, the worker ends for another reason."""
    ours, heart = ends
    ours.close()
    heart.turns()
    heart.works(begins=True)
    Heart(None).turns()


def test_the_state_of_a_process() -> None:
    """The kernel's letter; nothing for one that is not there."""
    assert state_of(os.getpid()) == "R"
    assert not state_of(2**22 + 1)


@pytest.fixture
def sidecar(pod: Pod) -> Process:
    """The real supervisor and worker, with a pulse that is 25 times as fast."""
    with environ(BEAT="0.04", PAUSE_AT="build.after-staging"):
        return pod.start([*python("-c", START), *pod.arguments()], "sidecar.log")


def workers(sidecar: Process) -> list[int]:
    return [int(pid) for pid in re.findall(r"worker started pid=(\d+)", sidecar.text())]


def test_a_worker_whose_loop_hangs_is_replaced(api: FakeApi, pod: Pod, sidecar: Process) -> None:
    """It says where it hangs, another one starts, and the waiting gate gets its word."""
    go_on(pod)
    sidecar.says("serving metrics")
    os.kill(workers(sidecar)[0], signal.SIGUSR1)
    eventually((pod.folder / "hangs").exists)
    gate = pod.gate()
    sidecar.says(r"worker hangs pid=\d+")
    sidecar.says(r'driver.py", line \d+ in _hang')
    sidecar.says(r"worker ended pid=\d+ signal=SIGKILL")
    api.apply(wanted(pod))
    assert gate.ends() == 0
    assert len(workers(sidecar)) == 2


def test_a_hanging_loop_is_left_to_a_conversion_under_way(
    api: FakeApi, pod: Pod, sidecar: Process
) -> None:
    """The worker is replaced when the conversion is done, which is not done again."""
    api.apply(wanted(pod))
    gate = pod.gate()
    eventually((pod.folder / "paused").exists)
    os.kill(workers(sidecar)[0], signal.SIGUSR1)
    eventually((pod.folder / "hangs").exists)
    go_on(pod)
    sidecar.says(r"worker hangs pid=\d+")
    assert gate.ends() == 0
    assert_converted(pod.database)
    assert "recovered" not in sidecar.text()
