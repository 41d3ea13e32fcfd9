"""Sidecar and controller with a wall clock of their own, which jumps when a test says so.

``python -m tests.support.skewed sidecar|controller …`` with ``CLOCK``, a file with the hours that the clock is ahead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final
from unittest.mock import patch

from format_operator.controller import app as controller
from format_operator.controller import lease
from format_operator.runtime import clock
from format_operator.sidecar import app as sidecar
from format_operator.sidecar import supervisor
from format_store import clock as store_clock

MODULE: Final = "tests.support.skewed"
VARIABLE: Final = "CLOCK"


class Clock:
    """The clock of what is started within ``worn``."""

    def __init__(self, folder: Path, hours: float) -> None:
        self._file = folder / "clock"
        self.set(hours)

    def set(self, hours: float) -> None:
        """So much ahead of the machine's, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(str(hours))
        new.rename(self._file)

    @contextmanager
    def worn(self) -> Iterator[None]:
        with patch.dict(os.environ, {VARIABLE: str(self._file)}):
            yield


def _ahead() -> timedelta:
    return timedelta(hours=float(Path(os.environ[VARIABLE]).read_text()))


class _Skewed(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # a plain one
        return datetime.now(tz) + _ahead()


def main() -> int:
    for module in (clock, lease):
        module.datetime = _Skewed  # type: ignore[attr-defined] # what they imported
    seconds = store_clock.seconds
    store_clock.seconds = lambda: seconds() + _ahead().total_seconds()
    store_clock.now = lambda: store_clock.at(store_clock.seconds())
    role, *arguments = sys.argv[1:]
    if role == "controller":
        return controller.main(arguments)
    if "--supervisor-fd" not in arguments:
        worker = [sys.executable, "-W", "error", "-m", MODULE, "sidecar"]
        return supervisor.main(arguments, worker_command=worker)
    return sidecar.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
