"""``/metrics``, ``/healthz`` and, where a role has a word on that, ``/readyz``. A port that is taken never keeps the app from starting: it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from format_operator.runtime.log import Log

_RETRY_SECONDS = 5.0

Health = Callable[[], tuple[bool, dict[str, Any]]]


class HttpServer:
    """``health`` gives (is this process working, facts about it), ``ready`` whether it does its job."""

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        log: Log,
        *,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self._health = health
        self._ready = ready
        self._log = log
        application = web.Application()
        application.router.add_get("/metrics", make_aiohttp_handler(registry))
        application.router.add_get("/healthz", self._healthz)
        if ready is not None:
            application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        self.port: int | None = None

    async def start(self, address: str, port: int) -> asyncio.Task[None] | None:
        """Listen; when the port is taken, returns the task that goes on trying."""
        await self._runner.setup()
        if await self._listen(address, port):
            return None
        return asyncio.create_task(self._keep_trying(address, port), name="listen")

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _keep_trying(self, address: str, port: int) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            if await self._listen(address, port):
                return

    async def _listen(self, address: str, port: int) -> bool:
        site = web.TCPSite(self._runner, address, port)
        try:
            await site.start()
        except OSError as error:
            self._log.error("cannot serve metrics", address=address, port=port, error=error)
            return False
        self.port = self._runner.addresses[0][1]
        self._log.info("serving metrics", address=address, port=self.port)
        return True

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        works, facts = self._health()
        return web.json_response(facts, status=200 if works else 503)

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        ready = self._ready is not None and self._ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)
