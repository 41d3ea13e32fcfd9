"""``storageformat sidecar``: PID 1 of the sidecar's container. Keeps the worker running, and nothing else.

A native sidecar that exits with a closed gate takes the pod's start with it, and a probe that fails takes a
healthy app out of its Services. So the container never ends because of the worker: the worker dies, another is
started within 5 s. SIGTERM is handed on, and the container ends when the worker has. Whatever becomes an orphan in
the container is reaped.

Standard library only, and little of it: this process lives as long as the pod.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from format_operator.settings import sidecar_settings

_RESTART_SECONDS = (1.0, 2.0, 3.0, 4.0, 5.0)
#: A worker that ran that long was no failing start: the next restart is quick again.
_HEALTHY_SECONDS = 60.0
#: The worker ends within a second; one that hangs does not get the rest of the grace period.
_STOP_SECONDS = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def main(argv: Sequence[str] | None = None, *, worker_command: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. ``worker_command`` stands in for our own worker, in tests."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Arguments that make no sense are said at once, not once per restart.
    sidecar_settings(arguments)
    command = list(worker_command) if worker_command is not None else _own_worker()
    return Supervisor([*command, *arguments]).run()


class Supervisor:
    """Starts ``command`` with ``--supervisor-fd N``: a pipe whose end tells that the supervisor is gone."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._worker: int | None = None
        self._started_at = 0.0
        self._failures = 0
        self._restart_at: float | None = 0.0
        self._kill_at: float | None = None
        self._stopping = False
        # Inherited by the worker only; ours closes with us, however we end.
        self._alive, self._keep = os.pipe()

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
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = None
                self._signal_worker(signal.SIGKILL)

    def _start_if_due(self) -> None:
        if self._stopping or self._restart_at is None or time.monotonic() < self._restart_at:
            return
        self._restart_at = None
        self._started_at = time.monotonic()
        os.set_inheritable(self._alive, True)
        try:
            self._worker = os.posix_spawn(
                self._command[0],
                [*self._command, "--supervisor-fd", str(self._alive)],
                os.environ,
                setsigmask=(),
                setsigdef=_SIGNALS,
            )
        except OSError as error:
            _say(f"cannot start the worker error={error.strerror}")
            self._plan_restart()
            return
        _say(f"worker started pid={self._worker}")

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
                _say(f"worker ended pid={pid} {_ending(status)}")
                if not self._stopping:
                    self._plan_restart()

    def _plan_restart(self) -> None:
        now = time.monotonic()
        if now - self._started_at >= _HEALTHY_SECONDS:
            self._failures = 0
        delay = _RESTART_SECONDS[min(self._failures, len(_RESTART_SECONDS) - 1)]
        self._failures += 1
        self._restart_at = now + delay
        _say(f"worker restarts in={delay:.0f}s")

    def _stop(self, number: int) -> None:
        _say(f"stopping signal={signal.Signals(number).name}")
        self._stopping = True
        self._restart_at = None
        if self._worker is not None:
            self._kill_at = time.monotonic() + _STOP_SECONDS
        self._signal_worker(signal.SIGTERM)

    def _signal_worker(self, number: int) -> None:
        if self._worker is None:
            return
        try:
            os.kill(self._worker, number)
        except ProcessLookupError:
            return  # just ended; SIGCHLD is on its way

    def _seconds_to_next(self) -> float:
        moments = [moment for moment in (self._restart_at, self._kill_at) if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else 3600.0


def _own_worker() -> list[str]:
    optimise = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    return [sys.executable, *optimise, "-m", "format_operator", "sidecar-worker"]


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal={signal.Signals(-code).name}" if code < 0 else f"exit={code}"


def _say(text: str) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.write(2, f"{moment} info supervisor {text}\n".encode())
