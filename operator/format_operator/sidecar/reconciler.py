"""Brings one database argument to where its StorageFormat wants it: looks, asks ``decide``, does it, looks again.

Level-triggered: whatever happens (a gate, an answer, a timer) only wakes it up; each pass starts from what is
there. A pass takes one step; a pass that failed for a reason of its own is repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from format_operator.api.models import Phase
from format_operator.gate_protocol import Word
from format_operator.metrics import SidecarMetrics
from format_operator.runtime.clock import ServerClock
from format_operator.runtime.log import Log
from format_operator.series import DatabaseSeries
from format_operator.settings import DatabaseArgument, SidecarSettings
from format_operator.sidecar.announcer import Announcer
from format_operator.sidecar.databases import Database, Databases
from format_operator.sidecar.decide import Action, decide, remember
from format_operator.sidecar.gate_server import GateServer, Session
from format_operator.sidecar.knowledge import Knowledge, rival_of
from format_operator.sidecar.memory import Memory
from format_operator.sidecar.observed import Asked, Observed
from format_operator.sidecar.poller import Poller
from format_operator.sidecar.report import Reporter
from format_operator.sidecar.store import Store, StoreThread
from format_operator.sidecar.traces import Traces
from format_operator.sidecar.wish import Wish
from format_operator.sidecar.work import Work

_AFTER_A_BUG_SECONDS = 5.0
#: While a running app has made no database yet: what it then makes need not be in the target.
_ABSENT_SECONDS = 5.0


@dataclass(frozen=True)
class Doors:
    """What a reconciler works with."""

    settings: SidecarSettings
    store: Store
    thread: StoreThread
    gate: GateServer
    metrics: SidecarMetrics
    clock: ServerClock
    traces: Traces


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
        self.others: Sequence[Reconciler] = ()
        self._doors = doors
        self._poller = poller
        self._log = log
        self._wake = asyncio.Event()
        self._started = time.monotonic()
        self._session: Session | None = None
        self._had_session = False
        self._opened_because: tuple[str, str] | None = None
        self._basis: object = None
        self._looked_at = self._started
        series = DatabaseSeries(
            argument.name, argument.path, answered=lambda: knowledge.last_answer_at
        )
        self.series = doors.metrics.add(series)
        self._databases = Databases(
            argument, doors.settings.databases, doors.store, doors.thread, log
        )
        self._memory = Memory(argument, doors.store, log)
        self._work = Work(
            doors.store, doors.thread, doors.metrics, series, self._progressed, log, doors.traces
        )
        self._announcer = Announcer(
            argument,
            doors.settings,
            self._databases,
            self._work,
            knowledge,
            reporter,
            series,
            log,
        )

    # --- the loop -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    def wants_answers(self) -> bool:
        """Whether a gate waits, so that the API should be asked more often."""
        if self._doors.gate.session(self.argument.name) is None:
            return False
        action = self._announcer.action
        return action is None or action.phase is Phase.WAITING

    def health(self) -> dict[str, object]:
        """For /healthz."""
        return self._announcer.health(gate_open=self._may_run())

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = await self._pass()
            except Exception as error:
                self._log.failure("internal error, trying again", error)
                delay = _AFTER_A_BUG_SECONDS
            try:
                # Not wait_for: in Python 3.11 it takes an event that comes together with the end for the event alone.
                async with asyncio.timeout(delay):
                    await self._wake.wait()
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
        await self._memory.load()
        self._drop_old_failures()
        await self._look_around(session)
        # On the volume before anything follows from it.
        await self._memory.keep(remember(self._observe()))
        observed = self._observe()
        action = decide(observed)
        if action.convert and action.wish is not None and session is not None:
            self._tell(action)
            return await self._convert(action, action.wish, session)
        if session is not None:
            self._tell_gate(action, session)
        self._tell(action)
        delays = [action.wake_in, await self._prune()]
        if session is None:
            delays.append(self._look_at() - time.monotonic())
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
        self._databases.forget()
        self._opened_because = None
        self._work.refusal = None

    # --- looking ------------------------------------------------------------------------------------------

    async def _look_around(self, session: Session | None) -> None:
        if self._databases.is_forgotten:
            await self._databases.find()
        elif session is None and time.monotonic() >= self._look_at():
            self._looked_at = time.monotonic()
            await self._databases.find_new()
        for database in self._databases:
            if session is not None and database.wants_recovery:
                # Only ever begun while a gate of this session is connected.
                if self._doors.gate.session(self.argument.name) is not session:
                    return
                await self._recover(database)
            if database.looked is None:
                await self._databases.look(database)
        self._measure()

    def _look_at(self) -> float:
        """When the volume is to be looked at again while the app runs."""
        lacks = self._databases.lacks_one
        return self._looked_at + (_ABSENT_SECONDS if lacks else self._doors.settings.resync)

    def _drop_old_failures(self) -> None:
        """What was asked for is another now: what failed before need not fail again, what was not there may be."""
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
        self._looked_at = -self._doors.settings.resync
        self._work.refusal = None
        for database in self._databases:
            database.forgive()

    def _observe(self) -> Observed:
        settings = self._doors.settings
        session = self._session
        path = self.argument.path
        others = [one.knowledge for one in self.others if one.argument.path == path]
        rival, rival_name = rival_of(self.knowledge, others, path)
        return Observed(
            now=self._doors.clock.now(),
            argument=path,
            at_gate=session is not None,
            gate_seconds=time.monotonic() - session.since if session is not None else 0.0,
            permit_wait=settings.permit_wait,
            api_wait=settings.api_wait,
            reads=settings.current_reads(),
            storageformat=self.knowledge.storageformat,
            permit=self.knowledge.permit,
            stored=self._memory.stored,
            files=self._databases.files(),
            rival=rival,
            rival_name=rival_name,
            opened_because=self._opened_because,
            unstored=self._memory.problem,
        )

    def _wish(self) -> Wish | None:
        """The API's, or the one on the volume while it says nothing."""
        stored = self._memory.stored
        return self.knowledge.storageformat.value or (stored.wish if stored is not None else None)

    def _openers_unchecked(self) -> bool:
        wish = self._wish()
        allowed = wish is not None and wish.storageformat.spec.database.openers_unchecked
        return allowed or self._doors.settings.openers_unchecked

    # --- doing --------------------------------------------------------------------------------------------

    async def _recover(self, database: Database) -> None:
        action = self._announcer.action
        if action is not None and database.is_pending:
            self._tell(replace(action, phase=Phase.RECOVERING))
        await self._work.recover(database, openers_unchecked=self._openers_unchecked())
        await self._databases.look_again(database)
        if database.failure is None and database.is_pending:
            # A recovery that says "done" and leaves work behind must not spin.
            database.failed(RuntimeError("work is still pending after the recovery"))

    async def _convert(self, action: Action, wish: Wish, session: Session) -> float:
        """Convert what may be converted now, one after the other; then everything is decided anew."""
        gate = self._doors.gate
        version = self.knowledge.version
        for index, planned in enumerate(action.convert):
            if gate.session(self.argument.name) is not session or self.knowledge.version != version:
                break
            # No await between the check above and the word: from here on no gate is told "open".
            gate.say(self.argument.name, Word(False, action.reason, action.message))
            database = self._databases.get(planned.path)
            if database is None:
                continue
            await self._work.convert(
                database,
                wish,
                planned.to,
                openers_unchecked=self._openers_unchecked(),
                share=(index, len(action.convert)),
            )
            await self._databases.look_again(database)
            self._measure()
            self._tell(action)
        return 0.0

    async def _prune(self) -> float | None:
        """Delete backups whose time is over; returns in how many seconds the next one's is."""
        now = time.monotonic()
        due = [one for one in self._databases if one.prune_at is not None and one.prune_at <= now]
        for database in due:
            await self._work.prune(database, openers_unchecked=self._openers_unchecked())
        if due:
            self._measure()
            if self._announcer.action is not None:
                self._tell(self._announcer.action)
        waits = [one.prune_at for one in self._databases if one.prune_at is not None]
        return min(waits) - time.monotonic() if waits else None

    def _tell_gate(self, action: Action, session: Session) -> None:
        gate = self._doors.gate
        if gate.session(self.argument.name) is not session:
            return
        if action.gate_open:
            self._opened_because = (action.reason, action.message)
        gate.say(self.argument.name, Word(action.gate_open, action.reason, action.message))

    # --- saying -------------------------------------------------------------------------------------------

    def _progressed(self) -> None:
        if self._announcer.action is not None and self._work.is_under_way:
            self._tell(self._announcer.action)

    def _tell(self, action: Action) -> None:
        self._announcer.tell(action, gate_open=self._may_run())

    def _measure(self) -> None:
        self._announcer.measure(self._wish())

    def _may_run(self) -> bool:
        """No session means that no gate holds the app back."""
        return self._doors.gate.session(self.argument.name) is None and (
            not self._had_session or self._doors.gate.is_open(self.argument.name)
        )
