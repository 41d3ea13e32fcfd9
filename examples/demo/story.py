"""What happens between the start of the pods and the last app's: watched, told, and once interfered with."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.demo.pod import Pod
from examples.demo.show import Show, readable

_KILL_AT = 0.3
"""The part of the build that shall be done when the kill comes."""
_SMALL_ROWS = 5_000
"""A database below that is built within a moment: its conversion is killed as soon as it begins."""
_PATIENCE_SECONDS = 60.0
_EVERY_SECONDS = 0.004


class Failed(Exception):
    """The demo cannot go on; the message says why."""


def until_apps_run(pods: Sequence[Pod], victim: Pod, show: Show) -> None:
    """Start each app when its gate opens; kill the victim's worker in mid-conversion. Raises Failed."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    before = digest(victim.database)
    killed: int | None = None
    while any(pod.app is None for pod in pods):
        if killed is None and _is_converting(victim):
            killed = _kill(victim, before, show)
        for pod in pods:
            for line in [*pod.news("sidecar.log"), *pod.news("gate.log")]:
                _tell(pod, line, killed, show)
            if pod.app is None and pod.gate_opened:
                show.event(pod.name, "the gate opens: the app starts", "green")
                pod.start_app()
        if time.monotonic() > deadline:
            waiting = [pod for pod in pods if pod.app is None]
            logs = "\n".join(f"{pod.name}:\n{pod.end_of('sidecar.log')}" for pod in waiting)
            raise Failed(f"no open gate within {_PATIENCE_SECONDS:.0f} s\n{logs}")
        time.sleep(_EVERY_SECONDS)
    if killed is None:
        raise Failed(f"{victim.name} was converted before its sidecar could be killed")


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for something. Raises Failed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_converting(pod: Pod) -> bool:
    """Whether the staging copy is being written, and far enough."""
    if not any(file.name == "staging.db" for file in pod.work()):
        return False
    if pod.shard.rows < _SMALL_ROWS:
        return True
    return _progress(pod) >= _KILL_AT or not _is_building(pod)


def _progress(pod: Pod) -> float:
    return pod.metric("storageformat_conversion_progress_ratio")


def _is_building(pod: Pod) -> bool:
    return pod.metric("storageformat_conversion_phase", phase="building") == 1


def _kill(pod: Pod, before: str, show: Show) -> int:
    done = f", {_progress(pod):.0%} of the records built" if _is_building(pod) else ""
    pid = pod.kill_worker()
    show.event(pod.name, f"SIGKILL to the sidecar's worker, pid {pid}{done}", "red")
    files = ", ".join(one.name for one in pod.work())
    if not files:
        raise Failed(f"{pod.name}: the kill came too late, nothing was under way")
    show.event(pod.name, f"left behind: an unfinished copy ({files})", "yellow")
    if digest(pod.database) != before:
        raise Failed(f"{pod.name}: the kill changed the database")
    show.event(pod.name, "the database is as it was, byte for byte")
    return pid


#: What is told of a pod's logs: a pattern, and what it says for people.
_TOLD: tuple[tuple[str, str, str], ...] = (
    (
        r"info supervisor worker restarts in=(?P<delay>\S+)",
        "the supervisor starts another worker in {delay}",
        "",
    ),
    (
        r"gate=closed reason=SidecarAway .*closed the connection",
        "the gate stays closed, and connects again",
        "",
    ),
    (
        r'warning recovered .*outcome=(?P<outcome>\w+) detail="(?P<detail>.*)"',
        "recovered: the unfinished copy is {outcome}, {detail}",
        "yellow",
    ),
    (
        r"info conversion needed .*target=(?P<target>\S+)",
        "the gate is connected: converting to {target}",
        "",
    ),
    (
        r"info backup created .*bytes=(?P<size>\d+)",
        "verified, swapped in; the old file ({size}) is the backup",
        "",
    ),
    (
        r"info conversion ended .*outcome=converted rows=(?P<rows>\d+)",
        "backup deleted; {rows} records converted",
        "",
    ),
)
#: What went wrong is told as it was said.
_WRONG = re.compile(r"Z (?:error .*|warning (?:conversion ended|recovery failed|cannot) .*)")


def _tell(pod: Pod, line: str, killed: int | None, show: Show) -> None:
    started = re.search(r"supervisor worker started pid=(\d+)", line)
    if started is not None and killed is not None and int(started[1]) != killed:
        show.event(pod.name, f"worker started, pid {started[1]}")
    for pattern, text, colour in _TOLD:
        found = re.search(pattern, line)
        if found is not None:
            words = {name: _for_people(name, said) for name, said in found.groupdict().items()}
            show.event(pod.name, text.format(**words), colour)
    if wrong := _WRONG.search(line):
        show.event(pod.name, wrong[0].removeprefix("Z "), "red")


def _for_people(name: str, said: str) -> str:
    if name == "size":
        return readable(int(said))
    return f"{int(said):,}" if name == "rows" else said
