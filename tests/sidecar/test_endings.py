"""A worker, or a controller, that is told to end at the very moment at which something happens ends all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from format_operator.controller.reconciler import Reconciler as Controllers
from format_operator.runtime.log import Log
from format_operator.sidecar.poller import Poller
from format_operator.sidecar.reconciler import Reconciler
from format_operator.sidecar.report import Reporter


class Idle:
    """Answers everything with nothing."""

    def __getattr__(self, name: str) -> Any:
        async def nothing(*_: Any, **__: Any) -> None:
            return None

        return nothing


def reconciler() -> tuple[Any, str]:
    one = Reconciler.__new__(Reconciler)
    one._wake = asyncio.Event()
    one._log = Log()

    async def idle() -> float:
        return 60.0

    one._pass = idle  # type: ignore[method-assign] # it has nothing to do
    return one, "_wake"


def poller() -> tuple[Any, str]:
    class Knows:
        name = formatstate = "orders"

        def saw_storageformat(self, body: Any) -> None: ...

        def saw_formatstate(self, body: Any) -> None: ...

    one = Poller(
        Idle(),  # type: ignore[arg-type] # as much as is needed
        Knows(),  # type: ignore[arg-type] # as above
        resync=300.0,
        in_a_hurry=lambda: False,
        asked=lambda: None,
        log=Log(),
    )
    return one, "_kick"


def reporter() -> tuple[Any, str]:
    return Reporter(Idle(), Idle(), "default", Log()), "_news"  # type: ignore[arg-type] # as above


def controllers() -> tuple[Any, str]:
    one = Controllers.__new__(Controllers)
    one._wake, one._due = asyncio.Event(), {}
    one._may_act = lambda: False
    return one, "_wake"


@pytest.mark.parametrize("made", [reconciler, poller, reporter, controllers])
def test_news_and_the_end_together(made: Callable[[], tuple[Any, str]]) -> None:
    """A loop that took the news for all there is would wait for ever: for a store's thread that has ended, for one."""

    async def story() -> None:
        loop, event = made()
        task = asyncio.create_task(loop.run())
        for _ in range(20):
            await asyncio.sleep(0)
        getattr(loop, event).set()
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert task.cancelled()

    asyncio.run(story())
