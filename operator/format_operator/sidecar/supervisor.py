"""``storageformat sidecar``: PID 1 of the sidecar's container. Keeps the worker running, and nothing else.

A native sidecar that exits with a closed gate takes the pod's start with it, and a probe that fails takes a
healthy app out of its Services. So the container never ends because of the worker: the worker dies, another is
started within 5 s. One whose loop hangs while nothing is under way is killed (``heartbeat``). SIGTERM is handed on, and the container ends when the worker has. Whatever becomes an orphan in
the container is reaped.

Standard library only, and little of it: this process lives as long as the pod.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from format_operator.runtime import lines
from format_operator.settings import HANGS_VARIABLE, RESTARTS_VARIABLE, sidecar_settings
from format_operator.sidecar.heartbeat import BEAT_SECONDS, Pulse, state_of

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
#: glibc gives threads arenas of their own, in which what each conversion leaves free stays: with one, a worker of a thousand
#: conversions holds 9 MiB less (mallopt(3)). Whoever sets it otherwise is heard.
_MEMORY = {"MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Timing:
    """In seconds; others than these are a test's."""

    restarts: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    #: A worker that ran that long was no failing start: the next restart is quick again.
    healthy: float = 60.0
    #: The worker ends within a second; one that hangs does not get the rest of the grace period.
    stop: float = 5.0
    beat: float = BEAT_SECONDS
    #: For a worker that hangs to write down where.
    last_words: float = 1.0


def main(
    argv: Sequence[str] | None = None,
    *,
    worker_command: Sequence[str] | None = None,
    timing: Timing = Timing(),
) -> int:
    """Run until SIGTERM or SIGINT. ``worker_command`` stands in for our own worker, in tests."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Arguments that make no sense are said at once, not once per restart.
    settings = sidecar_settings(arguments)
    fields = {"role": "supervisor", "namespace": settings.namespace, "pod": settings.pod_name}
    say = partial(_say_json, fields) if settings.log_format == lines.JSON else _say
    command = list(worker_command) if worker_command is not None else _own_worker()
    return Supervisor([*command, *arguments], timing, say).run()


class Supervisor:
    """Starts ``command`` with ``--supervisor-fd N``: its end tells that we are gone, and it brings the beats."""

    def __init__(
        self,
        command: Sequence[str],
        timing: Timing = Timing(),
        say: Callable[..., None] | None = None,
    ) -> None:
        self._command = list(command)
        self._timing = timing
        self._say = say or _say
        self._pulse: Pulse | None = None
        self._worker: int | None = None
        self._started_at = 0.0
        self._failures = 0
        self._restarts = self._hangs = 0
        self._restart_at: float | None = 0.0
        self._kill_at: float | None = None
        self._stopping = False
        # One is inherited by the worker only; ours closes with us, however we end.
        self._ours, self._workers = socket.socketpair()
        self._ours.setblocking(False)
        self._workers.setblocking(False)

    def run(self) -> int:
        # Blocked, and taken one at a time below: no handler runs in the middle of anything.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while True:
            self._start_if_due()
            received = signal.sigtimedwait(_SIGNALS, self._seconds_to_next())
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._stop(received.si_signo)
            self._reap()
            if self._stopping and self._worker is None:
                return 0
            self._listen()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = None
                self._signal_worker(signal.SIGKILL)

    def _start_if_due(self) -> None:
        if self._stopping or self._restart_at is None or time.monotonic() < self._restart_at:
            return
        self._restart_at = None
        self._started_at = time.monotonic()
        self._hear()  # what an earlier worker said
        self._pulse = Pulse(self._started_at, self._timing.beat)
        self._workers.set_inheritable(True)
        try:
            self._worker = os.posix_spawn(
                self._command[0],
                [*self._command, "--supervisor-fd", str(self._workers.fileno())],
                {**_MEMORY, **os.environ, **self._counts()},
                setsigmask=(),
                setsigdef=_SIGNALS,
            )
        except OSError as error:
            self._say("cannot start the worker", error=error.strerror)
            self._pulse = None
            self._plan_restart()
            return
        self._say("worker started", pid=self._worker)

    def _counts(self) -> dict[str, str]:
        """For the worker's metrics: it cannot know what became of those before it."""
        return {RESTARTS_VARIABLE: str(self._restarts), HANGS_VARIABLE: str(self._hangs)}

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker:
                self._worker = None
                self._kill_at = None
                self._pulse = None
                self._say("worker ended", pid=pid, **_ending(status))
                if not self._stopping:
                    self._restarts += 1
                    self._plan_restart()

    def _listen(self) -> None:
        """Kill a worker that hangs, after it has said where (a traceback of all its threads)."""
        pulse, now = self._pulse, time.monotonic()
        if pulse is None or self._worker is None or now < pulse.look_at:
            return
        if not pulse.hangs(now, self._hear(), state_of(self._worker)):
            return
        self._say("worker hangs", pid=self._worker)
        self._hangs += 1
        self._pulse = None
        self._signal_worker(signal.SIGQUIT)
        if self._kill_at is None:
            self._kill_at = now + self._timing.last_words

    def _hear(self) -> bytes:
        heard = b""
        try:
            while part := self._ours.recv(4096):
                heard += part
        except BlockingIOError:
            pass  # that was all
        return heard

    def _plan_restart(self) -> None:
        now = time.monotonic()
        if now - self._started_at >= self._timing.healthy:
            self._failures = 0
        delays = self._timing.restarts
        delay = delays[min(self._failures, len(delays) - 1)]
        self._failures += 1
        self._restart_at = now + delay
        self._say("worker restarts", **{"in": f"{delay:.0f}s"})

    def _stop(self, number: int) -> None:
        self._say("stopping", signal=signal.Signals(number).name)
        self._stopping = True
        self._restart_at = None
        if self._worker is not None:
            self._kill_at = time.monotonic() + self._timing.stop
        self._signal_worker(signal.SIGTERM)

    def _signal_worker(self, number: int) -> None:
        if self._worker is None:
            return
        try:
            os.kill(self._worker, number)
        except ProcessLookupError:
            return  # just ended; SIGCHLD is on its way

    def _seconds_to_next(self) -> float:
        look_at = self._pulse.look_at if self._pulse is not None else None
        planned = (self._restart_at, self._kill_at, look_at)
        moments = [moment for moment in planned if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else 3600.0


def _own_worker() -> list[str]:
    optimise = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    return [sys.executable, *optimise, "-m", "format_operator", "sidecar-worker"]


def _ending(status: int) -> dict[str, object]:
    code = os.waitstatus_to_exitcode(status)
    return {"signal": signal.Signals(-code).name} if code < 0 else {"exit": code}


def _say(event: str, **fields: object) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.write(2, f"{moment} info supervisor {lines.as_text(event, fields)}\n".encode())


def _say_json(process: Mapping[str, object], event: str, **fields: object) -> None:
    line = lines.as_json(time.time(), "info", event, {**process, **fields})
    os.write(2, f"{line}\n".encode())
