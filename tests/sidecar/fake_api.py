"""A small API server for tests: two kinds, a status subresource, watches, and every way of being away.

It is no judge of what the real one does (``tests/apiserver`` asks that one); it makes what is rare happen on
demand: down, forbidden, slow, without the CRDs, watches cut, watches silent.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

T = TypeVar("T")
GROUP, VERSION = "storageformat.dev", "v1alpha1"
KINDS = {"storageformats": "StorageFormat", "formatstates": "FormatState"}
#: kopf waits until it has seen the kind, even when it is told not to watch it.
NAMESPACES = {
    "name": "namespaces",
    "singularName": "",
    "namespaced": False,
    "kind": "Namespace",
    "verbs": ["get", "list", "watch"],
}
Key = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """One request, as it came."""

    method: str
    path: str
    watch: bool
    token: str
    body: Any
    status: int

    @property
    def is_write(self) -> bool:
        return self.method in {"POST", "PATCH", "PUT", "DELETE"}


class FakeApi:
    """Runs in a thread of its own; every method may be called from the test's thread."""

    def __init__(self) -> None:
        self.installed = True
        self.forbidden: set[tuple[str, str]] = set()
        self.tokens: set[str] | None = None
        self.overloaded = 0
        self.lost_answers = 0
        self.empty_discoveries = 0
        self.silent_watches = False
        self.requests: list[Seen] = []
        self._objects: dict[Key, dict[str, Any]] = {}
        self._version = 0
        self._watches: dict[asyncio.Queue[dict[str, Any] | None], str] = {}
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- the test's side ----------------------------------------------------------------------------------

    def up(self) -> None:
        self._call(self._up())

    def down(self) -> None:
        self._call(self._down())

    def close(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut_watches(self) -> None:
        async def cut() -> None:
            for queue in self._watches:
                queue.put_nowait(None)

        self._call(cut())

    def apply(self, body: dict[str, Any], plural: str = "storageformats") -> dict[str, Any]:
        """Create or replace metadata and spec, as a client with every right."""

        async def apply() -> dict[str, Any]:
            name = body["metadata"]["name"]
            known = self._objects.get((plural, name))
            if known is None:
                return self._add(plural, body)
            if known.get("spec") != body.get("spec"):
                known["spec"] = copy.deepcopy(body.get("spec"))
                known["metadata"]["generation"] += 1
            return self._changed(plural, known)

        return self._call(apply())

    def permit(self, name: str, target_hash: str, expires: str) -> None:
        spec = {"permit": {"targetHash": target_hash, "expires": expires}}
        self.set_spec(name, spec)

    def set_spec(self, name: str, spec: dict[str, Any]) -> None:
        async def change() -> None:
            known = self._objects["formatstates", name]
            known["spec"] = spec
            known["metadata"]["generation"] += 1
            self._changed("formatstates", known)

        self._call(change())

    def delete(self, plural: str, name: str) -> None:
        async def delete() -> None:
            known = self._objects.pop((plural, name))
            self._tell("DELETED", plural, known)

        self._call(delete())

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        async def get() -> dict[str, Any] | None:
            return copy.deepcopy(self._objects.get((plural, name)))

        return self._call(get())

    def status(self, name: str) -> dict[str, Any]:
        """The status of a FormatState; empty while there is none."""
        return dict((self.get("formatstates", name) or {}).get("status") or {})

    def watching(self, plural: str) -> bool:
        async def watching() -> bool:
            return plural in self._watches.values()

        return self._call(watching())

    def writes(self) -> list[Seen]:
        return [seen for seen in list(self.requests) if seen.is_write]

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # --- the server's side --------------------------------------------------------------------------------

    async def _up(self) -> None:
        application = web.Application(middlewares=[self._guard])
        route = application.router.add_route
        base = f"/apis/{GROUP}/{VERSION}"
        objects = base + "/namespaces/{namespace}/{plural}"
        route("GET", "/apis", self._groups)
        route("GET", base, self._resources)
        route("GET", objects, self._list)
        route("POST", objects, self._create)
        route("GET", objects + "/{name}", self._get)
        route("PATCH", objects + "/{name}/status", self._patch_status)
        route("PATCH", objects + "/{name}", self._not_allowed)
        route("GET", "/api", _json({"versions": ["v1"]}))
        route("GET", "/api/v1", _json({"resources": [NAMESPACES]}))
        self._runner = web.AppRunner(application, shutdown_timeout=0.01, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _down(self) -> None:
        for queue in list(self._watches):
            queue.put_nowait(None)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        plural = request.match_info.get("plural", "")
        body = json.loads(await request.read() or b"null")
        response: web.StreamResponse
        watch = "watch" in request.query

        def note(status: int) -> None:
            self.requests.append(Seen(request.method, request.path, watch, token, body, status))

        if self.tokens is not None and token not in self.tokens:
            response = _status(401, "Unauthorized", "Unauthorized")
        elif (request.method, plural) in self.forbidden:
            response = _status(403, "Forbidden", f"user cannot {request.method} {plural}")
        elif self.overloaded > 0 and request.method != "GET":
            self.overloaded -= 1
            response = _status(429, "TooManyRequests", "later", {"Retry-After": "0"})
        elif plural and not self.installed:
            response = web.Response(status=404, text="404 page not found\n")
        elif watch:
            note(200)
            return await self._watch(request)
        else:
            response = await handler(request)
        note(response.status)
        if self.lost_answers > 0 and request.method != "GET" and request.transport is not None:
            self.lost_answers -= 1
            request.transport.abort()  # it was done, and nobody hears of it
        return response

    async def _groups(self, _: web.Request) -> web.Response:
        version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
        group = {"name": GROUP, "versions": [version], "preferredVersion": version}
        return web.json_response({"groups": [group] if self.installed else []})

    async def _resources(self, _: web.Request) -> web.Response:
        if not self.installed:
            return web.Response(status=404, text="404 page not found\n")
        verbs = ["get", "list", "watch", "create", "patch"]
        if self.empty_discoveries > 0:
            self.empty_discoveries -= 1
            return web.json_response({"resources": []})
        resources = [
            {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs}
            for plural, kind in KINDS.items()
        ]
        return web.json_response({"resources": resources})

    async def _list(self, request: web.Request) -> web.Response:
        plural = request.match_info["plural"]
        items = [one for (kind, _), one in self._objects.items() if kind == plural]
        items = [one for one in items if _selected(request, one)]
        metadata = {"resourceVersion": str(self._version)}
        return web.json_response(
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "List",
                "metadata": metadata,
                "items": items,
            }
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        plural = request.match_info["plural"]
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        since = int(request.query.get("resourceVersion") or 0)
        for (kind, _), one in self._objects.items():
            if kind == plural and int(one["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "MODIFIED", "object": copy.deepcopy(one)})
        self._watches[queue] = plural
        try:
            while (event := await queue.get()) is not None:
                if _selected(request, event["object"]):
                    await response.write(json.dumps(event).encode() + b"\n")
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            del self._watches[queue]
        return response

    async def _get(self, request: web.Request) -> web.Response:
        plural, name = request.match_info["plural"], request.match_info["name"]
        known = self._objects.get((plural, name))
        return web.json_response(known) if known is not None else _missing(plural, name)

    async def _create(self, request: web.Request) -> web.Response:
        plural, body = request.match_info["plural"], await request.json()
        if "spec" in body or "status" in body:
            return _status(403, "Forbidden", "spec is the controller's")
        if (plural, body["metadata"]["name"]) in self._objects:
            return _status(409, "AlreadyExists", "exists")
        return web.json_response(self._add(plural, body), status=201)

    async def _patch_status(self, request: web.Request) -> web.Response:
        plural, name = request.match_info["plural"], request.match_info["name"]
        known = self._objects.get((plural, name))
        if known is None:
            return _missing(plural, name)
        patch = await request.json()
        known["status"] = _merged(known.get("status") or {}, patch.get("status") or {})
        return web.json_response(self._changed(plural, known))

    async def _not_allowed(self, _: web.Request) -> web.Response:
        return _status(403, "Forbidden", "only the status is the sidecar's")

    def _add(self, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        added = copy.deepcopy(body)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        added["metadata"].setdefault("creationTimestamp", created)
        added["metadata"] |= {"uid": f"uid-{self._version + 1}", "generation": 1}
        self._objects[plural, added["metadata"]["name"]] = added
        return self._changed(plural, added, "ADDED")

    def _changed(self, plural: str, body: dict[str, Any], kind: str = "MODIFIED") -> dict[str, Any]:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self._tell(kind, plural, body)
        return copy.deepcopy(body)

    def _tell(self, kind: str, plural: str, body: dict[str, Any]) -> None:
        if self.silent_watches:
            return
        for queue, watched in self._watches.items():
            if watched == plural:
                queue.put_nowait({"type": kind, "object": copy.deepcopy(body)})


def _selected(request: web.Request, body: dict[str, Any]) -> bool:
    selector = request.query.get("fieldSelector", "")
    return not selector or selector == f"metadata.name={body['metadata']['name']}"


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _missing(plural: str, name: str) -> web.Response:
    return _status(404, "NotFound", f'{plural} "{name}" not found', details={"name": name})


def _status(
    code: int,
    reason: str,
    message: str,
    headers: dict[str, str] | None = None,
    details: dict[str, str] | None = None,
) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(body | {"details": details or {}}, status=code, headers=headers)


def _json(body: Any) -> Callable[[web.Request], Coroutine[Any, Any, web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body)

    return handler
