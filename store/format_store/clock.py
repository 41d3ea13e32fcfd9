"""Time as the files and the API write it: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

#: The last moment that this format can write, in seconds since the epoch.
LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def now() -> str:
    return datetime.now(UTC).strftime(_FORMAT)


def at(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime(_FORMAT)


def parse(text: str) -> float:
    """Seconds since the epoch. Raises ValueError."""
    return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC).timestamp()


def new_conversion_id() -> str:
    """Sorts by time, unique without a clock: ``20261123T104639Z-3f9a1c2b``."""
    return time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime()) + os.urandom(4).hex()


def seconds() -> float:
    """Seconds since the epoch, for durations that outlive a process."""
    return time.time()
