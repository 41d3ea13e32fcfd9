"""The worker, put together: settings → /metrics and /healthz → gate → local recovery → API → convert → report.

Everything but the store's thread and the watchers runs on one loop. A worker can be killed at any moment: what it
did is on the volume, what it knew it asks for again. Tests build one with ``build_worker`` and hand in failpoints
or another store; there is no other way to reach either.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from format_operator import __version__
from format_operator.api.names import PLURAL_STORAGEFORMATS, formatstate_name
from format_operator.metrics import SidecarMetrics
from format_operator.runtime import log as logs
from format_operator.runtime.credentials import Access, NoApiServer, access
from format_operator.runtime.http import HttpServer
from format_operator.runtime.log import Log
from format_operator.runtime.mailbox import Body, Mailbox
from format_operator.settings import DatabaseArgument, SidecarSettings, sidecar_settings
from format_operator.sidecar.gate_server import GateServer
from format_operator.sidecar.heartbeat import BEAT_SECONDS, Heart
from format_operator.sidecar.knowledge import Knowledge
from format_operator.sidecar.kube import Kube
from format_operator.sidecar.poller import Poller
from format_operator.sidecar.reconciler import Doors, Reconciler
from format_operator.sidecar.report import Reporter
from format_operator.sidecar.store import FormatStore, Store, StoreThread
from format_operator.sidecar.traces import Traces
from format_operator.sidecar.watch import Watcher
from format_store import Failpoints
from format_store import Phase as StorePhase

#: kopf takes most of a second to import, on a thread that shares our one core: after the first answer.
_WATCH_AFTER_SECONDS = 1.0
_EXIT_SECONDS = 0.9
#: For traces that were not sent yet; more than that is not worth a pod's time to end.
_FLUSH_SECONDS = 0.5


class Worker:
    """One sidecar worker. ``run`` returns the exit code when ``stop`` was called or a part of it died."""

    beat_seconds = BEAT_SECONDS  # a test's are shorter

    def __init__(self, settings: SidecarSettings, store: Store, reach: Access, log: Log) -> None:
        self.settings = settings
        self.metrics = SidecarMetrics(
            version=__version__, phases=tuple(str(phase) for phase in StorePhase)
        )
        self.http: HttpServer | None = None
        self.reconcilers: tuple[Reconciler, ...] = ()
        self._store = store
        self._access = reach
        self._log = log
        self._heart = Heart(settings.supervisor_fd)
        self._thread = StoreThread(self._heart.works)
        self._traces = Traces(
            {
                "k8s.namespace.name": settings.namespace,
                "k8s.pod.name": settings.pod_name,
                "k8s.node.name": settings.node_name,
            },
            log,
        )
        self._watchers: dict[str, Watcher] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._stop = asyncio.Event()
        self._started = time.monotonic()

    def stop(self) -> None:
        """Abort what the store does and end, within a second."""
        if not self._stop.is_set():
            self._log.info("stopping")
        self._thread.stop()
        self._stop.set()

    async def run(self) -> int:
        self._handle_signals()
        self._tasks.append(asyncio.create_task(self._beat()))
        self.http = HttpServer(self.metrics.registry, self._health, self._log)
        listening = await self.http.start(self.settings.metrics_address, self.settings.metrics_port)
        if listening is not None:
            self._tasks.append(listening)
        kube = Kube(
            self._access,
            self.settings.namespace,
            user_agent=f"storageformat-sidecar/{__version__}",
            on_request=lambda *labels: self.metrics.api_requests.labels(*labels).inc(),
        )
        async with kube:
            gate = self._wire(kube)
            await gate.start(self.settings.socket)
            self._log.info("waiting for the gate", socket=self.settings.socket)
            code = await self._until_stopped()
            await gate.stop()
        await self.http.stop()
        if not self._thread.join(max(0.0, _EXIT_SECONDS)):
            # The store survives a kill at any point; the kubelet's patience may not last longer.
            self._log.warning("a conversion did not stop in time; the next start recovers it")
        self._traces.close(_FLUSH_SECONDS)
        return code

    def _wire(self, kube: Kube) -> GateServer:
        gate = GateServer([one.name for one in self.settings.databases], self._wake_all, self._log)
        doors = Doors(
            self.settings, self._store, self._thread, gate, self.metrics, kube.clock, self._traces
        )
        mailbox = Mailbox(asyncio.get_running_loop(), self._deliver)
        self.reconcilers = tuple(
            self._reconciler(one, doors, kube, mailbox) for one in self.settings.databases
        )
        for one in self.reconcilers:
            one.others = tuple(other for other in self.reconcilers if other is not one)
        return gate

    def _reconciler(
        self, argument: DatabaseArgument, doors: Doors, kube: Kube, mailbox: Mailbox
    ) -> Reconciler:
        # Named before they are made: each part tells the others when it knows something new.
        poller: Poller
        reconciler: Reconciler
        log = self._log.bind(storageformat=argument.name)
        formatstate = formatstate_name(argument.name, self.settings.pod_name)
        knowledge = Knowledge(argument.name, formatstate, self._wake_all)
        reporter = Reporter(kube, knowledge, self.settings.namespace, log)
        watcher = Watcher(
            name=argument.name,
            formatstate=formatstate,
            namespace=self.settings.namespace,
            access=self._access,
            mailbox=mailbox,
            ended=self._from_thread(lambda: poller.ask_now()),  # noqa: PLW0108 # made below
            log=log,
        )
        loop = asyncio.get_running_loop()

        def asked() -> None:
            reporter.look_again()
            if not knowledge.is_served:
                watcher.allow(allowed=False)
            elif watcher.attempts:
                watcher.allow(allowed=True)
            else:
                loop.call_later(_WATCH_AFTER_SECONDS, lambda: watcher.allow(allowed=True))

        poller = Poller(
            kube,
            knowledge,
            resync=self.settings.resync,
            in_a_hurry=lambda: reconciler.wants_answers(),  # noqa: PLW0108 # made below
            asked=asked,
            log=log,
        )
        reconciler = Reconciler(argument, doors, knowledge, poller, reporter, log)
        reconciler.series.watches = lambda: watcher.attempts
        self._watchers[argument.name] = watcher
        watcher.start()
        for part in (poller.run(), reconciler.run(), reporter.run()):
            self._tasks.append(asyncio.create_task(part))
        return reconciler

    def _from_thread(self, function: Any) -> Any:
        loop = asyncio.get_running_loop()

        def call() -> None:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:
                return  # the loop is closed: the process is about to end

        return call

    def _deliver(self, plural: str, name: str, body: Body | None) -> None:
        for one in self.reconcilers:
            if plural == PLURAL_STORAGEFORMATS and one.knowledge.name == name:
                one.knowledge.saw_storageformat(body)
            elif plural != PLURAL_STORAGEFORMATS and one.knowledge.formatstate == name:
                one.knowledge.saw_formatstate(body)

    def _wake_all(self) -> None:
        # Two StorageFormats may claim one path: what one learns concerns the other.
        for one in self.reconcilers:
            one.wake()

    async def _beat(self) -> None:
        while True:
            self._heart.turns()
            await asyncio.sleep(self.beat_seconds)

    async def _until_stopped(self) -> int:
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait({stopped, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        code = 0
        for task in done - {stopped}:
            # None of them ever ends by itself. Better a new worker than one that is half alive.
            if task.exception() is not None:
                self._log.failure("a part of the worker died", task.exception())  # type: ignore[arg-type] # not None
                code = 1
        self._thread.stop()
        for watcher in self._watchers.values():
            watcher.stop()
        for task in (stopped, *self._tasks):
            task.cancel()
        await _ignore_outcome(asyncio.gather(stopped, *self._tasks, return_exceptions=True))
        return code

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        descriptor = self.settings.supervisor_fd
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
            # The supervisor only listens there: readable means that it is gone.
            loop.add_reader(descriptor, self._orphaned, descriptor)

    def _orphaned(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        self._log.warning("the supervisor is gone")
        self.stop()

    def _health(self) -> tuple[bool, dict[str, Any]]:
        """Our own facts. The API server being away is no illness of this process."""
        now = time.monotonic()
        works = self._thread.is_alive and all(not task.done() for task in self._tasks)
        return works, {
            "works": works,
            "version": __version__,
            "uptimeSeconds": round(now - self._started, 1),
            "storeThread": self._thread.is_alive,
            "watchers": {
                name: {
                    "alive": watcher.is_alive,
                    "attempts": watcher.attempts,
                    "lastEventSecondsAgo": _ago(now, watcher.last_event_at),
                }
                for name, watcher in self._watchers.items()
            },
            "apiLastAnswerSecondsAgo": {
                one.argument.name: _ago(now, one.knowledge.last_answer_at)
                for one in self.reconcilers
            },
            "databases": [one.health() for one in self.reconcilers],
        }


def build_worker(
    settings: SidecarSettings,
    *,
    failpoints: Failpoints | None = None,
    store: Store | None = None,
    reach: Access | None = None,
    log: Log | None = None,
) -> Worker:
    """A worker as production has it, but for what is handed in. Raises NoApiServer."""
    return Worker(
        settings,
        store or FormatStore(pickle_allow=settings.pickle_allow, failpoints=failpoints),
        reach or access(settings.api),
        log or Log(),
    )


def main(
    argv: Sequence[str] | None = None,
    *,
    failpoints: Failpoints | None = None,
    store: Store | None = None,
) -> int:
    """``storageformat sidecar-worker``: what the supervisor starts. Does not return: threads may be busy."""
    settings = sidecar_settings(sys.argv[1:] if argv is None else argv)
    logs.configure(
        settings.log_level,
        settings.log_format,
        role="sidecar",
        namespace=settings.namespace,
        pod=settings.pod_name,
    )
    # The supervisor asks a worker that hangs where it does, before it kills it.
    faulthandler.register(signal.SIGQUIT)
    log = Log()
    try:
        code = asyncio.run(_run(settings, failpoints, store, log))
    except NoApiServer as error:
        log.error("cannot start", error=error)  # noqa: TRY400 # said in one line
        code = 2
    logging.shutdown()
    sys.stdout.flush()
    # Daemon threads (kopf's, a conversion that does not stop) must not hold the process, nor run on
    # while the interpreter is taken apart under them.
    os._exit(code)


async def _run(
    settings: SidecarSettings, failpoints: Failpoints | None, store: Store | None, log: Log
) -> int:
    return await build_worker(settings, failpoints=failpoints, store=store, log=log).run()


async def _ignore_outcome(outcome: Awaitable[object]) -> None:
    await outcome


def _ago(now: float, moment: float | None) -> float | None:
    return round(now - moment, 1) if moment is not None else None
