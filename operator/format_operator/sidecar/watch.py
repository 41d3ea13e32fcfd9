"""kopf, in a thread of its own: watches one StorageFormat and this pod's FormatState of it.

Handlers do nothing but put the newest body into the mailbox. What kopf is kept from doing, and why:

* no ``on.create/update/resume``, timers or daemons: they write annotations and finalizers;
* no default finalizer: kopf would take *another* kopf process's finalizer off the object, again and again;
* no events posted, no peering, no scanning of the cluster's CRDs and namespaces;
* a new event loop per attempt, and no "ultimate" exit: kopf would kill the process ten minutes later.

A selector names one object, so a sidecar with several StorageFormats runs one watcher for each: a set of names
cannot be said in a field selector, and without one each status of each pod would come to every pod.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from format_operator.api.names import GROUP, PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS, VERSION
from format_operator.sidecar.credentials import Access
from format_operator.sidecar.log import Log
from format_operator.sidecar.mailbox import Mailbox

_FIRST_BACKOFF_SECONDS = 1.0
_LAST_BACKOFF_SECONDS = 30.0
_FINALIZER = f"{GROUP}/never-set-by-the-sidecar"

_CLIENTS = ("kubernetes", "kubernetes_asyncio", "pykube")


class Watcher:
    """``ended`` is called (in this thread) when kopf ended, which it does only when something is wrong."""

    def __init__(
        self,
        *,
        name: str,
        formatstate: str,
        namespace: str,
        access: Access,
        mailbox: Mailbox,
        ended: Callable[[], None],
        log: Log,
    ) -> None:
        self._names = {PLURAL_STORAGEFORMATS: name, PLURAL_FORMATSTATES: formatstate}
        self._namespace = namespace
        self._access = access
        self._mailbox = mailbox
        self._ended = ended
        self._log = log
        self._allowed = threading.Event()
        self._stopping = False
        self._stop: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"kopf-{name}", daemon=True)
        self.attempts = 0
        self.last_event_at: float | None = None

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
            except Exception as problem:
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
        settings.persistence.finalizer = _FINALIZER
        settings.process.ultimate_exiting_timeout = None
        settings.watching.reconnect_backoff = 1.0
        settings.watching.connect_timeout = 5.0
        settings.networking.request_timeout = 30.0
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, retries=3)(self._login)
        for plural, name in self._names.items():
            settings.watching.field_selectors[GROUP, VERSION, plural] = f"metadata.name={name}"
            kopf.on.event(GROUP, VERSION, plural, registry=registry)(self._handler(plural, name))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: _call(loop, stop.set)
        try:
            if self._stopping:
                return
            await kopf.operator(
                registry=registry,
                settings=settings,
                namespaces=[self._namespace],
                standalone=True,
                stop_flag=stop,
            )
        finally:
            self._stop = None

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

    def _handler(self, plural: str, name: str) -> Any:
        async def on_event(event: Any, **_: Any) -> None:
            body = event["object"]
            # A server that knows no field selectors sends everybody's.
            if body["metadata"]["name"] != name:
                return
            self.last_event_at = time.monotonic()
            self._mailbox.put(plural, name, None if event["type"] == "DELETED" else body)

        # kopf tells handlers apart by name.
        on_event.__name__ = on_event.__qualname__ = f"on_{plural}"
        return on_event


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
