"""Carries what the store tells from its thread to metrics and status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from format_operator.metrics import DatabaseSeries
from format_operator.runtime.log import Log
from format_store import Backup, Observer, Phase, Recovery

_PROGRESS_SECONDS = 0.5


class SidecarObserver(Observer):
    """One per call into the store. Writes plain attributes; the main loop is told that there is news."""

    def __init__(
        self,
        series: DatabaseSeries,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        news: Callable[[], None],
        *,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._series = series
        self._log = log
        self._loop = loop
        self._news = news
        self._index, self._count = share
        self.current = Phase.IDLE
        self.done = 0
        self.total = 0
        self.created: list[Backup] = []
        self.deleted: set[str] = set()
        self._told_at = 0.0

    def phase(self, phase: Phase) -> None:
        self.current = phase
        self.done = self.total = 0
        self._series.phase = str(phase)
        self._tell()

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        within = done / total if total else 1.0
        self._series.progress = (self._index + within) / self._count
        if time.monotonic() - self._told_at >= _PROGRESS_SECONDS:
            self._tell()

    def recovered(self, recovery: Recovery) -> None:
        self._log.warning(
            "recovered",
            conversion=recovery.conversion_id,
            outcome=recovery.outcome,
            detail=recovery.detail,
        )

    def backup_created(self, backup: Backup) -> None:
        self._series.backups = {**self._series.backups, backup.conversion_id: backup}
        self.created.append(backup)
        self._log.info("backup created", conversion=backup.conversion_id, bytes=backup.size)

    def backup_deleted(self, backup: Backup) -> None:
        kept = dict(self._series.backups)
        kept.pop(backup.conversion_id, None)
        self._series.backups = kept
        self.deleted.add(backup.conversion_id)
        self._log.info("backup deleted", conversion=backup.conversion_id)

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._news)
        except RuntimeError:
            return  # the loop is closed: the process is about to end
