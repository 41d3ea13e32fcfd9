"""A small client for the four requests that a sidecar makes.

The ``kubernetes`` package would cost 28 MB of the pod's memory. Every error of the API server becomes one of

    ApiError                    operation, status, and whether and when to ask again
    ├── Unreachable             no answer, or one that is not about what was asked: connection, TLS, time-out,
    │                           no token to show, a load balancer's page
    ├── Unauthorized  Forbidden 401, 403: the message names the verb and resource that RBAC lacks
    ├── NotFound                404 of the object
    ├── NotServed               404 of the kind: its CustomResourceDefinition is not installed
    ├── AlreadyExists           409
    ├── Rejected                422 and other 4xx: asking the same again does not help
    └── Overloaded              429 and 5xx, with the server's Retry-After
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from format_operator.api.names import (
    GROUP,
    PLURAL_FORMATSTATES,
    PLURAL_STORAGEFORMATS,
    VERSION,
)
from format_operator.runtime.clock import ServerClock
from format_operator.runtime.credentials import Access

_BASE: Final = f"/apis/{GROUP}/{VERSION}"
_CONNECT_SECONDS: Final = 3.0
_REQUEST_SECONDS: Final = 8.0
#: What asks to come again in an hour is no API server.
_LONGEST_RETRY_SECONDS: Final = 60.0

OnRequest = Callable[[str, str, str], None]


class ApiError(Exception):
    """A request that did not succeed."""

    def __init__(
        self, message: str, *, operation: str, status: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{operation}: {message}")
        self.operation = operation
        self.message = message
        self.status = status
        self.retry_after = retry_after


class Unreachable(ApiError):
    """The API server did not answer."""


class Unauthorized(ApiError):
    """The API server does not know this token (any more)."""


class Forbidden(ApiError):
    """RBAC or an admission policy does not allow it."""


class NotFound(ApiError):
    """There is no such object."""


class NotServed(ApiError):
    """The API server does not know the kind."""


class AlreadyExists(ApiError):
    """Another request was first."""


class Rejected(ApiError):
    """The server refuses the content of the request."""


class Overloaded(ApiError):
    """The server cannot answer now."""


class Kube:
    """Requests of one namespace. Use as an async context manager."""

    def __init__(
        self,
        access: Access,
        namespace: str,
        *,
        user_agent: str,
        on_request: OnRequest | None = None,
    ) -> None:
        self.clock = ServerClock()
        self._access = access
        self._namespace = namespace
        self._on_request = on_request or _ignore
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        self._trusted_at = -1.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"Accept": "application/json", "User-Agent": self._user_agent},
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get_storageformat(self, name: str) -> dict[str, Any]:
        return await self._request("get", PLURAL_STORAGEFORMATS, name)

    async def get_formatstate(self, name: str) -> dict[str, Any]:
        return await self._request("get", PLURAL_FORMATSTATES, name)

    async def create_formatstate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._request("create", PLURAL_FORMATSTATES, "", body=body)

    async def patch_formatstate_status(
        self, name: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge-patch the status; nulls remove keys."""
        return await self._request(
            "patch", PLURAL_FORMATSTATES, name, subresource="status", body={"status": status}
        )

    async def _request(
        self,
        verb: str,
        plural: str,
        name: str,
        *,
        subresource: str = "",
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        resource = f"{plural}/{subresource}" if subresource else plural
        path = f"{_BASE}/namespaces/{self._namespace}/{plural}"
        path += "".join(f"/{part}" for part in (name, subresource) if part)
        operation = f"{verb} {resource} {self._namespace}/{name}".rstrip("/")
        method = {"get": "GET", "create": "POST", "patch": "PATCH"}[verb]
        try:
            status, retry_after, content = await self._send(method, path, body)
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            self._on_request(verb, resource, "none")
            raise Unreachable(_cause(error), operation=operation) from error
        self._on_request(verb, resource, str(status))
        if status < 300:
            if not isinstance(content, dict):
                # A proxy's page, or a broken answer: nothing was said about the object.
                raise Unreachable("the answer is not a JSON object", operation=operation)
            if not _is_of(content, name or str(((body or {}).get("metadata") or {}).get("name"))):
                raise Unreachable("the answer is about something else", operation=operation)
            return content
        # An API server answers 404 both for an object and for a kind that it does not know, and whatever stands
        # before it for anything: only a clear word says that something is not there.
        if status == 404 and name and not _names_object(content, name):
            if await self._lacks(plural):
                message = f"the kind is not installed: {plural}.{GROUP}"
                raise NotServed(message, operation=operation, status=status)
            raise Unreachable("404, but not of the object", operation=operation, status=status)
        raise _error(status, content, operation, f"{verb} {resource}", retry_after)

    async def _lacks(self, plural: str) -> bool:
        """Whether the API server knows for certain that it does not have the kind."""
        for path, key, wanted in ((_BASE, "resources", plural), ("/apis", "groups", GROUP)):
            try:
                status, _, content = await self._send("GET", path, None)
            except (aiohttp.ClientError, OSError, ssl.SSLError):
                return False
            self._on_request("get", "discovery", str(status))
            listed = content.get(key) if status == 200 and isinstance(content, dict) else None
            if isinstance(listed, list):
                return not any(
                    isinstance(one, dict) and one.get("name") == wanted for one in listed
                )
            if status != 404:
                return False
        return False

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, float | None, object]:
        assert self._session is not None, "use `async with`"  # noqa: S101 # a programming error
        headers = {}
        token = self._access.token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers["Content-Type"] = kind
        async with self._session.request(
            method,
            self._access.url + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers=headers,
            ssl=self._current_tls() or True,
            allow_redirects=False,
        ) as response:
            raw = await response.read()
            content = _json(raw)
            if isinstance(content, dict):
                self.clock.heard(response.headers.get("Date"))
            return response.status, _retry_after(response.headers.get("Retry-After")), content

    def _current_tls(self) -> ssl.SSLContext | None:
        changed_at = self._access.trust_changed_at()
        if changed_at != self._trusted_at:
            self._tls = self._access.tls()
            self._trusted_at = changed_at
        return self._tls


def _error(
    status: int, content: object, operation: str, needed: str, retry_after: float | None
) -> ApiError:
    said = content.get("message") if isinstance(content, dict) else None
    message = str(said) if said else f"HTTP {status}"
    kinds: dict[int, type[ApiError]] = {
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        409: AlreadyExists,
        429: Overloaded,
    }
    kind = kinds.get(status, Overloaded if status >= 500 else Rejected)
    if kind is Forbidden:
        message = f"forbidden: the pod's service account may not `{needed}` ({message})"
    elif kind is Unauthorized:
        message = f"unauthorized: the token is not accepted ({message})"
    return kind(message, operation=operation, status=status, retry_after=retry_after)


def _is_of(content: Mapping[str, Any], name: str) -> bool:
    metadata = content.get("metadata")
    return isinstance(metadata, dict) and metadata.get("name") == name


def _names_object(content: object, name: str) -> bool:
    """Whether a 404 is about the object: then the Status names it; a missing kind answers in plain text."""
    if not isinstance(content, dict):
        return False
    details = content.get("details")
    return bool(name) and isinstance(details, dict) and details.get("name") == name


def _retry_after(header: str | None) -> float | None:
    try:
        return min(max(0.0, float(header)), _LONGEST_RETRY_SECONDS) if header is not None else None
    except ValueError:
        return None  # a date: nobody sends one here


def _json(raw: bytes) -> object:
    try:
        content: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return content


def _cause(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError | TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error}"  # its own text shows the TLS context's address
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _ignore(verb: str, resource: str, code: str) -> None:
    """Nobody counts."""
