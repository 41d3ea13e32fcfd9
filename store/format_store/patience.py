"""Waiting out a moment in which a file only looks taken.

A process that another thread of ours has just forked holds copies of all our descriptors, with the locks
and leases on them, until it calls exec. What looks like another opener then is gone in a moment; a real
one stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")

_ATTEMPTS = 10
_PAUSE_SECONDS = 0.01


def patiently(attempt: Callable[[], _Result]) -> _Result:
    """Call ``attempt`` until it does not raise BlockingIOError any more; a tenth of a second at most."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return attempt()
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
    return attempt()
