"""The paths of StorageFormats, asked for when a pod needs one.

Asked for each time: a StorageFormat that is applied together with its pods must count at once, and a watch may lag.
Where the API server does not answer, what it said last stands in: the path of a StorageFormat never changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Protocol

from format_operator.admission.kube import NotFound, RequestFailed
from format_operator.runtime.log import Log

_REMEMBERED: Final = 4096


class Source(Protocol):
    """Whoever has StorageFormats: ``kube.Api``."""

    async def storageformat(self, namespace: str, name: str) -> Mapping[str, Any]: ...


class Unknown(Exception):
    """Nobody says which path it is; the message says why."""


class Formats:
    """``path`` for one StorageFormat."""

    def __init__(self, source: Source, log: Log) -> None:
        self._source = source
        self._log = log
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def path(self, namespace: str, name: str) -> str | None:
        """Its path; None when there is no such StorageFormat. Raises Unknown."""
        key = (namespace, name)
        try:
            found = await self._source.storageformat(namespace, name)
            path = str(found["spec"]["database"]["path"])
        except NotFound as error:
            if error.kind:
                raise Unknown("the API server does not know StorageFormats (yet)") from error
            self._known.pop(key, None)
            return None
        except (RequestFailed, KeyError, TypeError) as error:
            if key in self._known:
                self._log.warning(
                    "asked in vain: the path is the last one known",
                    namespace=namespace,
                    storageformat=name,
                    error=error,
                )
                return self._known[key]
            raise Unknown(str(error)) from error
        self._known[key] = path
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return path
