"""Watches one StorageFormat and this pod's FormatState of it, by kopf.

Handlers do nothing but put the newest body into the mailbox. A selector names one object, so a sidecar with several
StorageFormats runs one watcher for each: a set of names cannot be said in a field selector, and without one each
status of each pod would come to every pod.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from format_operator.api.names import GROUP, PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS, VERSION
from format_operator.runtime.credentials import Access
from format_operator.runtime.kopf_thread import KopfThread
from format_operator.runtime.log import Log
from format_operator.runtime.mailbox import Mailbox


class Watcher(KopfThread):
    """``ended`` is called (in the watcher's thread) when kopf ended."""

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
        super().__init__(
            name,
            namespaces=[namespace],
            access=access,
            configure=self._register,
            kinds=(PLURAL_STORAGEFORMATS, PLURAL_FORMATSTATES),
            ended=ended,
            log=log,
        )
        self._names = {PLURAL_STORAGEFORMATS: name, PLURAL_FORMATSTATES: formatstate}
        self._mailbox = mailbox
        self.last_event_at: float | None = None

    def _register(self, kopf: Any, settings: Any, registry: Any) -> None:
        for plural, name in self._names.items():
            settings.watching.field_selectors[GROUP, VERSION, plural] = f"metadata.name={name}"
            kopf.on.event(GROUP, VERSION, plural, registry=registry)(self._handler(plural, name))

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
