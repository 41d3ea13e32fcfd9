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

from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from format_operator.api.names import (
    GROUP,
    PLURAL_FORMATSTATES,
    PLURAL_STORAGEFORMATS,
    VERSION,
)
from format_operator.runtime import rest
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


class Kube(rest.Rest):
    """Requests of one namespace. Use as an async context manager."""

    def __init__(
        self,
        access: Access,
        namespace: str,
        *,
        user_agent: str,
        on_request: OnRequest | None = None,
    ) -> None:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS, connect=_CONNECT_SECONDS)
        super().__init__(access, user_agent=user_agent, timeout=timeout)
        self._namespace = namespace
        self._on_request = on_request or _ignore

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
            kind = rest.MERGE_PATCH if verb == "patch" else rest.JSON
            answer = await self.send(method, path, body, content_type=kind)
        except rest.NoAnswer as error:
            self._on_request(verb, resource, "none")
            raise Unreachable(str(error), operation=operation) from error
        status, content = answer.status, answer.content
        self._on_request(verb, resource, str(status))
        if status < 300:
            if content is None:
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
        after = _retry_after(answer.retry_after)
        raise _error(status, content, operation, f"{verb} {resource}", after)

    async def _lacks(self, plural: str) -> bool:
        """Whether the API server knows for certain that it does not have the kind."""
        for path, key, wanted in ((_BASE, "resources", plural), ("/apis", "groups", GROUP)):
            try:
                answer = await self.send("GET", path)
            except rest.NoAnswer:
                return False
            self._on_request("get", "discovery", str(answer.status))
            listed = (answer.content or {}).get(key) if answer.status == 200 else None
            if isinstance(listed, list):
                return not any(
                    isinstance(one, dict) and one.get("name") == wanted for one in listed
                )
            if answer.status != 404:
                return False
        return False


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


def _ignore(verb: str, resource: str, code: str) -> None:
    """Nobody counts."""
