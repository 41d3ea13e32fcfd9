"""As much of a Kubernetes client as tests need: JSON over HTTPS, with the standard library.

The product's own clients are what is tested; testing them with themselves would prove little.
"""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """The API server refused: ``status`` is the HTTP code, ``message`` its explanation."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.message = message
        self.reason = reason


@dataclass(frozen=True)
class Client:
    """Requests as one user. ``server`` is the base URL, ``ca_file`` who signed its certificate."""

    server: str
    ca_file: str
    token: str

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        timeout: float = 30.0,
    ) -> Object:
        """One request; the answer's object. Raises ApiError, or OSError when nobody answers."""
        request = urllib.request.Request(  # noqa: S310 - the URL is our own https:// one
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/json",
                "Authorization": f"Bearer {self.token}",
                "Content-Type": content_type,
            },
        )
        context = ssl.create_default_context(cafile=self.ca_file)
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context),
            # Whatever proxy this machine uses for the world knows no way to a server on it.
            urllib.request.ProxyHandler({}),
        )
        try:
            with opener.open(request, timeout=timeout) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                content = error.read()
            raise _api_error(error.code, content) from None
        try:
            parsed = json.loads(content)
        except ValueError:  # /readyz and its like answer in plain text
            return {"text": content.decode(errors="replace")}
        return parsed if isinstance(parsed, dict) else {"items": parsed}

    def get(self, path: str) -> Object:
        return self.request("GET", path)

    def list(self, path: str) -> list[Object]:
        items: list[Object] = self.request("GET", path)["items"]
        return items

    def create(self, path: str, body: Object) -> Object:
        return self.request("POST", path, body)

    def replace(self, path: str, body: Object) -> Object:
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Any, *, content_type: str = MERGE_PATCH) -> Object:
        return self.request("PATCH", path, body, content_type=content_type)

    def delete(self, path: str, **options: Any) -> Object:
        return self.request("DELETE", path, options or None)

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True


def wait_until(
    condition: Callable[[], Any], *, timeout: float = 30.0, every: float = 0.05, what: str = ""
) -> Any:
    """The first true value of ``condition``. Raises TimeoutError that says what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(every)


def _api_error(status: int, content: bytes) -> ApiError:
    text = content.decode(errors="replace")
    try:
        body = json.loads(text)
    except ValueError:
        return ApiError(status, text)
    return ApiError(status, str(body.get("message", text)), str(body.get("reason", "")))
