"""The requests of the webhook to the API server: a StorageFormat, and where it makes its certificate itself a Secret and
its own configuration.

    RequestFailed   operation, status (0: no answer), and what the server said
    ├── NotFound    the object is not there; ``kind`` says whether it is the kind that is missing
    └── Conflict    somebody was faster; look again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from format_operator import __version__
from format_operator.api.names import GROUP, PLURAL_STORAGEFORMATS, VERSION
from format_operator.runtime import rest
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


class Api(rest.Rest):
    """Use as an async context manager."""

    def __init__(self, access: Access, on_request: OnRequest) -> None:
        super().__init__(
            access,
            user_agent=f"storageformat-webhook/{__version__}",
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
        )
        self._on_request = on_request

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
        operation = f"{verb} {resource} {name}"
        kind = rest.JSON_PATCH if verb == "patch" else rest.JSON
        try:
            answer = await self.send(method, path, body, content_type=kind)
        except rest.NoAnswer as error:
            self._on_request(verb, resource, "none")
            raise RequestFailed(operation, str(error)) from error
        content, status = answer.content, answer.status
        self._on_request(verb, resource, str(status))
        if status < 300 and content is not None and _name(content) == name:
            return content
        raise _failure(operation, status, content, f"{verb} {resource}", name)


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
