"""The newest body of each watched object, handed from the watching threads to the main loop.

A watch delivers every version; only the last one matters. A slow reader therefore finds one letter per object,
however many were put in.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

Key = tuple[str, str]
Body = Mapping[str, Any]


class Mailbox:
    """``put`` from any thread; ``deliver`` is called on the loop, once for each object's newest letter."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deliver: Callable[[str, str, Body | None], None]
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._lock = threading.Lock()
        self._letters: dict[Key, Body | None] = {}

    def put(self, plural: str, name: str, body: Body | None) -> None:
        """``name`` tells objects of a kind apart; ``body`` is None when the object was deleted."""
        with self._lock:
            first = not self._letters
            self._letters[plural, name] = body
        if first:
            try:
                self._loop.call_soon_threadsafe(self._empty)
            except RuntimeError:
                return  # the loop is closed: the process is about to end

    def _empty(self) -> None:
        with self._lock:
            letters, self._letters = self._letters, {}
        for (plural, name), body in letters.items():
            self._deliver(plural, name, body)
