"""An API server that answers wrongly on demand: a proxy before the real one, which does what its faults leave undone.

A fault concerns requests of one kind (``create formatstates``, ``watch pods``, …), some of them or all. Whatever the
fault is, tests judge the objects in the real server.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
from aiohttp import web

from controlplane import ControlPlane

T = TypeVar("T")

_PATH: Final = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?P<sub>/[a-z]+)?)?"
)
_VERBS: Final = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
_NOT_HANDED_ON: Final = {
    "host",
    "connection",
    "transfer-encoding",
    "content-length",
    "accept-encoding",
}
_REASONS: Final = {
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


class Fault(StrEnum):
    """What happens to a request. From ``HALF`` on, it was really carried out."""

    CONFLICT = "409"
    EXPIRED = "410"
    INVALID = "422"
    TOO_MANY = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    LOST_PAGE = "404 of a load balancer"
    PAGE = "200 with a page"
    GARBAGE = "200 with bytes"
    NESTED = "200 with brackets"
    NOTHING = "200 with an empty object"
    OTHER = "200 with another object"
    REFUSED = "reset"
    HALF = "half an answer"
    LOST = "answer lost"
    DRIPS = "answer drips"
    SILENT = "no answer"
    #: Of a watch; the last two cut it in the middle of an event, or fill that with bytes.
    WATCH_EXPIRED = "watch expired"
    WATCH_CUT = "watch cut"
    WATCH_GARBAGE = "watch garbled"


OF_WATCHES: Final = (Fault.WATCH_EXPIRED, Fault.WATCH_CUT, Fault.WATCH_GARBAGE)
#: What a request may meet that is no watch, in less than a client's patience.
OF_REQUESTS: Final = tuple(
    one for one in Fault if one not in {*OF_WATCHES, Fault.DRIPS, Fault.SILENT}
)


@dataclass
class Rule:
    """``kind`` of request, how many of those are let through first, and how many then fail (None: all)."""

    fault: Fault
    kind: str
    after: int = 0
    times: int | None = 1
    met: int = 0


@dataclass(frozen=True)
class Seen:
    """One request, and what happened to it."""

    kind: str
    fault: Fault | None
    body: Any = None


class Faulty:
    """Runs in a thread of its own; every method may be called from the test's thread."""

    def __init__(self, plane: ControlPlane) -> None:
        self.seen: list[Seen] = []
        self._plane = plane
        self._rules: list[Rule] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._port = 0
        self._watches: dict[int, web.BaseRequest] = {}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fail(self, fault: Fault, kind: str, *, after: int = 0, times: int | None = 1) -> Rule:
        """From now on. ``kind`` may be a regular expression."""
        rule = Rule(fault, kind, after, times)
        self._rules = [*self._rules, rule]
        return rule

    def heal(self) -> None:
        """No more faults."""
        self._rules = []

    def cut(self) -> None:
        """End the watches that are open, without a word."""

        async def cut() -> None:
            for request in list(self._watches.values()):
                _reset(request)

        self._call(cut())

    def watching(self, kind: str) -> bool:
        """Whether a watch of that kind is open: ``pods``."""
        watches = list(self._watches.values())
        return any(kind_of("GET", one.path, one.query) == f"watch {kind}" for one in watches)

    def count(self, kind: str) -> int:
        """How many requests of that kind came."""
        return sum(one.kind == kind for one in list(self.seen))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    # --- the server's side --------------------------------------------------------------------------------

    async def _start(self) -> None:
        trust = ssl.create_default_context(cafile=str(self._plane.ca_file))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        place = self._plane.directory
        identity = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        identity.load_cert_chain(place / "apiserver.crt", place / "apiserver.key")
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=identity).start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        kind = kind_of(request.method, request.path, request.query)
        body = await request.read()
        fault = self._fault_of(kind)
        self.seen.append(Seen(kind, fault, _json(body)))
        if fault is Fault.REFUSED:
            return _reset(request)
        if fault is Fault.SILENT:
            await asyncio.Event().wait()  # until the client goes, or the server ends
        if fault is not None and (answer := _answer(fault)) is not None:
            return answer
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_HANDED_ON}
        url = self._plane.server + request.raw_path
        try:
            async with self._session.request(
                request.method,
                url,
                data=body or None,
                headers=headers | {"Accept-Encoding": "identity"},
            ) as upstream:
                if kind.startswith("watch") and upstream.status == 200:
                    self._watches[id(request)] = request
                    try:
                        return await _stream(request, upstream, fault)
                    finally:
                        del self._watches[id(request)]
                return await _hand_on(request, upstream, fault)
        except (aiohttp.ClientError, ConnectionError):
            return _reset(request)

    def _fault_of(self, kind: str) -> Fault | None:
        for rule in self._rules:
            if not re.fullmatch(rule.kind, kind):
                continue
            rule.met += 1
            if rule.after < rule.met <= rule.after + (rule.times or 1 << 30):
                return rule.fault
        return None


def kind_of(method: str, path: str, query: Mapping[str, str] | None = None) -> str:
    """``get pods``, ``create pods/eviction``, ``watch formatstates``; anything else is ``get discovery``."""
    found = _PATH.fullmatch(path)
    if found is None:
        return "get discovery"
    verb = _VERBS.get(method, "")
    if not verb:
        watch = (query or {}).get("watch") in {"true", "1"}
        verb = "watch" if watch else "get" if found["name"] else "list"
    return f"{verb} {found['plural']}{found['sub'] or ''}"


def _answer(fault: Fault) -> web.Response | None:
    """An answer to a request that is not carried out."""
    if fault.isdecimal():
        code = int(fault)
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "reason": _REASONS[code],
            "message": f"a fault: {code}",
            "code": code,
        }
        retry = {"Retry-After": "1"} if code in {429, 503} else {}
        return web.json_response(body, status=code, headers=retry)
    page = "<html><body>We will be back soon</body></html>"
    pods = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "another", "namespace": "far"}}
    match fault:
        case Fault.LOST_PAGE:
            return web.Response(status=404, text=page, content_type="text/html")
        case Fault.PAGE:
            return web.Response(text=page, content_type="text/html")
        case Fault.GARBAGE:
            return web.Response(body=bytes(range(128, 256)), content_type="application/json")
        case Fault.NESTED:
            return web.Response(body=b"[" * 100_000, content_type="application/json")
        case Fault.NOTHING:
            return web.json_response({})
        case Fault.OTHER:
            return web.json_response(pods)
    return None


async def _hand_on(
    request: web.BaseRequest, upstream: aiohttp.ClientResponse, fault: Fault | None
) -> web.StreamResponse:
    body = await upstream.read()
    if fault is Fault.LOST:
        return _reset(request)
    response = web.StreamResponse(status=upstream.status)
    for name in ("Content-Type", "Retry-After", "Date"):
        if name in upstream.headers:
            response.headers[name] = upstream.headers[name]
    response.content_length = len(body)
    await response.prepare(request)
    if fault is Fault.HALF:
        await response.write(body[: len(body) // 2])
        return _reset(request)
    if fault is Fault.DRIPS:
        with suppress(ConnectionError):
            for byte in body:
                await response.write(bytes([byte]))
                await asyncio.sleep(0.5)
        return response
    await response.write(body)
    return response


async def _stream(
    request: web.BaseRequest, upstream: aiohttp.ClientResponse, fault: Fault | None
) -> web.StreamResponse:
    response = web.StreamResponse(status=upstream.status)
    response.content_type = "application/json"
    await response.prepare(request)
    if fault is Fault.WATCH_EXPIRED:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired"}
        gone = {"type": "ERROR", "object": status | {"code": 410, "message": "too old"}}
        await response.write(json.dumps(gone).encode() + b"\n")
        return response
    async for chunk in upstream.content.iter_any():
        if fault is Fault.WATCH_CUT:
            await response.write(chunk[: len(chunk) // 2])
            return _reset(request)
        if fault is Fault.WATCH_GARBAGE:
            await response.write(b'{"type": "MODIFIED", "object": {"\xff\n')
            return response
        await response.write(chunk)
    return response


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    """The connection is gone at once, without a word."""
    if request.transport is not None:
        connection: socket.socket | None = request.transport.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.transport.abort()
    return web.Response()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"null")
    except ValueError:
        return None
