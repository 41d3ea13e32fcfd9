"""Brings each StorageFormat's rollout one step on, whenever something changed that concerns it.

Level-triggered: a change only marks the StorageFormat; each pass decides from the newest facts. One pass runs at a
time, so that no two decide on the same pods.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from format_operator.api.conditions import ConditionType, timestamp
from format_operator.api.models import StorageFormat, StorageFormatStatus
from format_operator.api.schema import InvalidObject
from format_operator.controller import events, report
from format_operator.controller.cache import Cache, Key, Watched
from format_operator.controller.cluster import RequestFailed
from format_operator.controller.decide import decide
from format_operator.controller.effects import Effects
from format_operator.controller.events import Seen
from format_operator.controller.facts import State
from format_operator.controller.metrics import ControllerMetrics
from format_operator.controller.plan import RolloutPhase
from format_operator.runtime.log import Log

#: Changes come in crowds: a pod that starts changes ten times within a second.
_TOGETHER_SECONDS = 0.2
_STATUS_SECONDS = 10.0
_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0


class Reconciler:
    """``may_act``: whether this process is the active one, and knows all there is to know."""

    def __init__(
        self,
        cache: Cache,
        effects: Effects,
        metrics: ControllerMetrics,
        log: Log,
        *,
        now: Callable[[], datetime],
        may_act: Callable[[], bool],
        permit_seconds: float,
        resync: float,
    ) -> None:
        self._cache = cache
        self._effects = effects
        self._metrics = metrics
        self._log = log
        self._now = now
        self._may_act = may_act
        self._permit_seconds = permit_seconds
        self._resync = resync
        self._due: dict[Key, float] = {}
        #: How long the present wait is, and until when.
        self._retries: dict[Key, tuple[float, float]] = {}
        self._written_at: dict[Key, float] = {}
        self._seen: dict[Key, dict[str, Seen]] = {}
        self._since = timestamp(now())
        self._wake = asyncio.Event()

    def lead(self) -> None:
        """What happened so far was another instance's to tell."""
        self._seen.clear()
        self._since = timestamp(self._now())

    def mark(self, keys: Iterable[Key]) -> None:
        """Something changed that concerns these StorageFormats."""
        soon = time.monotonic() + _TOGETHER_SECONDS
        for key in keys:
            self._due[key] = min(soon, self._due.get(key, soon))
        self._wake.set()

    def mark_all(self) -> None:
        """Whatever was known may have changed, or this process has become the active one."""
        self.mark(list(self._cache.storageformats()))

    async def run(self) -> None:
        while True:
            self._wake.clear()
            now = time.monotonic()
            ready = [key for key, due in self._due.items() if due <= now] if self._may_act() else []
            for key in ready:
                del self._due[key]
                await self._one(key)
            wait = min(self._due.values(), default=now + 60.0) - time.monotonic()
            try:
                async with asyncio.timeout(max(0.05, min(wait, 60.0))):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _one(self, key: Key) -> None:
        began = time.monotonic()
        try:
            again = await self._pass(key)
        except RequestFailed as error:
            self._metrics.reconcile_errors.inc()
            again = self._back_off(key)
            self._log.warning(
                "cannot go on, trying again",
                namespace=key[0],
                storageformat=key[1],
                error=error,
                again_in=again,
            )
        except Exception as error:
            self._metrics.reconcile_errors.inc()
            again = _LAST_RETRY_SECONDS
            self._log.failure(
                "internal error, trying again", error, namespace=key[0], storageformat=key[1]
            )
        else:
            self._retries.pop(key, None)
        finally:
            self._metrics.reconcile_seconds.observe(time.monotonic() - began)
        if again is not None:
            due = time.monotonic() + again
            self._due[key] = min(due, self._due.get(key, due))

    def _back_off(self, key: Key) -> float:
        """In how many seconds to try again. What happens meanwhile is tried at once, and makes the wait no longer."""
        now = time.monotonic()
        wait, until = self._retries.get(key, (0.0, now))
        if now >= until:
            wait = min(max(2 * wait, _FIRST_RETRY_SECONDS), _LAST_RETRY_SECONDS)
            until = now + wait
            self._retries[key] = wait, until
        return until - now

    async def _pass(self, key: Key) -> float | None:
        """One step; returns in how many seconds the next is due without anything happening."""
        watched = self._cache.storageformat(key)
        if watched is None:
            self._metrics.forget(key)
            self._seen.pop(key, None)
            self._written_at.pop(key, None)
            return None
        storageformat = watched.parsed
        if storageformat is None:
            return await self._report_invalid(key, watched)
        if storageformat.deleting:
            return None
        while True:
            snapshot = self._cache.snapshot(storageformat, self._now())
            decision = decide(snapshot, permit_seconds=self._permit_seconds)
            if await self._effects.apply(storageformat, decision):
                break
            # A budget has refused, and nothing else will happen: what waits, and until when, is decided anew.
        counts = Counter(one.standing for one in decision.placed)
        before = _status(watched.body)
        status = report.status(snapshot, decision, before.conditions)
        # The Lease may have been lost meanwhile: who stands by shows nothing.
        if self._may_act():
            self._metrics.show(key, counts, decision.phase)
            self._metrics.show_conditions(key, status.conditions)
            await self._tell_of_pods(key, storageformat, snapshot.states)
        held_back = await self._report(key, watched, storageformat, before, status)
        delays = (decision.wake_in, held_back, self._resync)
        return min(one for one in delays if one is not None)

    async def _tell_of_pods(
        self, key: Key, storageformat: StorageFormat, states: Mapping[str, State]
    ) -> None:
        """What their reports have that was not told yet; a lost event is not told again."""
        seen = self._seen.get(key, {})
        now = self._seen[key] = {}
        for pod, state in states.items():
            now[pod], news = events.of_state(seen.get(pod), state, self._since)
            for event in news:
                await self._effects.tell_of_pod(storageformat, state, event)

    async def _report(
        self,
        key: Key,
        watched: Watched,
        storageformat: StorageFormat,
        before: StorageFormatStatus,
        status: StorageFormatStatus,
    ) -> float | None:
        """Write the status if it says something new; returns for how long that was held back."""
        raw: Mapping[str, Any] = watched.body.get("status") or {}
        if status.to_dict() == raw:
            return None
        # A condition that turns is what people and pipelines wait for. Numbers can wait: every sidecar of this
        # StorageFormat gets each version of it.
        turned = _turns(before) != _turns(status)
        since = time.monotonic() - self._written_at.get(key, -_STATUS_SECONDS)
        if not turned and since < _STATUS_SECONDS:
            return _STATUS_SECONDS - since
        if not self._may_act():
            return None
        self._written_at[key] = time.monotonic()
        await self._effects.report(storageformat, status, raw)
        for event in events.of_change(before, status):
            await self._effects.tell(storageformat, event)
        return None

    async def _report_invalid(self, key: Key, watched: Watched) -> float | None:
        metadata = watched.body["metadata"]
        generation = int(metadata.get("generation") or 0)
        before = _status(watched.body)
        status = report.invalid(watched.problem, generation, before.conditions, self._now())
        self._metrics.show(key, {}, RolloutPhase.BLOCKED)
        self._metrics.show_conditions(key, status.conditions)
        if status.to_dict() != (watched.body.get("status") or {}) and self._may_act():
            await self._effects.report_on(
                metadata["namespace"],
                metadata["name"],
                metadata["uid"],
                status,
                watched.body.get("status") or {},
            )
        return self._resync


def _status(body: Mapping[str, Any]) -> StorageFormatStatus:
    try:
        return StorageFormatStatus.from_dict(body.get("status") or {})
    except InvalidObject:
        return StorageFormatStatus()  # of another release, or by another hand: written anew


def _turns(status: StorageFormatStatus) -> set[tuple[str, str, str, int | None]]:
    """What is waited for. The reason of Progressing is the rollout's phase, which changes all the time."""
    return {
        (
            one.type,
            one.status,
            "" if one.type == ConditionType.PROGRESSING else one.reason,
            one.observed_generation,
        )
        for one in status.conditions
    }
