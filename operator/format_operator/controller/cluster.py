"""The API server, as the controller uses it: the few requests it makes, counted, with errors of our own.

    RequestFailed        operation, status, and what the server said
    ├── Conflict         409: somebody was faster; look again
    ├── Gone             404: the object is not there (any more)
    ├── Waits            429: a PodDisruptionBudget or the server asks to come again (``retry_after`` seconds)
    └── Unavailable      no answer, or 5xx

Bodies stay as the server sent them: models of the client would cost memory and drop what they do not know.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client as kubernetes_client

from format_operator import __version__
from format_operator.api.names import GROUP, PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS, VERSION
from format_operator.runtime.clock import ServerClock
from format_operator.runtime.credentials import Access

Object = Mapping[str, Any]
OnRequest = Callable[[str, str, str], None]

_OURS: Final = f"/apis/{GROUP}/{VERSION}"
_PATHS: Final = {
    PLURAL_STORAGEFORMATS: _OURS,
    PLURAL_FORMATSTATES: _OURS,
    "pods": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "statefulsets": "/apis/apps/v1",
    "deployments": "/apis/apps/v1",
    "daemonsets": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
}
_PAGE: Final = 500
_SECONDS: Final = 20.0
#: What asks to come again in an hour is no API server.
_LONGEST_RETRY_SECONDS: Final = 60.0
_MERGE_PATCH: Final = "application/merge-patch+json"


class RequestFailed(Exception):
    """A request that did not succeed."""

    def __init__(self, operation: str, message: str, status: int = 0) -> None:
        super().__init__(f"{operation}: {message}")
        self.operation = operation
        self.message = message
        self.status = status


class Conflict(RequestFailed):
    """The object is not the version that was decided on."""


class Gone(RequestFailed):
    """There is no such object."""


class Unavailable(RequestFailed):
    """The server did not answer, or cannot now."""


class Waits(RequestFailed):
    """Not now."""

    def __init__(self, operation: str, message: str, retry_after: float) -> None:
        super().__init__(operation, message, 429)
        self.retry_after = retry_after


class ClusterApi:
    """Use as an async context manager."""

    def __init__(self, access: Access, on_request: OnRequest) -> None:
        self.clock = ServerClock()
        self._access = access
        self._on_request = on_request
        self._client: Any = None  # kubernetes' ApiClient, whose methods are not all typed

    async def __aenter__(self) -> Self:
        configuration: Any = kubernetes_client.Configuration(host=self._access.url)
        configuration.ssl_ca_cert = self._access.ca_file
        configuration.cert_file = self._access.certificate_file
        configuration.key_file = self._access.key_file
        configuration.verify_ssl = not self._access.insecure
        configuration.assert_hostname = not self._access.insecure
        self._client = kubernetes_client.ApiClient(configuration)
        self._client.user_agent = f"storageformat-controller/{__version__}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def pages(
        self, plural: str, namespace: str | None
    ) -> AsyncIterator[tuple[list[Object], str]]:
        """Every object of a kind, page by page, with the resource version that the list is of."""
        at = f"/namespaces/{namespace}" if namespace else ""
        after = ""
        while True:
            query = [("limit", str(_PAGE)), *([("continue", after)] if after else [])]
            path = f"{_PATHS[plural]}{at}/{plural}"
            page = await self._request("list", plural, "GET", path, query=query)
            if "items" not in page:
                raise Unavailable(f"list {plural} {path}", "the answer is no list")
            metadata = page.get("metadata") or {}
            yield list(page.get("items") or ()), str(metadata.get("resourceVersion") or "")
            after = metadata.get("continue") or ""
            if not after:
                return

    async def get(self, plural: str, namespace: str, name: str) -> Object:
        """One object. Raises Gone."""
        return await self._request("get", plural, "GET", _path(plural, namespace, name))

    async def patch_formatstate(
        self, name: str, namespace: str, version: str, spec: Object
    ) -> Object:
        """Write the controller's part, if the object still is of that resource version. Raises Conflict."""
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        path = _path(PLURAL_FORMATSTATES, namespace, name)
        return await self._request("patch", PLURAL_FORMATSTATES, "PATCH", path, body=body)

    async def patch_storageformat_status(
        self, name: str, namespace: str, uid: str, status: Object
    ) -> Object:
        """Write the report, if it still is the same object. Raises Conflict, Gone."""
        body = {"metadata": {"uid": uid}, "status": status}
        path = f"{_path(PLURAL_STORAGEFORMATS, namespace, name)}/status"
        resource = f"{PLURAL_STORAGEFORMATS}/status"
        return await self._request("patch", resource, "PATCH", path, body=body)

    async def delete_formatstate(self, name: str, namespace: str, uid: str, version: str) -> None:
        """Delete a FormatState, if it still is of that resource version. Raises Conflict, Gone."""
        body = {"preconditions": {"uid": uid, "resourceVersion": version}}
        path = _path(PLURAL_FORMATSTATES, namespace, name)
        await self._request("delete", PLURAL_FORMATSTATES, "DELETE", path, body=body)

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        """Evict that very pod (policy/v1). Raises Gone, Conflict (another pod of that name), Waits."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        path = f"{_path('pods', namespace, name)}/eviction"
        said = await self._request("create", "pods/eviction", "POST", path, body=body)
        if said.get("status") != "Success":
            # Perhaps it was done: with that UID it can be asked for again.
            raise Unavailable(f"create pods/eviction {path}", "the answer is not that it was done")

    async def create_event(self, namespace: str, body: Object) -> None:
        """Post an event."""
        await self._request(
            "create", "events", "POST", f"/api/v1/namespaces/{namespace}/events", body=body
        )

    async def lease(
        self, method: str, namespace: str, name: str, body: Object | None = None
    ) -> Object:
        """GET, POST or PUT a Lease (coordination.k8s.io/v1). Raises Gone, Conflict."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        path += "" if method == "POST" else f"/{name}"
        verb = {"GET": "get", "POST": "create", "PUT": "update"}[method]
        return await self._request(verb, "leases", method, path, body=body)

    # --- inside -------------------------------------------------------------------------------------------

    async def _request(
        self,
        verb: str,
        resource: str,
        method: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Object | None = None,
    ) -> dict[str, Any]:
        assert self._client is not None, "use `async with`"  # noqa: S101 # a programming error
        operation = f"{verb} {resource} {path}"
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = _MERGE_PATCH if method == "PATCH" else "application/json"
        try:
            # The kubelet replaces a projected token: it is read for each request.
            if token := self._access.token():
                headers["Authorization"] = f"Bearer {token}"
            method, url, headers, body, _ = await self._client.param_serialize(
                method,
                path,
                query_params=query or [],
                header_params=headers,
                body=body,
            )
            response = await self._client.call_api(
                method, url, header_params=headers, body=body, _request_timeout=_SECONDS
            )
            raw = await response.read()
            status, after = response.status, response.headers.get("Retry-After")
            date = response.headers.get("Date")
        except kubernetes_client.ApiException as error:
            raw, status = (error.body or b""), int(error.status or 0)
            after, date = (error.headers or {}).get("Retry-After"), None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._on_request(verb, resource, "none")
            raise Unavailable(operation, f"{type(error).__name__}: {error}") from error
        self._on_request(verb, resource, str(status))
        content = _json(raw)
        if 200 <= status < 300 and content is not None:
            self.clock.heard(date)
            if verb in {"get", "patch", "update"} or resource == "leases":
                _require_same(operation, path, body, content)
            return content
        raise _failure(operation, status, content, after)


def _path(plural: str, namespace: str, name: str) -> str:
    return f"{_PATHS[plural]}/namespaces/{namespace}/{plural}/{name}"


def _require_same(operation: str, path: str, body: Object | None, content: Object) -> None:
    """Whatever stands before an API server may answer 200: a Lease is held by what the server says alone."""
    metadata = content.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if name is None or name not in {
        *path.split("/"),
        ((body or {}).get("metadata") or {}).get("name"),
    }:
        raise Unavailable(operation, "the answer is about something else")


def _json(raw: bytes | str) -> dict[str, Any] | None:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _failure(
    operation: str, status: int, content: Mapping[str, Any] | None, after: str | None
) -> RequestFailed:
    message = str((content or {}).get("message") or f"HTTP {status}")
    if status == 404 and (content is not None or operation.startswith("list ")):
        # Of an object an API server says it in JSON: a page is whatever stands before it.
        return Gone(operation, message, status)
    if status == 409:
        return Conflict(operation, message, status)
    if status == 429:
        return Waits(operation, _causes(content) or message, _seconds(after))
    if status >= 500 or content is None:
        return Unavailable(operation, message, status)
    return RequestFailed(operation, message, status)


def _causes(content: Mapping[str, Any] | None) -> str:
    """What a PodDisruptionBudget says stands in the causes; the message says only that there is one."""
    causes = ((content or {}).get("details") or {}).get("causes") or ()
    return "; ".join(str(one.get("message")) for one in causes if one.get("message"))


def _seconds(after: str | None) -> float:
    try:
        return min(max(1.0, float(after or "")), _LONGEST_RETRY_SECONDS)
    except ValueError:
        return 10.0  # what the API server says for a PodDisruptionBudget where it says anything
