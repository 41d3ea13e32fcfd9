"""The controller, put together: settings → /metrics, /healthz, /readyz → lists and watches → Lease → rollouts.

Everything but kopf runs on one loop. The process can be killed at any moment: what it knew it asks for again, what it
decided is in the objects, and each of its effects has a precondition.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

from format_operator import __version__
from format_operator.controller.cache import KINDS, Cache, Key, as_version
from format_operator.controller.cluster import ClusterApi, Gone, RequestFailed
from format_operator.controller.effects import Effects
from format_operator.controller.lease import Lease, Timing
from format_operator.controller.metrics import ControllerMetrics
from format_operator.controller.reconciler import Reconciler
from format_operator.controller.settings import ControllerSettings, controller_settings
from format_operator.controller.watch import Watcher
from format_operator.runtime import log as logs
from format_operator.runtime.credentials import Access, NoApiServer, access
from format_operator.runtime.http import HttpServer
from format_operator.runtime.log import Log
from format_operator.runtime.mailbox import Body, Mailbox

_AFTER_LISTING_SECONDS = 2.0
_SWEEP_RETRY_SECONDS = 3.0


class Controller:
    """One controller process. ``run`` returns the exit code when ``stop`` was called or a part of it died."""

    def __init__(self, settings: ControllerSettings, reach: Access, log: Log) -> None:
        self.settings = settings
        self.metrics = ControllerMetrics(version=__version__)
        self.http: HttpServer | None = None
        self._access = reach
        self._log = log
        self._stop = asyncio.Event()
        self._sweeps: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._sweep_wanted = asyncio.Event()
        self._synced: set[str] = set()
        # Kinds to be listed again before anything is done: what was known of them may be long past.
        self._afresh: set[str] = set()
        self._tasks: list[asyncio.Task[Any]] = []
        self._problems: dict[str, str] = {}
        self.cache = Cache(self._changed)
        self.api = ClusterApi(
            reach, lambda *labels: self.metrics.api_requests.labels(*labels).inc()
        )
        now = self.api.clock.now
        self.reconciler = Reconciler(
            self.cache,
            Effects(self.api, self.cache, self.metrics, log, now, self._may_act),
            self.metrics,
            log,
            now=now,
            may_act=self._may_act,
            permit_seconds=settings.permit_seconds,
            resync=settings.resync,
        )
        self._lease: Lease | None = None
        if settings.lease_namespace is not None:
            self._lease = Lease(
                self.api,
                settings.lease_namespace,
                settings.lease,
                f"{settings.identity}_{uuid.uuid4()}",
                log,
                changed=self._leading,
                timing=Timing.of(settings.lease_seconds),
            )

    def stop(self) -> None:
        """End; what is under way is finished by whoever leads next."""
        if not self._stop.is_set():
            self._log.info("stopping")
        self._stop.set()

    async def run(self) -> int:
        """Until stopped. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self.http = HttpServer(self.metrics.registry, self._health, self._log, ready=self._ready)
        listening = await self.http.start(self.settings.metrics_address, self.settings.metrics_port)
        if listening is not None:
            self._tasks.append(listening)
        mailbox = Mailbox(loop, self._deliver)
        watcher = Watcher(
            namespaces=self.settings.namespaces,
            access=self._access,
            mailbox=mailbox,
            listed=lambda plural: _from_thread(loop, self._want_sweep, plural),
            ended=lambda: _from_thread(loop, self._watch_ended),
            log=self._log,
        )
        self._watcher = watcher
        async with self.api:
            watcher.start()
            parts = [self._sweep_for_ever(), self.reconciler.run()]
            if self._lease is not None:
                parts.append(self._lease.run())
            else:
                self._leading(held=True)
            self._tasks += [asyncio.create_task(part) for part in parts]
            code = await self._until_stopped()
            watcher.stop()
            if self._lease is not None:
                await self._lease.release()
        await self.http.stop()
        return code

    # --- knowing ------------------------------------------------------------------------------------------

    def _changed(self, keys: Any) -> None:
        self.reconciler.mark(keys)

    def _deliver(self, plural: str, name: str, body: Body | None) -> None:
        namespace, _, bare = name.partition("/")
        if body is None:
            self.cache.remove(plural, namespace, bare)
        else:
            self.cache.put(plural, body)

    def _want_sweep(self, plural: str) -> None:
        """Kopf lists this kind anew: what was deleted meanwhile, only a whole list of ours tells."""
        due = time.monotonic() + _AFTER_LISTING_SECONDS
        self._sweeps.setdefault(plural, due)
        self._sweep_wanted.set()

    def _watch_ended(self) -> None:
        self.metrics.watch_restarts.inc()
        for kind in KINDS:
            self._want_sweep(kind)
        self._watcher.allow(allowed=True)

    async def _sweep_for_ever(self) -> None:
        """List what has to be listed; every kind once at the start and at each resync."""
        resync_at = time.monotonic() + self.settings.resync
        while True:
            self._sweep_wanted.clear()
            now = time.monotonic()
            if now >= resync_at:
                resync_at = now + self.settings.resync
                for kind in KINDS:
                    self._sweeps.setdefault(kind, now)
            for kind in [kind for kind, due in self._sweeps.items() if due <= now]:
                del self._sweeps[kind]
                await self._sweep(kind)
            if len(self._synced) == len(KINDS):
                self._watcher.allow(allowed=True)
            due = min([resync_at, *self._sweeps.values()])
            try:
                async with asyncio.timeout(max(0.05, due - time.monotonic())):
                    await self._sweep_wanted.wait()
            except TimeoutError:
                continue

    async def _sweep(self, kind: str) -> None:
        try:
            for namespace in self.settings.namespaces or (None,):
                seen: set[Key] = set()
                version = ""
                async for items, version in self.api.pages(kind, namespace):  # noqa: B007 # the last one counts
                    for item in items:
                        seen.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                        self.cache.put(kind, item)
                self.cache.keep_only(kind, seen, as_version(version), namespace)
        except RequestFailed as error:
            missing = isinstance(error, Gone)
            self._tell(kind, "the kind is not installed" if missing else error.message)
            self._sweeps[kind] = time.monotonic() + _SWEEP_RETRY_SECONDS
            return
        self._tell(kind, "")
        self.metrics.listed_at.labels(kind).set_to_current_time()
        if kind not in self._synced or kind in self._afresh:
            self._synced.add(kind)
            self._afresh.discard(kind)
            if self._knows_all():
                self._log.info("synced", **self.cache.sizes())
                self.reconciler.mark_all()
        for name, size in self.cache.sizes().items():
            self.metrics.watched.labels(name).set(size)

    def _tell(self, kind: str, problem: str) -> None:
        if problem and problem != self._problems.get(kind):
            self._log.warning("cannot list", kind=kind, error=problem)
        self._problems[kind] = problem

    # --- acting -------------------------------------------------------------------------------------------

    def _may_act(self) -> bool:
        if not self._knows_all() or self._stop.is_set():
            return False
        return self._lease is None or self._lease.is_held

    def _leading(self, held: bool) -> None:  # a callback's only argument
        self.metrics.leading.set(held)
        if held:
            # Whatever another did, or happened in an outage: not a step before everything was looked at afresh.
            self._afresh = set(KINDS)
            self._sweeps = dict.fromkeys(KINDS, time.monotonic())
            self._sweep_wanted.set()
            self.reconciler.lead()
        else:
            self.metrics.stand_by()

    def _knows_all(self) -> bool:
        return len(self._synced) == len(KINDS) and not self._afresh

    async def _until_stopped(self) -> int:
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait({stopped, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        code = 0
        for task in done - {stopped}:
            problem = task.exception()
            if problem is not None:
                self._log.failure("a part of the controller died", problem)
                code = 1
        for task in (stopped, *self._tasks):
            task.cancel()
        await asyncio.gather(stopped, *self._tasks, return_exceptions=True)
        return code

    # --- health -------------------------------------------------------------------------------------------

    def _health(self) -> tuple[bool, dict[str, Any]]:
        """Our own facts. The API server being away is no illness of this process."""
        works = all(not task.done() for task in self._tasks)
        return works, {
            "works": works,
            "version": __version__,
            "synced": len(self._synced) == len(KINDS),
            "leading": self._may_act(),
            "problems": {kind: problem for kind, problem in self._problems.items() if problem},
            "watchAttempts": self._watcher.attempts,
            "objects": self.cache.sizes(),
            "unreadable": ["/".join(key) for key in self.cache.unreadable],
        }

    def _ready(self) -> bool:
        """Whether it would act if it led: an instance that stands by is ready, too."""
        return len(self._synced) == len(KINDS)


def _from_thread(loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return  # the loop is closed: the process is about to end


def main(argv: Sequence[str] | None = None) -> int:
    """``storageformat controller``. Does not return: kopf's thread must not hold the process."""
    settings = controller_settings(sys.argv[1:] if argv is None else argv)
    logs.configure(
        settings.log_level, settings.log_format, role="controller", instance=settings.identity
    )
    log = Log()
    try:
        code = asyncio.run(_run(settings, log))
    except NoApiServer as error:
        log.error("cannot start", error=error)  # noqa: TRY400 # said in one line
        code = 2
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


async def _run(settings: ControllerSettings, log: Log) -> int:
    return await Controller(settings, access(settings.api), log).run()
