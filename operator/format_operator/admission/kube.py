"""The requests of the webhook to the API server: a StorageFormat, and where it makes its certificate itself a Secret and
its own configuration.

    RequestFailed   operation, status (0: no answer), and what the server said
    ├── NotFound    the object is not there; ``kind`` says whether it is the kind that is missing
    └── Conflict    somebody was faster; look again
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from format_operator import __version__
from format_operator.api.names import GROUP, PLURAL_STORAGEFORMATS, VERSION
from format_operator.runtime.clock import ServerClock
from format_operator.runtime.credentials import Access

Object = Mapping[str, Any]
OnRequest = Callable[[str, str, str], None]

#: Less than the webhook's own time (``timeoutSeconds``): the answer shall be ours.
_SECONDS: Final = 3.0
_CONFIGURATIONS: Final = "mutatingwebhookconfigurations"


class RequestFailed(Exception):
    """A request that did not succeed."""

    def __init__(self, operation: str, message: str, status: int = 0) -> None:
        super().__init__(f"{operation}: {message}")
        self.message = message
        self.status = status


class NotFound(RequestFailed):
    """There is no such object, or no such kind."""

    def __init__(self, operation: str, message: str, *, kind: bool) -> None:
        super().__init__(operation, message, 404)
        self.kind = kind


class Conflict(RequestFailed):
    """The object is not the version that was read."""


class Api:
    """Use as an async context manager."""

    def __init__(self, access: Access, on_request: OnRequest) -> None:
        self.clock = ServerClock()
        self._access = access
        self._on_request = on_request
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        self._trusted_at = -1.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={
                "Accept": "application/json",
                "User-Agent": f"storageformat-webhook/{__version__}",
            },
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
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

    async def storageformat(self, namespace: str, name: str) -> Object:
        """Raises NotFound."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL_STORAGEFORMATS}/{name}"
        return await self._request("get", PLURAL_STORAGEFORMATS, name, "GET", path)

    async def secret(self, namespace: str, name: str) -> Object:
        """Raises NotFound."""
        return await self._request("get", "secrets", name, "GET", _secret(namespace, name))

    async def replace_secret(self, namespace: str, name: str, body: Object) -> Object:
        """With the resource version that was read. Raises Conflict, NotFound."""
        path = _secret(namespace, name)
        return await self._request("update", "secrets", name, "PUT", path, body)

    async def configuration(self, name: str) -> Object:
        """The MutatingWebhookConfiguration. Raises NotFound."""
        return await self._request("get", _CONFIGURATIONS, name, "GET", _configuration(name))

    async def trust(self, name: str, version: str, bundles: Mapping[int, str]) -> Object:
        """Write the CA bundle of these webhooks, if it still is of that resource version. Raises Conflict."""
        body = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            *(
                {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": bundle}
                for index, bundle in bundles.items()
            ),
        ]
        return await self._request(
            "patch", _CONFIGURATIONS, name, "PATCH", _configuration(name), body
        )

    # --- inside ---------------------------------------------------------------------------------------------

    async def _request(
        self, verb: str, resource: str, name: str, method: str, path: str, body: object = None
    ) -> dict[str, Any]:
        assert self._session is not None, "use `async with`"  # noqa: S101 # a programming error
        operation = f"{verb} {resource} {name}"
        headers = {}
        try:
            if token := self._access.token():
                headers["Authorization"] = f"Bearer {token}"
            if body is not None:
                kind = "application/json-patch+json" if verb == "patch" else "application/json"
                headers["Content-Type"] = kind
            async with self._session.request(
                method,
                self._access.url + path,
                data=json.dumps(body).encode() if body is not None else None,
                headers=headers,
                ssl=self._current_tls() or True,
                allow_redirects=False,
            ) as response:
                content, status = _json(await response.read()), response.status
                if content is not None:
                    self.clock.heard(response.headers.get("Date"))
        except (aiohttp.ClientError, OSError) as error:
            self._on_request(verb, resource, "none")
            raise RequestFailed(operation, _cause(error)) from error
        self._on_request(verb, resource, str(status))
        if status < 300 and content is not None and _name(content) == name:
            return content
        raise _failure(operation, status, content, f"{verb} {resource}", name)

    def _current_tls(self) -> ssl.SSLContext | None:
        changed_at = self._access.trust_changed_at()
        if changed_at != self._trusted_at:
            self._tls = self._access.tls()
            self._trusted_at = changed_at
        return self._tls


def _secret(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets/{name}"


def _configuration(name: str) -> str:
    return f"/apis/admissionregistration.k8s.io/v1/{_CONFIGURATIONS}/{name}"


def _failure(
    operation: str, status: int, content: Object | None, needed: str, name: str
) -> RequestFailed:
    message = str((content or {}).get("message") or f"HTTP {status}")
    if status < 300:
        return RequestFailed(operation, "the answer is about something else", status)
    if status == 404:
        # Of an object the server names it; a kind that it does not know is a plain page.
        details = (content or {}).get("details") or {}
        return NotFound(operation, message, kind=details.get("name") != name)
    if status == 409 or (status == 422 and operation.startswith("patch ")):
        return Conflict(operation, message, status)
    if status == 403:
        message = f"forbidden: the webhook may not `{needed}` ({message})"
    return RequestFailed(operation, message, status)


def _name(content: Object) -> object:
    metadata = content.get("metadata")
    return metadata.get("name") if isinstance(metadata, Mapping) else None


def _json(raw: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error}"  # its own text shows the TLS context's address
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
