"""Starts a worker whose store stops at a failpoint, which no command line can do.

The environment says where: ``PAUSE_AT`` (touches ``paused``, waits for ``go`` in the working directory; SIGTERM
aborts as usual), ``KILL_AT`` (SIGKILL, once: the file ``killed`` remembers). ``BEAT`` is how often the supervisor
is told that the loop turns, in seconds; SIGUSR1 then makes it hang. ``AS_USER`` is the id that root is given up for.
``WAIT`` is how long, in seconds, every failed attempt waits for the next.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from format_operator.sidecar import app, databases
from format_store import Failpoints
from tests.support import preloaded

_PR_SET_DUMPABLE = 4


def _pause() -> None:
    Path("paused").touch()
    while not Path("go").exists():
        time.sleep(0.01)


def _kill() -> None:
    if not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def actions() -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {}
    if place := os.environ.get("PAUSE_AT"):
        found[place] = _pause
    if place := os.environ.get("KILL_AT"):
        found[place] = _kill
    return found


def _hang(*_: object) -> None:
    Path("hangs").touch()
    while True:
        time.sleep(60)


def _become(uid: int) -> None:
    preloaded.everything()
    importlib.import_module("kopf")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # Changing ids makes /proc/self root's; for a process that was started as that user it is not.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


if __name__ == "__main__":
    if beat := os.environ.get("BEAT"):
        app.Worker.beat_seconds = float(beat)
        signal.signal(signal.SIGUSR1, _hang)
    if wait := os.environ.get("WAIT"):
        databases.BACKOFF.update(dict.fromkeys(databases.BACKOFF, (float(wait), float(wait))))
    if uid := os.environ.get("AS_USER"):
        _become(int(uid))
    sys.exit(app.main(failpoints=Failpoints(actions())))
