"""Carries what the store tells from its thread to metrics, status, log and trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from format_operator.runtime.log import Log
from format_operator.series import DatabaseSeries
from format_operator.sidecar.traces import CONVERSION, Story
from format_store import Backup, Observer, Phase, Recovery

_PROGRESS_SECONDS = 0.5


class SidecarObserver(Observer):
    """One per call into the store. Writes plain attributes; the main loop is told that there is news.

    ``story``: notes it for a trace. Each phase of a conversion is a line of the log, too; a recovery has its id only
    when it is over.
    """

    def __init__(
        self,
        series: DatabaseSeries,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        news: Callable[[], None],
        *,
        share: tuple[int, int] = (0, 1),
        story: Story | None = None,
    ) -> None:
        self._series = series
        self._log = log
        self._loop = loop
        self._news = news
        self._index, self._count = share
        self._story = story
        self.current = Phase.IDLE
        self._began = self._since = time.monotonic()
        #: The last phase that was none of idling: where a failure happened.
        self.last = Phase.IDLE
        self.done = 0
        self.total = 0
        self.created: list[Backup] = []
        self.deleted: set[str] = set()
        self._told_at = 0.0

    def phase(self, phase: Phase) -> None:
        self._end_of_phase(phase)
        self.current = phase
        self.done = self.total = 0
        self._series.phase = str(phase)
        self._tell()

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if self._story is not None:
            self._story.rows(done)
        within = done / total if total else 1.0
        self._series.progress = (self._index + within) / self._count
        if time.monotonic() - self._told_at >= _PROGRESS_SECONDS:
            self._tell()

    def _end_of_phase(self, following: Phase) -> None:
        now = time.monotonic()
        if self._story is not None:
            self._story.phase(following)
            if self.current is not Phase.IDLE and self._story.name == CONVERSION:
                self._log.info(
                    "phase ended",
                    phase=self.current,
                    seconds=now - self._since,
                    rows=self.done if self.total else None,
                )
        self._since = now
        if following is not Phase.IDLE:
            self.last = following

    def recovered(self, recovery: Recovery) -> None:
        self._log.warning(
            "recovered",
            conversion=recovery.conversion_id,
            outcome=recovery.outcome,
            detail=recovery.detail,
            seconds=time.monotonic() - self._began,
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
