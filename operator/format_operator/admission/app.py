"""The webhook, put together: settings → /metrics, /healthz, /readyz → certificate → /mutate over TLS."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from format_operator import __version__
from format_operator.admission.formats import Formats
from format_operator.admission.keeper import Generated, Given, Keeper, keep
from format_operator.admission.kube import Api
from format_operator.admission.metrics import WebhookMetrics
from format_operator.admission.review import NoReview, Result, answer
from format_operator.admission.settings import WebhookSettings, webhook_settings
from format_operator.admission.tls import ServerTls
from format_operator.runtime import log as logs
from format_operator.runtime.credentials import Access, NoApiServer, access
from format_operator.runtime.http import HttpServer
from format_operator.runtime.log import Log

#: A pod may have a megabyte and a half, and a review holds the user's groups besides.
_LARGEST_BODY: Final = 8 * 1024 * 1024


class Webhook:
    """One webhook process. ``run`` returns the exit code when ``stop`` was called or a part of it died."""

    def __init__(self, settings: WebhookSettings, reach: Access, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._metrics = WebhookMetrics(version=__version__)
        self._api = Api(reach, lambda *labels: self._metrics.api_requests.labels(*labels).inc())
        self._formats = Formats(self._api, log)
        self._tls = ServerTls()
        self._keeper = self._kept_by()
        self._stop = asyncio.Event()
        self._serving = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._metrics.expiry.set_function(self._expiry)

    def stop(self) -> None:
        """End, after a while in which the last requests are answered that are under way to us."""
        self._stop.set()

    async def run(self) -> int:
        """Until stopped. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        settings = self._settings
        http = HttpServer(self._metrics.registry, self._health, self._log, ready=self._ready)
        listening = await http.start(settings.metrics_address, settings.metrics_port)
        if listening is not None:
            self._tasks.append(listening)
        async with self._api:
            looked = asyncio.Event()
            failed = self._metrics.certificate_errors.inc
            look = keep(
                self._keeper, self._log, every=settings.look_every, looked=looked, failed=failed
            )
            self._tasks += [
                asyncio.create_task(look, name="certificate"),
                asyncio.create_task(self._serve(looked), name="serve"),
            ]
            code = await self._until_stopped()
        await http.stop()
        return code

    # --- serving --------------------------------------------------------------------------------------------

    async def _serve(self, looked: asyncio.Event) -> None:
        """Listen as soon as there is a certificate to show."""
        while self._tls.context is None:
            looked.clear()
            await looked.wait()
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_post("/mutate", self._mutate)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        site = web.TCPSite(
            runner, self._settings.address, self._settings.port, ssl_context=self._tls.context
        )
        try:
            await site.start()
            port = runner.addresses[0][1]
            self._log.info("serving the webhook", address=self._settings.address, port=port)
            self._serving = True
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _mutate(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        try:
            content = await request.read()
            found = await answer(content, self._formats.path, self._settings.defaults)
        except NoReview as error:
            self._metrics.requests.labels(str(Result.INVALID)).inc()
            self._log.warning("no review", problem=error, peer=request.remote)
            return web.json_response({"error": str(error)}, status=400)
        except Exception as error:
            # The API server takes it for a refusal, which is right: what we could not judge is not let in.
            self._log.failure("cannot answer", error)
            return web.json_response(
                {"error": "an error of the webhook's; see its log"}, status=500
            )
        self._metrics.requests.labels(str(found.result)).inc()
        self._metrics.seconds.observe(time.monotonic() - began)
        said = self._log.warning if found.message else self._log.info
        said("answered", pod=found.pod, result=found.result, message=found.message)
        return web.json_response(found.body)

    # --- its parts ------------------------------------------------------------------------------------------

    def _kept_by(self) -> Keeper:
        how = self._settings.certificates
        if isinstance(how, Path):
            return Given(how, self._tls, self._log)
        return Generated(
            self._api,
            self._tls,
            self._log,
            namespace=how.namespace,
            secret=how.secret,
            configuration=how.configuration,
            hosts=how.hosts,
            lifetime=timedelta(seconds=how.lifetime),
            settle_seconds=how.settle,
        )

    async def _until_stopped(self) -> int:
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait({stopped, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        code = 0
        for task in done - {stopped}:
            if (problem := task.exception()) is not None:
                self._log.failure("a part of the webhook died", problem, part=task.get_name())
                code = 1
        if code == 0:
            # No longer ready; whoever does not know that yet is still answered.
            self._log.info("stopping", drain=self._settings.drain)
            await asyncio.sleep(self._settings.drain)
        for task in (stopped, *self._tasks):
            task.cancel()
        await asyncio.gather(stopped, *self._tasks, return_exceptions=True)
        return code

    # --- health ---------------------------------------------------------------------------------------------

    def _expiry(self) -> float:
        pair = self._tls.pair
        return pair.not_after.timestamp() if pair is not None else 0.0

    def _health(self) -> tuple[bool, dict[str, Any]]:
        works = all(not task.done() for task in self._tasks)
        pair = self._tls.pair
        return works, {
            "works": works,
            "version": __version__,
            "serving": self._serving,
            "trusted": self._keeper.is_trusted,
            "certificateUntil": pair.not_after.isoformat() if pair is not None else None,
        }

    def _ready(self) -> bool:
        """Whether the API server can come: it serves, and its certificate is trusted."""
        return self._serving and self._keeper.is_trusted and not self._stop.is_set()


def main(argv: Sequence[str] | None = None) -> int:
    """``storageformat webhook``."""
    settings = webhook_settings(sys.argv[1:] if argv is None else argv)
    logs.configure(settings.log_level, settings.log_format, role="webhook")
    log = Log()
    try:
        code = asyncio.run(_run(settings, log))
    except NoApiServer as error:
        log.error("cannot start", error=error)  # noqa: TRY400 # said in one line
        code = 2
    logging.shutdown()
    return code


async def _run(settings: WebhookSettings, log: Log) -> int:
    return await Webhook(settings, access(settings.api), log).run()
