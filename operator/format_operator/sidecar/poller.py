"""Asks the API for one StorageFormat and our FormatState: at once, after failures, and now and then.

The watch tells changes sooner; asking is what a decision at the gate waits for, and what heals a watch that fell
silent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from format_operator.runtime.log import Log
from format_operator.sidecar import kube
from format_operator.sidecar.knowledge import Knowledge

_FIRST_RETRY_SECONDS = 0.25
_RETRY_AT_GATE_SECONDS = 2.0
_RETRY_SECONDS = 15.0
_WAITING_SECONDS = 10.0


class Poller:
    """``in_a_hurry`` says whether a gate waits for an answer."""

    def __init__(
        self,
        client: kube.Kube,
        knowledge: Knowledge,
        *,
        resync: float,
        in_a_hurry: Callable[[], bool],
        asked: Callable[[], None],
        log: Log,
    ) -> None:
        self._client = client
        self._knowledge = knowledge
        self._resync = resync
        self._in_a_hurry = in_a_hurry
        self._asked = asked
        self._log = log
        self._kick = asyncio.Event()
        self._said = ""

    def ask_now(self) -> None:
        """Do not wait for the next turn."""
        self._kick.set()

    async def run(self) -> None:
        retry = _FIRST_RETRY_SECONDS
        while True:
            self._kick.clear()
            error = await self._ask()
            self._asked()
            self._say(error)
            if error is None:
                retry = _FIRST_RETRY_SECONDS
                # A tenth of jitter: the sidecars of a node that came back should not ask in step.
                delay = self._resync * random.uniform(0.9, 1.1)  # noqa: S311 # no secret
            else:
                limit = _RETRY_AT_GATE_SECONDS if self._in_a_hurry() else _RETRY_SECONDS
                delay = max(min(retry, limit), error.retry_after or 0.0)
                retry = min(retry * 2, _RETRY_SECONDS)
            if await self._kicked_within(delay):
                retry = _FIRST_RETRY_SECONDS

    async def _kicked_within(self, delay: float) -> bool:
        """Wait for the next turn, which comes sooner when a gate has begun to wait for an answer."""
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, _WAITING_SECONDS)):
                    await self._kick.wait()
            except TimeoutError:
                if self._in_a_hurry():
                    return False
            else:
                return True
        return False

    async def _ask(self) -> kube.ApiError | None:
        errors = await asyncio.gather(self._ask_storageformat(), self._ask_formatstate())
        return next((error for error in errors if error is not None), None)

    async def _ask_storageformat(self) -> kube.ApiError | None:
        try:
            self._knowledge.saw_storageformat(
                await self._client.get_storageformat(self._knowledge.name)
            )
        except kube.NotFound:
            self._knowledge.saw_storageformat(None)
        except kube.ApiError as error:
            self._knowledge.failed_storageformat(error)
            return error
        return None

    async def _ask_formatstate(self) -> kube.ApiError | None:
        try:
            self._knowledge.saw_formatstate(
                await self._client.get_formatstate(self._knowledge.formatstate)
            )
        except kube.NotFound:
            self._knowledge.saw_formatstate(None)
        except kube.ApiError as error:
            self._knowledge.failed_formatstate(error)
            return error
        return None

    def _say(self, error: kube.ApiError | None) -> None:
        """Once per change: an API server that is away for hours is one line."""
        text = str(error) if error is not None else ""
        if text == self._said:
            return
        self._said = text
        if error is not None:
            self._log.warning("API server gives no answer", error=error)
        else:
            self._log.info("API server answers")
