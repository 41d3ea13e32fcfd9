"""The objects of a namespace as they change: lists, then watches, begun anew when they end."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from format_operator.kubectl.kube import Kubectl, Object, path_of
from format_operator.kubectl.problems import Problem

_FIRST_BACKOFF_SECONDS: Final = 1.0
_LAST_BACKOFF_SECONDS: Final = 15.0


@dataclass(frozen=True)
class What:
    """A kind to follow, in one namespace or (None) in all."""

    plural: str
    namespace: str | None
    query: Mapping[str, str] = field(default_factory=dict)


class Mirror:
    """What the API server has, kept up to date by one thread per kind. ``changed`` says when to look."""

    def __init__(self, kube: Kubectl, kinds: Iterable[What]) -> None:
        self._kube = kube
        self._kinds = tuple(kinds)
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._problems: dict[str, Problem] = {}
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stop = threading.Event()

    def start(self) -> None:
        """List everything once, and watch from there. Raises Problem when that fails."""
        versions = [self._list(kind) for kind in self._kinds]
        for kind, version in zip(self._kinds, versions, strict=True):
            threading.Thread(target=self._follow, args=(kind, version), daemon=True).start()

    def stop(self) -> None:
        self._stop.set()
        self._kube.close()

    def wait(self, seconds: float) -> bool:
        """Whether something changed, at the latest after so long."""
        try:
            self._news.get(timeout=seconds)
        except queue.Empty:
            return False
        while not self._news.empty():
            self._news.get()
        return True

    def objects(self, plural: str) -> list[Object]:
        with self._lock:
            return list(self._objects.get(plural, {}).values())

    def problem(self) -> Problem | None:
        """Why nothing new can be seen just now."""
        with self._lock:
            return next(iter(self._problems.values()), None)

    def _list(self, kind: What) -> str:
        found, version = self._kube.items(kind.plural, kind.namespace, kind.query)
        with self._lock:
            self._objects[kind.plural] = {_key(one): one for one in found}
            self._problems.pop(kind.plural, None)
        self._news.put(None)
        return version

    def _follow(self, kind: What, version: str) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stop.is_set():
            try:
                if not version:
                    version = self._list(kind)
                    backoff = _FIRST_BACKOFF_SECONDS
                version = self._watch(kind, version)
            except Problem as problem:
                version = ""
                with self._lock:
                    self._problems[kind.plural] = problem
                self._news.put(None)
                self._stop.wait(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)

    def _watch(self, kind: What, version: str) -> str:
        """Until the server ends it; the version to go on from, or none when all has to be listed anew."""
        query = {
            **kind.query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
        }
        stream = self._kube.stream(path_of(kind.plural, kind.namespace), query)
        try:
            for line in stream.lines():
                event = json.loads(line)
                body = event["object"]
                if event["type"] == "ERROR":
                    return ""
                version = body["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._take(kind.plural, event["type"], body)
        except (ValueError, KeyError):  # it was cut in the middle of a line
            return ""
        finally:
            stream.close()
        return version

    def _take(self, plural: str, happened: str, body: Object) -> None:
        with self._lock:
            objects = self._objects[plural]
            if happened == "DELETED":
                objects.pop(_key(body), None)
            else:
                objects[_key(body)] = body
        self._news.put(None)


def _key(body: Object) -> tuple[str, str]:
    metadata = body["metadata"]
    return str(metadata.get("namespace", "")), str(metadata["name"])
