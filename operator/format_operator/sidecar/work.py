"""The three things that change a volume: recover, convert, delete a backup whose time is over.

Each is one call on the store's thread, with an observer that carries its progress; whether it may be done was
decided before. What came of it is kept with the database; nothing is raised but by a bug.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from format_operator.api.conditions import timestamp
from format_operator.api.models import ConversionStatus, Progress
from format_operator.metrics import DatabaseSeries, SidecarMetrics
from format_operator.runtime import clock
from format_operator.runtime.log import Log
from format_operator.sidecar.databases import Database
from format_operator.sidecar.observed import FailureKind
from format_operator.sidecar.observer import SidecarObserver
from format_operator.sidecar.store import Store, StoreThread, kind_of
from format_operator.sidecar.wish import Wish
from format_store import Abort, Outcome, Result, Retention
from format_store.errors import Aborted, StoreError

T = TypeVar("T")

_PRUNE_RETRY_SECONDS = 600.0


class Work:
    """What is done for one argument. ``news`` is called, on the loop, when there is progress to tell."""

    def __init__(
        self,
        store: Store,
        thread: StoreThread,
        metrics: SidecarMetrics,
        series: DatabaseSeries,
        news: Callable[[], None],
        log: Log,
    ) -> None:
        #: The last conversion was refused: nothing was touched, so no history knows of it.
        self.refusal: ConversionStatus | None = None
        self._store = store
        self._thread = thread
        self._metrics = metrics
        self._series = series
        self._news = news
        self._log = log
        self._observer: SidecarObserver | None = None

    @property
    def is_under_way(self) -> bool:
        return self._observer is not None

    def progress(self) -> Progress | None:
        observer = self._observer
        if observer is None or not observer.total:
            return None
        percent = min(100, 100 * observer.done // observer.total)
        return Progress(percent, observer.done, observer.total, str(observer.current))

    async def recover(self, database: Database, *, openers_unchecked: bool) -> None:
        """Settle what a crash left."""
        database.recovered = True
        observer = self._new_observer()
        try:
            result = await self._call(
                observer,
                lambda abort: self._store.recover(
                    database.path, observer, abort, openers_unchecked=openers_unchecked
                ),
            )
        except Exception as error:
            database.failed(error)
            database.unsettled = kind_of(error) is FailureKind.TRY_AGAIN
            self._log.warning("recovery failed", path=database.path, error=error)
            return
        database.failure = None
        database.unsettled = False
        if result.recoveries:
            self._log.info("recovered all", path=database.path, count=len(result.recoveries))

    async def convert(
        self,
        database: Database,
        wish: Wish,
        to: str,
        *,
        openers_unchecked: bool,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Convert to the wish's format ``to``. ``share``: the how-manieth of how many, for the progress."""
        backup = wish.storageformat.spec.backup
        self._series.progress = 0.0
        log = self._log.bind(path=database.path, target=to)
        log.info("converting")
        started = time.monotonic()
        observer = self._new_observer(share)
        try:
            result = await self._call(
                observer,
                lambda abort: self._store.convert(
                    database.path,
                    wish.format(to),
                    wish.unmarked,
                    Retention(backup.retain_for, backup.pinned),
                    observer,
                    abort,
                    openers_unchecked=openers_unchecked,
                ),
            )
        except Exception as error:
            self._not_converted(database, to, error, log)
        else:
            self._converted(database, result, log, time.monotonic() - started)

    async def prune(self, database: Database, *, openers_unchecked: bool) -> None:
        """Delete backups whose time is over, and remember when the next one's is."""
        observer = self._new_observer()
        try:
            wait = await self._call(
                observer,
                lambda _: self._store.prune(
                    database.path, observer, openers_unchecked=openers_unchecked
                ),
            )
        except Exception as error:
            self._log.warning("cannot delete backups", path=database.path, error=error)
            wait = _PRUNE_RETRY_SECONDS
        database.prune_at = time.monotonic() + wait if wait is not None else None
        if database.looked is not None:
            backups = database.looked.backups
            kept = tuple(one for one in backups if one.conversion_id not in observer.deleted)
            database.looked = replace(database.looked, backups=kept)

    def _new_observer(self, share: tuple[int, int] = (0, 1)) -> SidecarObserver:
        return SidecarObserver(
            self._series, self._log, asyncio.get_running_loop(), self._news, share=share
        )

    async def _call(self, observer: SidecarObserver, function: Callable[[Abort], T]) -> T:
        self._observer = observer
        try:
            return await self._thread.call(function)
        finally:
            self._observer = None

    def _converted(self, database: Database, result: Result, log: Log, seconds: float) -> None:
        database.failure = None
        self.refusal = None
        self._series.progress = 1.0
        if result.outcome is Outcome.CONVERTED:
            self._metrics.durations.labels(*self._series.labels).observe(result.seconds)
        log.info(
            "done",
            outcome=result.outcome,
            rows=result.rows,
            bytes_before=result.bytes_before,
            bytes_after=result.bytes_after,
            seconds=seconds,
        )

    def _not_converted(self, database: Database, to: str, error: Exception, log: Log) -> None:
        if database.failed(error).kind is FailureKind.REFUSED:
            self._series.refused += 1
            self.refusal = ConversionStatus(
                at=timestamp(clock.now()), result="refused", to_format=to
            )
        if isinstance(error, StoreError):
            level = log.info if isinstance(error, Aborted) else log.warning
            level("not converted", reason=error.reason, error=error, hint=error.hint)
        else:
            log.failure("not converted", error)
