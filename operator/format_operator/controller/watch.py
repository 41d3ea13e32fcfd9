"""Watches everything that decisions depend on, by kopf; handlers only hand on the newest body."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from format_operator.api.names import GROUP, PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS, VERSION
from format_operator.runtime.credentials import Access
from format_operator.runtime.kopf_thread import KopfThread
from format_operator.runtime.log import Log
from format_operator.runtime.mailbox import Mailbox

_RESOURCES: Final = (
    (GROUP, VERSION, PLURAL_STORAGEFORMATS),
    (GROUP, VERSION, PLURAL_FORMATSTATES),
    ("", "v1", "pods"),
    ("", "v1", "persistentvolumeclaims"),
    ("apps", "v1", "statefulsets"),
    ("apps", "v1", "deployments"),
    ("apps", "v1", "daemonsets"),
    ("apps", "v1", "replicasets"),
)


class Watcher(KopfThread):
    """``listed`` is called, in this thread, for a kind that kopf lists anew: deletions may have been missed."""

    def __init__(
        self,
        *,
        namespaces: Sequence[str],
        access: Access,
        mailbox: Mailbox,
        listed: Callable[[str], None],
        ended: Callable[[], None],
        log: Log,
    ) -> None:
        super().__init__(
            "controller",
            namespaces=namespaces,
            access=access,
            configure=self._register,
            kinds=[plural for _, _, plural in _RESOURCES],
            ended=ended,
            log=log,
        )
        self._mailbox = mailbox
        self._listed = listed
        self.last_event_at: float | None = None

    def _register(self, kopf: Any, settings: Any, registry: Any) -> None:
        # A worker per object, of thousands that change at once: each is to go as soon as it has nothing to do.
        settings.queueing.idle_timeout = 0.2
        for group, version, plural in _RESOURCES:
            kopf.on.event(group, version, plural, registry=registry)(self._handler(plural))

    def _handler(self, plural: str) -> Any:
        async def on_event(event: Any, **_: Any) -> None:
            body = event["object"]
            metadata = body["metadata"]
            self.last_event_at = time.monotonic()
            if event["type"] is None:
                self._listed(plural)
            name = f"{metadata['namespace']}/{metadata['name']}"
            self._mailbox.put(plural, name, None if event["type"] == "DELETED" else body)

        # kopf tells handlers apart by name.
        on_event.__name__ = on_event.__qualname__ = f"on_{plural}"
        return on_event
