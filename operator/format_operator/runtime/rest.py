"""JSON to and from the API server by aiohttp, for processes that make a handful of requests.

What an answer means is for whoever asked: here is how it is carried, with a token and an authority that may change.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from format_operator.runtime.clock import ServerClock
from format_operator.runtime.credentials import Access

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"  # RFC 7386
JSON_PATCH: Final = "application/json-patch+json"  # RFC 6902


class NoAnswer(Exception):
    """Nothing was answered, or there is no token to ask with; the message says why."""


@dataclass(frozen=True)
class Answer:
    """``content`` is None where the body is no JSON object; ``retry_after`` as the header has it."""

    status: int
    content: dict[str, Any] | None
    retry_after: str | None


class Rest:
    """Use as an async context manager."""

    def __init__(self, access: Access, *, user_agent: str, timeout: aiohttp.ClientTimeout) -> None:
        self.clock = ServerClock()
        self._access = access
        self._user_agent = user_agent
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        self._trusted_at = -1.0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"Accept": JSON, "User-Agent": self._user_agent},
            timeout=self._timeout,
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

    async def send(
        self, method: str, path: str, body: object = None, *, content_type: str = JSON
    ) -> Answer:
        """One request. Raises NoAnswer."""
        try:
            return await self._sent(method, path, body, content_type)
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(_cause(error)) from error

    async def _sent(self, method: str, path: str, body: object, content_type: str) -> Answer:
        assert self._session is not None, "use `async with`"  # noqa: S101 # a programming error
        headers = {}
        # The kubelet replaces a projected token: it is read for each request.
        if token := self._access.token():
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = content_type
        async with self._session.request(
            method,
            self._access.url + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers=headers,
            ssl=self._current_tls() or True,
            allow_redirects=False,
        ) as response:
            content = _json(await response.read())
            if content is not None:
                self.clock.heard(response.headers.get("Date"))
            return Answer(response.status, content, response.headers.get("Retry-After"))

    def _current_tls(self) -> ssl.SSLContext | None:
        changed_at = self._access.trust_changed_at()
        if changed_at != self._trusted_at:
            self._tls = self._access.tls()
            self._trusted_at = changed_at
        return self._tls


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error}"  # its own text shows the TLS context's address
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _json(raw: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
