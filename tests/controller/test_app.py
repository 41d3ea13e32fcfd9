"""The controller process as a whole: when it may act."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from format_operator.controller.app import Controller
from format_operator.controller.cache import KINDS
from format_operator.controller.cluster import Unavailable
from format_operator.controller.settings import ControllerSettings
from format_operator.runtime.credentials import Access
from format_operator.runtime.log import Log


class Lists:
    """An API server of empty lists; ``away``: one that does not answer."""

    def __init__(self) -> None:
        self.away = False

    async def pages(self, plural: str, namespace: str | None) -> AsyncIterator[tuple[Any, str]]:
        if self.away:
            raise Unavailable(f"list {plural} {namespace}", "no answer")
        yield [], "1"


def test_whoever_begins_to_lead_looks_first() -> None:
    """Also the one that led before an outage: what it knew then may be long past, so everything is listed anew."""

    async def story() -> None:
        controller = Controller(ControllerSettings(), Access("http://api"), Log())
        lists = Lists()
        controller.api = lists  # type: ignore[assignment] # as much of one as lists need
        controller._leading(held=True)
        for kind in KINDS:
            assert not controller._may_act()
            await controller._sweep(kind)
        assert controller._may_act()

        controller._leading(held=False)
        controller._leading(held=True)
        assert set(controller._sweeps) == set(KINDS)
        lists.away = True
        for kind in KINDS:
            await controller._sweep(kind)
            assert not controller._may_act()
        lists.away = False
        for kind in KINDS:
            assert not controller._may_act()
            await controller._sweep(kind)
        assert controller._may_act()
        # Ready to take over it was all the time.
        assert controller._ready()

    asyncio.run(story())
