"""Starts a worker whose store stops at a failpoint, which no command line can do.

The environment says where: ``PAUSE_AT`` (touches ``paused``, waits for ``go`` in the working directory; SIGTERM
aborts as usual), ``KILL_AT`` (SIGKILL, once: the file ``killed`` remembers).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from format_operator.sidecar import app
from format_store import Failpoints


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


if __name__ == "__main__":
    sys.exit(app.main(failpoints=Failpoints(actions())))
