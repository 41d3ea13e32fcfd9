"""Stopping a conversion from another thread, within a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


class Abort:
    """A request to stop, visible to the converting thread.

    ``request()`` may be called from any thread or from a signal handler's thread. It interrupts the SQLite
    statements under way (``sqlite3_interrupt``) and whatever else registered itself; the conversion then
    discards its staging copy and raises ``Aborted``. After the swap it has no effect: the work is done.
    """

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def request(self) -> None:
        self._requested.set()
        with self._lock:
            for interrupt in self._interrupts:
                interrupt()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While the body runs, a request also calls ``interrupt`` (from the requesting thread)."""
        with self._lock:
            self._interrupts.append(interrupt)
        try:
            # A request that came just before the registration must not be lost.
            if self.requested:
                interrupt()
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)

    @contextmanager
    def connection(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        """Interrupt ``connection`` on request while the body runs."""
        with self.interrupting(connection.interrupt):
            yield connection
