"""Brings one database argument to where its StorageFormat wants it: looks, asks ``decide``, does it, looks again.

Level-triggered: whatever happens (a gate, an answer, a timer) only wakes it up; each pass starts from what is
there. A pass takes one step; a pass that failed for a reason of its own is repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from format_operator.api.conditions import timestamp
from format_operator.api.models import ConversionStatus, Phase, Progress
from format_operator.gate_protocol import Word
from format_operator.metrics import DatabaseSeries, SidecarMetrics
from format_operator.settings import DatabaseArgument, SidecarSettings
from format_operator.sidecar import clock, status
from format_operator.sidecar.decide import (
    Action,
    Asked,
    Disk,
    Failure,
    FailureKind,
    File,
    Observed,
    Rival,
    decide,
    remember,
)
from format_operator.sidecar.gate_server import GateServer, Session
from format_operator.sidecar.knowledge import Knowledge
from format_operator.sidecar.log import Log
from format_operator.sidecar.observer import SidecarObserver
from format_operator.sidecar.poller import Poller
from format_operator.sidecar.report import Reporter
from format_operator.sidecar.store import Looked, Store, StoreThread, files_of, kind_of
from format_operator.sidecar.wish import Stored, Wish, forgotten
from format_store import Abort, Backup, Outcome, Retention
from format_store.errors import Aborted, StoreError
from format_store.history import History

_AFTER_A_BUG_SECONDS = 5.0
_ATTENTION_SECONDS = 60.0
_PRUNE_RETRY_SECONDS = 600.0
#: (first, longest) wait between attempts, in seconds.
_BACKOFF = {
    FailureKind.TRY_AGAIN: (1.0, 15.0),
    FailureKind.REFUSED: (5.0, 300.0),
    FailureKind.FAILED: (5.0, 300.0),
    FailureKind.ATTENTION: (_ATTENTION_SECONDS, _ATTENTION_SECONDS),
}


@dataclass
class _Database:
    """One file and what was seen of it. Times are monotonic."""

    path: str
    looked: Looked | None = None
    recovered: bool = False
    unsettled: bool = False  # the recovery could not even look: somebody else is at work
    failure: Failure | None = None
    retry_at: float = 0.0

    def failed(self, error: Exception) -> None:
        kind = kind_of(error)
        attempts = self.failure.attempts + 1 if self.failure is not None else 1
        first, longest = _BACKOFF[kind]
        self.retry_at = time.monotonic() + min(first * 2 ** (attempts - 1), longest)
        if isinstance(error, StoreError):
            reason = error.reason
            message = f"{error}. {error.hint}".strip() if error.hint else str(error)
        else:
            reason, message = "InternalError", f"{type(error).__name__}: {error}"
        self.failure = Failure(kind, reason, message, attempts)

    def seen(self) -> File:
        looked = self.looked or Looked(Disk.UNKNOWN)
        failure = self.failure
        if failure is not None:
            failure = replace(failure, retry_in=self.retry_at - time.monotonic())
        return File(
            self.path, looked.disk, looked.format, looked.pending or self.unsettled, failure
        )

    @property
    def is_due(self) -> bool:
        return self.failure is None or time.monotonic() >= self.retry_at


@dataclass(frozen=True)
class Doors:
    """What a reconciler works with."""

    settings: SidecarSettings
    store: Store
    thread: StoreThread
    gate: GateServer
    metrics: SidecarMetrics


class Reconciler:
    """One ``--database`` argument. ``others`` are those that share this one's directory or path."""

    def __init__(
        self,
        argument: DatabaseArgument,
        doors: Doors,
        knowledge: Knowledge,
        poller: Poller,
        reporter: Reporter,
        log: Log,
    ) -> None:
        self.argument = argument
        self.knowledge = knowledge
        self.action: Action | None = None
        self.others: Sequence[Reconciler] = ()
        self._doors = doors
        self._poller = poller
        self._reporter = reporter
        self._log = log
        self._wake = asyncio.Event()
        self._started = time.monotonic()
        self._session: Session | None = None
        self._had_session = False
        self._databases: dict[str, _Database] | None = None
        self._stored: Stored | None = None
        self._stored_loaded = False
        self._histories: dict[str, History] = {}
        self._refusal: ConversionStatus | None = None
        self._opened_because: tuple[str, str] | None = None
        self._basis: object = None
        self._observer: SidecarObserver | None = None
        self._prune_at: float | None = None
        self._look_at = self._started + doors.settings.resync
        self._said = ""
        self.series = doors.metrics.add(DatabaseSeries(argument.name, argument.path))

    # --- the loop -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    def wants_answers(self) -> bool:
        """Whether a gate waits, so that the API should be asked more often."""
        if self._doors.gate.session(self.argument.name) is None:
            return False
        return self.action is None or self.action.phase is Phase.WAITING

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = await self._pass()
            except Exception as error:
                self._log.failure("internal error, trying again", error)
                delay = _AFTER_A_BUG_SECONDS
            try:
                await asyncio.wait_for(self._wake.wait(), delay)
            except TimeoutError:
                continue

    async def _pass(self) -> float | None:
        """One step; returns in how many seconds the next is due without anything happening."""
        session = self._doors.gate.session(self.argument.name)
        if session is not None and session is not self._session:
            self._begin(session)
        self._session = session
        if session is None and not self._had_session:
            grace = self._started + self._doors.settings.gate_grace - time.monotonic()
            if grace > 0:
                return grace
        await self._load_stored()
        await self._look_around(session)
        self._drop_old_failures()
        await self._remember()
        observed = self._observe()
        action = decide(observed)
        if action.convert and action.wish is not None and session is not None:
            self._report(action)
            return await self._convert(action, action.wish, session)
        if session is not None:
            self._tell_gate(action, session)
        self._report(action)
        delays = [action.wake_in, await self._prune()]
        if session is None:
            delays.append(self._look_at - time.monotonic())
        return max(0.05, min((delay for delay in delays if delay is not None), default=3600.0))

    def _begin(self, session: Session) -> None:
        """A gate came: the app does not run, and whatever was known of the databases may be old."""
        self._log.info("gate waits")
        if self._had_session:
            # The app ran in between. Only a new answer counts as the API's word.
            self.knowledge.forget()
            self._poller.ask_now()
        elif self.knowledge.storageformat.asked in {Asked.UNREACHABLE, Asked.FORBIDDEN}:
            self._poller.ask_now()
        self._session = session
        self._had_session = True
        self._databases = None
        self._opened_because = None
        self._refusal = None

    # --- looking ------------------------------------------------------------------------------------------

    async def _look_around(self, session: Session | None) -> None:
        if self._databases is None:
            paths = await asyncio.to_thread(files_of, self.argument, self._more_exact())
            self._databases = {path: _Database(path) for path in paths}
            self.series.paths = paths
            await self._read_histories(paths)
        elif session is None and time.monotonic() >= self._look_at:
            await self._look_for_new(self._databases)
        for database in list(self._databases.values()):
            if session is not None and (not database.recovered or self._must_recover(database)):
                # Only ever begun while a gate of this session is connected.
                if self._doors.gate.session(self.argument.name) is not session:
                    return
                await self._recover(database)
            if database.looked is None:
                await self._look(database)
        self._update_series()

    async def _look_for_new(self, known: dict[str, _Database]) -> None:
        """While the app runs: databases that it has made since, and their size. Reads only."""
        self._look_at = time.monotonic() + self._doors.settings.resync
        for path in await asyncio.to_thread(files_of, self.argument, self._more_exact()):
            database = known.setdefault(path, _Database(path))
            if database.looked is None or database.looked.disk in {Disk.ABSENT, Disk.EMPTY}:
                database.looked = None
        self.series.paths = tuple(known)

    @staticmethod
    def _must_recover(database: _Database) -> bool:
        looked = database.looked
        pending = database.unsettled or (looked is not None and looked.pending)
        return pending and database.is_due

    async def _recover(self, database: _Database) -> None:
        if not database.is_due:
            return
        database.recovered = True
        if self.action is not None and database.looked is not None and database.looked.pending:
            self._report(replace(self.action, phase=Phase.RECOVERING))
        observer = self._new_observer()
        unchecked = self._openers_unchecked()
        try:
            result = await self._doors.thread.call(
                lambda abort: self._doors.store.recover(
                    database.path, observer, abort, openers_unchecked=unchecked
                )
            )
        except Exception as error:
            database.failed(error)
            database.unsettled = kind_of(error) is FailureKind.TRY_AGAIN
            self._log.warning("recovery failed", path=database.path, error=error)
        else:
            database.failure = None
            database.unsettled = False
            if result.recoveries:
                self._log.info("recovered all", path=database.path, count=len(result.recoveries))
        finally:
            self._observer = None
        await self._look(database)
        if database.failure is None and database.looked is not None and database.looked.pending:
            # A recovery that says "done" and leaves work behind must not spin.
            database.failed(RuntimeError("work is still pending after the recovery"))
        await self._read_histories((database.path,))

    async def _look(self, database: _Database) -> None:
        try:
            database.looked = await self._doors.thread.call(
                lambda _: self._doors.store.look(database.path)
            )
        except Exception as error:
            # What cannot be looked at may hold pending work; the gate stays closed until it can.
            database.failed(error)
            database.looked = Looked(Disk.UNKNOWN, pending=True, note=str(error))
            self._log.warning("cannot look at the database", path=database.path, error=error)
        if database.looked.backups:
            self._prune_at = 0.0

    async def _read_histories(self, paths: Sequence[str]) -> None:
        def read() -> dict[str, History]:
            found = {}
            for path in paths:
                try:
                    found[path] = self._doors.store.history(path)
                except StoreError as error:
                    self._log.warning("cannot read the history", path=path, error=error)
            return found

        self._histories.update(await asyncio.to_thread(read))

    # --- the API's word -----------------------------------------------------------------------------------

    async def _load_stored(self) -> None:
        if self._stored_loaded:
            return
        try:
            document = await asyncio.to_thread(self._doors.store.load_desired, self.argument)
        except StoreError as error:
            self._log.warning("cannot read what was stored", error=error)
            document = None
        stored = Stored.from_document(document)
        # Two StorageFormats for one path share the place; only its own word speaks for each.
        self._stored = (
            stored if stored is not None and stored.wish.name == self.argument.name else None
        )
        self._stored_loaded = True

    async def _remember(self) -> None:
        """Store the API's word on the volume, before anything follows from it."""
        new = remember(self._observe())
        document = new.to_document() if new is not None else forgotten()
        if document == (self._stored.to_document() if self._stored is not None else forgotten()):
            return
        try:
            await asyncio.to_thread(self._doors.store.save_desired, self.argument, document)
        except StoreError as error:
            # Not stored is not armed: a restart would not find the permit.
            self._log.warning("cannot store the API's word", error=error)
            return
        self._stored = new

    def _observe(self) -> Observed:
        settings = self._doors.settings
        session = self._session
        rival, rival_name = self._rival()
        return Observed(
            now=clock.now(),
            argument=self.argument.path,
            at_gate=session is not None,
            gate_seconds=time.monotonic() - session.since if session is not None else 0.0,
            permit_wait=settings.permit_wait,
            api_wait=settings.api_wait,
            reads=settings.current_reads(),
            storageformat=self.knowledge.storageformat,
            permit=self.knowledge.permit,
            stored=self._stored,
            files=self._files(),
            rival=rival,
            rival_name=rival_name,
            opened_because=self._opened_because,
        )

    def _files(self) -> tuple[File, ...]:
        return tuple(one.seen() for one in (self._databases or {}).values())

    def _rival(self) -> tuple[Rival, str]:
        """Two StorageFormats for one path: the older one governs."""
        mine = self._candidate(self.knowledge)
        if mine is None:
            return Rival.NONE, ""
        undecided = False
        for other in self.others:
            if other.argument.path != self.argument.path:
                continue
            theirs = self._candidate(other.knowledge)
            if theirs is not None and theirs.storageformat.age_key() < mine.storageformat.age_key():
                return Rival.OLDER, theirs.name
            undecided = undecided or not other.knowledge.storageformat.is_known
        return (Rival.UNDECIDED, "") if undecided else (Rival.NONE, "")

    def _candidate(self, knowledge: Knowledge) -> Wish | None:
        wish = knowledge.storageformat.value
        if wish is None or wish.storageformat.deleting or wish.path != self.argument.path:
            return None
        return wish

    def _more_exact(self) -> tuple[DatabaseArgument, ...]:
        """The arguments whose files are not ours, though our glob matches them."""
        if not self.argument.is_glob:
            return ()
        result = []
        before = True
        for argument in self._doors.settings.databases:
            if argument == self.argument:
                before = False
            elif argument.path != self.argument.path and (not argument.is_glob or before):
                result.append(argument)
        return tuple(result)

    def _openers_unchecked(self) -> bool:
        wish = self.knowledge.storageformat.value or (self._stored.wish if self._stored else None)
        allowed = wish is not None and wish.storageformat.spec.database.openers_unchecked
        return allowed or self._doors.settings.openers_unchecked

    def _drop_old_failures(self) -> None:
        """What was asked for is another now: what failed before need not fail again."""
        wish = self.knowledge.storageformat.value
        basis = (
            (wish.storageformat.uid, wish.storageformat.generation, wish.raw.get("spec"))
            if wish is not None
            else None
        )
        if basis == self._basis:
            return
        if self._basis is not None:
            self._opened_because = None
        self._basis = basis
        self._refusal = None
        for database in (self._databases or {}).values():
            if database.failure is not None and database.failure.kind is not FailureKind.ATTENTION:
                database.failure = None
                database.retry_at = 0.0

    # --- doing --------------------------------------------------------------------------------------------

    async def _convert(self, action: Action, wish: Wish, session: Session) -> float:
        """Convert what may be converted now, one after the other; then everything is decided anew."""
        gate = self._doors.gate
        version = self.knowledge.version
        for index, path in enumerate(action.convert):
            if gate.session(self.argument.name) is not session or self.knowledge.version != version:
                break
            # No await between the check above and the word: from here on no gate is told "open".
            gate.say(self.argument.name, Word(False, action.reason, action.message))
            if self._databases is not None and path in self._databases:
                await self._convert_one(self._databases[path], wish, (index, len(action.convert)))
                self._report(action)
        return 0.0

    async def _convert_one(self, database: _Database, wish: Wish, share: tuple[int, int]) -> None:
        spec = wish.storageformat.spec
        observer = self._new_observer(share)
        retention = Retention(spec.backup.retain_for, spec.backup.pinned)
        self.series.progress = 0.0
        log = self._log.bind(path=database.path, target=wish.target_name)
        log.info("converting")
        started = time.monotonic()
        unchecked = self._openers_unchecked()
        try:
            result = await self._doors.thread.call(
                lambda abort: self._doors.store.convert(
                    database.path,
                    wish.target,
                    wish.unmarked,
                    retention,
                    observer,
                    abort,
                    openers_unchecked=unchecked,
                )
            )
        except Exception as error:
            database.failed(error)
            failure = database.failure
            if failure is not None and failure.kind is FailureKind.REFUSED:
                self.series.refused += 1
                self._refusal = ConversionStatus(
                    at=timestamp(clock.now()), result="refused", to_format=wish.target_name
                )
            if isinstance(error, StoreError):
                level = log.info if isinstance(error, Aborted) else log.warning
                level("not converted", reason=error.reason, error=error, hint=error.hint)
            else:
                log.failure("not converted", error)
        else:
            database.failure = None
            self._refusal = None
            self.series.progress = 1.0
            if result.outcome is Outcome.CONVERTED:
                self._doors.metrics.durations.labels(*self.series.labels).observe(result.seconds)
            log.info(
                "done",
                outcome=result.outcome,
                rows=result.rows,
                bytes_before=result.bytes_before,
                bytes_after=result.bytes_after,
                seconds=time.monotonic() - started,
            )
        finally:
            self._observer = None
        await self._look(database)
        await self._read_histories((database.path,))
        self._update_series()

    def _tell_gate(self, action: Action, session: Session) -> None:
        gate = self._doors.gate
        if gate.session(self.argument.name) is not session:
            return
        if action.gate_open:
            self._opened_because = (action.reason, action.message)
        gate.say(self.argument.name, Word(action.gate_open, action.reason, action.message))

    async def _prune(self) -> float | None:
        """Delete backups whose time is over; returns in how many seconds the next one's is."""
        if self._prune_at is None:
            return None
        left = self._prune_at - time.monotonic()
        if left > 0:
            return left
        waits: list[float] = []
        for database in (self._databases or {}).values():
            if database.looked is None or not database.looked.backups:
                continue
            observer = self._new_observer()
            try:
                wait = await self._doors.thread.call(
                    partial(self._prune_one, database.path, observer)
                )
            except Exception as error:
                self._log.warning("cannot delete backups", path=database.path, error=error)
                wait = _PRUNE_RETRY_SECONDS
            finally:
                self._observer = None
            kept = [
                one for one in database.looked.backups if one.conversion_id not in observer.deleted
            ]
            database.looked = replace(database.looked, backups=tuple(kept))
            if wait is not None:
                waits.append(wait)
        self._prune_at = time.monotonic() + min(waits) if waits else None
        self._update_series()
        if self.action is not None:
            self._report(self.action)
        return min(waits) if waits else None

    def _prune_one(self, path: str, observer: SidecarObserver, abort: Abort) -> float | None:
        del abort  # short
        return self._doors.store.prune(path, observer)

    def _new_observer(self, share: tuple[int, int] = (0, 1)) -> SidecarObserver:
        self._observer = SidecarObserver(
            self.series, self._log, asyncio.get_running_loop(), self._on_progress, share=share
        )
        return self._observer

    # --- saying -------------------------------------------------------------------------------------------

    def _on_progress(self) -> None:
        if self.action is not None and self._observer is not None:
            self._report(self.action)

    def _report(self, action: Action) -> None:
        self.action = action
        text = f"{action.phase} {action.reason} {action.message}"
        if text != self._said:
            self._said = text
            self._log.info(
                "state", phase=action.phase, reason=action.reason, message=action.message
            )
        gate_open = self._may_run()
        self.series.gate_open = gate_open
        self.series.restart_required = action.restart_required
        body = self.knowledge.storageformat_body or {}
        facts = status.Facts(
            argument=self.argument,
            files=self._files(),
            backups=self._backups(),
            histories=self._histories,
            refusal=self._refusal,
            progress=self._progress(),
            gate_open=gate_open,
            observed_generation=(body.get("metadata") or {}).get("generation"),
        )
        self._reporter.say(status.build(self._doors.settings, action, facts))

    def _may_run(self) -> bool:
        """No session means that no gate holds the app back."""
        return self._doors.gate.session(self.argument.name) is None and (
            not self._had_session or self._doors.gate.is_open(self.argument.name)
        )

    def _progress(self) -> Progress | None:
        observer = self._observer
        if observer is None or not observer.total:
            return None
        percent = min(100, 100 * observer.done // observer.total)
        return Progress(percent, observer.done, observer.total, str(observer.current))

    def _backups(self) -> tuple[Backup, ...]:
        found: list[Backup] = []
        for database in (self._databases or {}).values():
            if database.looked is not None:
                found.extend(database.looked.backups)
        return tuple(found)

    def _update_series(self) -> None:
        series = self.series
        series.backups = {backup.conversion_id: backup for backup in self._backups()}
        series.totals = {path: dict(history.totals) for path, history in self._histories.items()}
        series.last_recovery_at = _latest(one.last_recovery_at for one in self._histories.values())
        series.last_success_at = _latest(one.last_success_at for one in self._histories.values())
        wish = self.knowledge.storageformat.value or (self._stored.wish if self._stored else None)
        series.formats = status.format_infos(wish, self._files())

    def facts(self) -> dict[str, object]:
        """For /healthz."""
        action = self.action
        return {
            "storageformat": self.argument.name,
            "path": self.argument.path,
            "phase": str(action.phase) if action is not None else "Starting",
            "reason": action.reason if action is not None else "Starting",
            "message": action.message if action is not None else "",
            "gate": "open" if self._may_run() else "closed",
            "api": str(self.knowledge.storageformat.asked),
        }


def _latest(times: Iterable[str | None]) -> str | None:
    return max((one for one in times if one is not None), default=None)
