"""kopf, in a thread of its own, for processes that only want to be told what changed.

What kopf is kept from doing, and why:

* no ``on.create/update/resume``, timers or daemons: they write annotations and finalizers;
* no default finalizer: kopf would take *another* kopf process's finalizer off the object, again and again;
* no events posted, no peering, no scanning of the cluster's CRDs and namespaces;
* no discovery that is believed once and for all: kopf would never watch a kind that one bad answer left out;
* a new event loop per attempt, and no "ultimate" exit: kopf would kill the process ten minutes later;
* no ending without end: a watch whose request is cancelled in the same moment as kopf's pause takes the one for the other, and goes on.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from format_operator.api.names import GROUP
from format_operator.runtime.credentials import Access
from format_operator.runtime.log import Log

_FIRST_BACKOFF_SECONDS = 1.0
_LAST_BACKOFF_SECONDS = 30.0
_NAMESPACES_SECONDS = 10.0
#: kopf gives what is left of it five seconds; with that it ends in less.
_ENDING_SECONDS = 8.0
#: TLS connections that were closed are closed for good a moment later (aiohttp, "Graceful Shutdown").
_CLOSING_SECONDS = 0.25
#: The task of kopf's that all watches belong to, by its name; when it has ended, kopf has.
_WATCHES = "multidimensional multitasker"
_PAUSE = "pause-waiter"

_CLIENTS = ("kubernetes", "kubernetes_asyncio", "pykube")


class KopfThread:
    """Runs what ``configure(kopf, settings, registry)`` registers, again whenever kopf ends.

    ``kinds``: the plurals of what it has to watch. ``namespaces``: none means the whole cluster. ``ended`` is called (in this thread) when kopf ended, which it
    does only when something is wrong; the next attempt waits until ``allow`` says that it makes sense.
    """

    def __init__(
        self,
        name: str,
        *,
        namespaces: Sequence[str],
        access: Access,
        configure: Callable[[Any, Any, Any], None],
        kinds: Collection[str],
        ended: Callable[[], None],
        log: Log,
    ) -> None:
        self._namespaces = tuple(namespaces)
        self._access = access
        self._configure = configure
        self._kinds = frozenset(kinds)
        self._ended = ended
        self._log = log
        self._allowed = threading.Event()
        self._stopping = False
        self._stop: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"kopf-{name}", daemon=True)
        self.attempts = 0

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def allow(self, *, allowed: bool) -> None:
        """Whether an attempt makes sense: the kind is installed. One under way goes on regardless."""
        if allowed:
            self._allowed.set()
        else:
            self._allowed.clear()

    def stop(self) -> None:
        """End; returns at once."""
        self._stopping = True
        self._allowed.set()
        if self._stop is not None:
            self._stop()

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            self._allowed.wait()
            if self._stopping:
                return
            self.attempts += 1
            started = time.monotonic()
            try:
                asyncio.run(self._watch())
                error: BaseException | None = None
            except (Exception, asyncio.CancelledError) as problem:
                error = problem
            if self._stopping:
                return
            if time.monotonic() - started > 10 * _LAST_BACKOFF_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            self._log.warning("watch ended", error=_root(error), again_in=backoff)
            # Whether the kind is still there is for the next answer of the API server to tell.
            self._allowed.clear()
            self._ended()
            time.sleep(backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)

    async def _watch(self) -> None:
        kopf = _import_kopf()
        # It says that signals are not its business in this thread; they are not meant to be.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.scanning.disabled = True
        settings.persistence.finalizer = f"{GROUP}/never-set"
        settings.process.ultimate_exiting_timeout = None
        settings.watching.reconnect_backoff = 1.0
        settings.watching.connect_timeout = 5.0
        settings.networking.request_timeout = 30.0
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, retries=3)(self._login)
        self._configure(kopf, settings, registry)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: _call(loop, stop.set)
        insights = importlib.import_module("kopf._cogs.structs.references").Insights()
        # Before kopf begins: what is there later it takes for its own, and cancels.
        begun: asyncio.Future[asyncio.Task[None]] = loop.create_future()
        beside = [
            asyncio.create_task(self._look(insights, stop)),
            asyncio.create_task(_end(begun, insights)),
        ]
        try:
            if self._stopping:
                return
            operator = asyncio.create_task(
                kopf.operator(
                    insights=insights,
                    registry=registry,
                    settings=settings,
                    namespaces=self._namespaces,
                    clusterwide=not self._namespaces,
                    standalone=True,
                    # Otherwise kopf asks who the user is, and a container's uid has no name.
                    identity=self._thread.name,
                    stop_flag=stop,
                )
            )
            begun.set_result(operator)
            await operator
        finally:
            self._stop = None
            for task in beside:
                task.cancel()
            await asyncio.sleep(_CLOSING_SECONDS)

    async def _look(self, insights: Any, stop: asyncio.Event) -> None:
        """End the attempt where kopf has asked what the API server has, and was told something else than that."""
        await insights.ready_resources.wait()
        missing = self._kinds - {one.plural for one in insights.watched_resources}
        if not missing:
            with suppress(TimeoutError):
                await asyncio.wait_for(insights.ready_namespaces.wait(), _NAMESPACES_SECONDS)
                return
        self._log.warning(
            "the API server did not list everything", missing=",".join(sorted(missing))
        )
        stop.set()

    async def _login(self, **_: Any) -> Any:
        kopf = _import_kopf()
        access = self._access
        return kopf.ConnectionInfo(
            server=access.url,
            ca_path=access.ca_file,
            insecure=access.insecure or None,
            token=access.token(),
            certificate_path=access.certificate_file,
            private_key_path=access.key_file,
        )


async def _end(begun: asyncio.Future[asyncio.Task[None]], insights: Any) -> None:
    """Once kopf's watches have ended: cancel what is left of it, but not the pauses that a watch would take for its own."""
    operator = await begun
    await insights.ready_resources.wait()
    watches = [one for one in asyncio.all_tasks() if one.get_name() == _WATCHES]
    if watches:
        await asyncio.wait(watches)
    await asyncio.wait([operator], timeout=_ENDING_SECONDS)
    while not operator.done():
        for task in asyncio.all_tasks() - {asyncio.current_task(), operator}:
            if not task.get_name().startswith(_PAUSE):
                task.cancel()
        await asyncio.wait([operator], timeout=1.0)


def _import_kopf() -> Any:
    """kopf, late (a gate does not wait for its import) and without the Kubernetes clients that it looks for.

    Where one is installed, kopf imports it for logins that we do not use: 18 MB in every pod.
    """
    hidden = [name for name in _CLIENTS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # the import system's word for "not there"
    try:
        return importlib.import_module("kopf")
    finally:
        for name in hidden:
            del sys.modules[name]


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return  # closed meanwhile


def _root(error: BaseException | None) -> str:
    return "kopf stopped" if error is None else f"{type(error).__name__}: {error}"
