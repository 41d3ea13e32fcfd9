"""How the supervisor knows that the worker's loop turns, over the descriptor that ties the two together.

No probe may watch the sidecar (one that fails takes a healthy app out of its Services), so a worker whose loop
hangs would keep its gate closed for ever. The other mistake is the worse one: a worker that is killed while it
converts, because the machine is slow, begins anew and is killed again. So silence counts only when

* this worker's loop has turned before, and
* the store is not at work: its thread says by itself when it begins and ends, whatever the loop does, and
* the kernel says that the worker could run: not stopped, not traced, not waiting for a disk, and
* the supervisor itself was on time: both share the container's processor time.

Standard library only, and little of it: the supervisor imports this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

BEAT_SECONDS: Final = 5.0
#: So many looks in a row without a beat, each a beat apart.
_LOOKS: Final = 6
#: What the supervisor may be late by, as a part of the time between two looks.
_LATE: Final = 0.25

_TURNS: Final = b"."
_BEGINS: Final = b"<"
_ENDS: Final = b">"
_COULD_RUN: Final = frozenset("RS")


class Heart:
    """The worker's end. Every method may be called from any thread, and none ever blocks or raises."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._works = False

    def turns(self) -> None:
        """The loop does; to be called every ``BEAT_SECONDS``."""
        # Once more that the store works: thousands of short calls at once may have filled the buffer.
        self._send(_TURNS + _BEGINS if self._works else _TURNS)

    def works(self, *, begins: bool) -> None:
        """A call into the store begins or ends."""
        self._works = begins
        self._send(_BEGINS if begins else _ENDS)

    def _send(self, word: bytes) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, word)
        except OSError:
            return  # the supervisor is gone, which is noticed elsewhere


class Pulse:
    """The supervisor's end: what one worker's silence means. Times are monotonic, in seconds."""

    def __init__(self, now: float, every: float = BEAT_SECONDS) -> None:
        self.look_at = now + every
        self._every = every
        self._has_turned = False
        self._works = False
        self._silent = 0

    def hangs(self, now: float, heard: bytes, state: str) -> bool:
        """One look, due at ``look_at``: whether the worker is to be replaced. ``state`` is ``state_of``'s."""
        late = now - self.look_at > self._every * _LATE
        self.look_at = now + self._every
        self._has_turned = self._has_turned or _TURNS in heard
        self._works = heard.rfind(_BEGINS) > heard.rfind(_ENDS) or (
            self._works and _ENDS not in heard
        )
        counts = self._has_turned and not self._works and state in _COULD_RUN and not late
        self._silent = self._silent + 1 if counts and not heard else 0
        return self._silent >= _LOOKS


def state_of(pid: int) -> str:
    """The kernel's letter for what the process's main thread does (proc_pid_stat(5)); empty: unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]
