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
from format_operator.metrics import SidecarMetrics
from format_operator.runtime import clock
from format_operator.runtime.log import Log
from format_operator.series import DatabaseSeries
from format_operator.sidecar.databases import Database
from format_operator.sidecar.observed import Disk, FailureKind
from format_operator.sidecar.observer import SidecarObserver
from format_operator.sidecar.store import Looked, Store, StoreThread, kind_of
from format_operator.sidecar.traces import CONVERSION, RECOVERY, Story, Traces
from format_operator.sidecar.wish import Wish
from format_store import Abort, Outcome, Result, Retention, new_conversion_id
from format_store.errors import Aborted, StoreError

T = TypeVar("T")

_PRUNE_RETRY_SECONDS = 600.0
#: How a conversion ended, in the log.
_RESULTS = {
    FailureKind.TRY_AGAIN: "put off",
    FailureKind.REFUSED: "refused",
    FailureKind.FAILED: "failed",
    FailureKind.ATTENTION: "needs a person",
}


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
        traces: Traces | None = None,
    ) -> None:
        #: The last conversion was refused: nothing was touched, so no history knows of it.
        self.refusal: ConversionStatus | None = None
        self._store = store
        self._thread = thread
        self._metrics = metrics
        self._series = series
        self._news = news
        self._log = log
        self._traces = traces
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
        log = self._log.bind(database=database.path)
        story = self._story(RECOVERY, database)
        observer = self._new_observer(log, story=story)
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
            log.warning("recovery failed", **_why(error))
            self._tell(story, error)
            return
        database.failure = None
        database.unsettled = False
        if result.recoveries:
            log.info("recovered all", count=len(result.recoveries))
            last = result.recoveries[-1]
            self._tell(story, conversion=last.conversion_id, outcome=str(last.outcome))

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
        # Known before anything is done, so that the whole story is found by it.
        conversion = new_conversion_id()
        log = self._log.bind(conversion=conversion, database=database.path)
        looked = database.looked or Looked(Disk.UNKNOWN)
        source = wish.name_of(looked.format) if looked.format is not None else None
        log.info("conversion needed", source=source, target=to, bytes=looked.size)
        started = time.monotonic()
        story = self._story(CONVERSION, database, conversion=conversion, target=to)
        observer = self._new_observer(log, share, story)
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
                    conversion_id=conversion,
                ),
            )
        except Exception as error:
            log = log.bind(phase=observer.last, seconds=time.monotonic() - started)
            self._not_converted(database, to, error, log)
            self._tell(story, error)
        else:
            self._converted(database, result, log, time.monotonic() - started)
            self._tell(
                story,
                rows=result.rows,
                bytes_before=result.bytes_before,
                bytes_after=result.bytes_after,
                outcome=str(result.outcome),
            )

    async def prune(self, database: Database, *, openers_unchecked: bool) -> None:
        """Delete backups whose time is over, and remember when the next one's is."""
        log = self._log.bind(database=database.path)
        observer = self._new_observer(log)
        try:
            wait = await self._call(
                observer,
                lambda _: self._store.prune(
                    database.path, observer, openers_unchecked=openers_unchecked
                ),
            )
        except Exception as error:
            log.warning("cannot delete backups", **_why(error))
            wait = _PRUNE_RETRY_SECONDS
        database.prune_at = time.monotonic() + wait if wait is not None else None
        if database.looked is not None:
            backups = database.looked.backups
            kept = tuple(one for one in backups if one.conversion_id not in observer.deleted)
            database.looked = replace(database.looked, backups=kept)

    def _new_observer(
        self, log: Log, share: tuple[int, int] = (0, 1), story: Story | None = None
    ) -> SidecarObserver:
        loop = asyncio.get_running_loop()
        return SidecarObserver(self._series, log, loop, self._news, share=share, story=story)

    def _story(self, name: str, database: Database, **attributes: str) -> Story:
        known = {"database": database.path, "name": self._series.storageformat, **attributes}
        return Story(name, {f"storageformat.{key}": value for key, value in known.items()})

    def _tell(
        self, story: Story, error: Exception | None = None, **attributes: str | float
    ) -> None:
        if self._traces is None:
            return
        if error is not None:
            attributes["reason"] = (
                error.reason if isinstance(error, StoreError) else "InternalError"
            )
        story.end(str(error) if error is not None else "", **attributes)
        self._traces.tell(story)

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
            "conversion ended",
            result="succeeded",
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
        result = _RESULTS[kind_of(error)]
        if isinstance(error, StoreError):
            level = log.info if isinstance(error, Aborted) else log.warning
            level("conversion ended", result=result, **_why(error))
        else:
            log.failure("conversion ended", error, result=result, reason="InternalError")


def _why(error: Exception) -> dict[str, str]:
    if isinstance(error, StoreError):
        return {"reason": error.reason, "message": str(error), "hint": error.hint}
    return {"reason": "InternalError", "message": f"{type(error).__name__}: {error}"}
