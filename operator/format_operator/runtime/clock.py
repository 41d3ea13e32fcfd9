"""The time of day, in one place: this machine's, and the API server's."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

#: A Date has no fractions of a second, and an answer is under way for a moment.
_AGREES: Final = timedelta(seconds=2)


def now() -> datetime:
    return datetime.now(UTC)


class ServerClock:
    """The API server's time, by the Date of its answers; this machine's until there was one.

    What one machine writes and another compares with its time (when a permit ends) is in this time: else machines
    whose clocks differ by more than a permit lasts would never convert. It goes on steadily where the machine's
    own clock is set.
    """

    def __init__(self) -> None:
        self._anchor: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        if self._anchor is None:
            return now()
        at, since = self._anchor
        return at + timedelta(seconds=time.monotonic() - since)

    def heard(self, date: str | None) -> None:
        """An answer had this header."""
        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        if told.tzinfo is None:
            return
        mine = self.now()
        if abs(told - mine) > _AGREES:
            self._anchor = (told, time.monotonic())
        elif self._anchor is None:
            self._anchor = (mine, time.monotonic())
