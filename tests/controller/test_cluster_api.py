"""The controller's client against a real HTTP server: each answer becomes the error that says what to do."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from format_operator.controller.cluster import (
    ClusterApi,
    Conflict,
    Gone,
    RequestFailed,
    Unavailable,
    Waits,
)
from format_operator.runtime.credentials import Access


class Server:
    """Answers what a test has set, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                outer.asked.append((self.command, self.path, dict(self.headers), body))
                status, headers, content = outer.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 # http.server's names

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # its name there
                """Nobody reads it."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def says(self, status: int, body: Any = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.answers.append((status, headers, content))

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def ask(
    server: Server, what: Callable[[ClusterApi], Awaitable[Any]], **access: Any
) -> tuple[Any, list[tuple[str, str, str]]]:
    """The outcome of a call, and the requests that were counted."""
    counted: list[tuple[str, str, str]] = []

    async def asked() -> Any:
        api = ClusterApi(Access(server.url, **access), lambda *labels: counted.append(labels))
        async with api:
            return await what(api)

    try:
        return asyncio.run(asked()), counted
    except RequestFailed as error:
        return error, counted


def test_an_eviction_names_the_very_pod(server: Server) -> None:
    """policy/v1, with the UID as precondition: a successor of the same name is not evicted."""
    server.says(201)
    _, counted = ask(server, lambda api: api.evict("orders-0", "shop", "uid-1"))
    method, path, headers, body = server.asked[0]
    assert (method, path) == ("POST", "/api/v1/namespaces/shop/pods/orders-0/eviction")
    assert body["apiVersion"] == "policy/v1"
    assert body["deleteOptions"] == {"preconditions": {"uid": "uid-1"}}
    assert headers["User-Agent"].startswith("storageformat-controller/")
    assert counted == [("create", "pods/eviction", "201")]


def test_a_budget_says_when_to_come_again(server: Server) -> None:
    """429 with Retry-After, and the budget's own words, which stand in the causes."""
    causes = [{"message": "The disruption budget orders needs 3 healthy pods and has 3"}]
    body = {"message": "Cannot evict pod", "details": {"causes": causes}}
    server.says(429, body, **{"Retry-After": "7"})
    error, _ = ask(server, lambda api: api.evict("orders-0", "shop", "uid-1"))
    assert isinstance(error, Waits)
    assert error.retry_after == 7.0
    assert "needs 3 healthy pods" in error.message
    assert len(server.asked) == 1  # not tried again behind our back


def test_a_permit_is_for_the_version_that_was_decided_on(server: Server) -> None:
    """A merge patch that names the resource version: 409 when somebody was faster."""
    server.says(409, {"message": "the object has been modified"})
    error, _ = ask(
        server, lambda api: api.patch_formatstate("orders.orders-0", "shop", "17", {"permit": None})
    )
    assert isinstance(error, Conflict)
    _, _, headers, body = server.asked[0]
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert body == {"metadata": {"resourceVersion": "17"}, "spec": {"permit": None}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"message": "not found"}, Gone),
        (422, {"message": "invalid"}, RequestFailed),
        (403, {"message": "forbidden"}, RequestFailed),
        (500, {"message": "etcd"}, Unavailable),
        (503, b"<html>proxy</html>", Unavailable),
        (200, b"not JSON", Unavailable),
        (200, b"[]", Unavailable),
        (200, b"[" * 100_000, Unavailable),
        (200, {}, Unavailable),
        (200, {"metadata": {"name": "orders-1"}}, Unavailable),
        (404, b"<html>proxy</html>", Unavailable),
    ],
)
def test_answers(server: Server, status: int, body: Any, kind: type[RequestFailed]) -> None:
    """What the server says becomes the error of its kind; what is no answer, Unavailable."""
    server.says(status, body)
    error, counted = ask(server, lambda api: api.get("pods", "shop", "orders-0"))
    assert type(error) is kind
    assert "get pods /api/v1/namespaces/shop/pods/orders-0" in str(error)
    assert counted == [("get", "pods", str(status))]


def test_an_answer_that_is_no_list(server: Server) -> None:
    """200 with something else does not say that there is nothing."""
    server.says(200, {})

    async def pages(api: ClusterApi) -> list[Any]:
        return [page async for page in api.pages("pods", None)]

    error, _ = ask(server, pages)
    assert isinstance(error, Unavailable)


@pytest.mark.parametrize(("after", "seconds"), [("86400", 60.0), ("inf", 60.0), ("nan", 1.0)])
def test_nobody_waits_for_hours(server: Server, after: str, seconds: float) -> None:
    """A Retry-After that no API server would send is a minute at most."""
    server.says(429, {}, **{"Retry-After": after})
    error, _ = ask(server, lambda api: api.evict("orders-0", "shop", "uid-1"))
    assert isinstance(error, Waits)
    assert error.retry_after == seconds


def test_nobody_there(server: Server) -> None:
    """A connection that is refused is no answer, and counted as none."""
    server.close()
    error, counted = ask(server, lambda api: api.get("pods", "shop", "orders-0"))
    assert isinstance(error, Unavailable)
    assert counted == [("get", "pods", "none")]


def test_pages(server: Server) -> None:
    """A long list comes in pages; the resource version of the list is handed on."""
    server.says(
        200, {"metadata": {"resourceVersion": "9", "continue": "c+/="}, "items": [{"a": 1}]}
    )
    server.says(200, {"metadata": {"resourceVersion": "9"}, "items": [{"a": 2}]})

    async def pages(api: ClusterApi) -> list[Any]:
        return [page async for page in api.pages("pods", None)]

    found, _ = ask(server, pages)
    assert found == [([{"a": 1}], "9"), ([{"a": 2}], "9")]
    asked = [parse_qs(urlsplit(path).query) for _, path, _, _ in server.asked]
    assert asked == [{"limit": ["500"]}, {"limit": ["500"], "continue": ["c+/="]}]


def test_the_token_is_read_for_each_request(server: Server, tmp_path: Path) -> None:
    """The kubelet replaces it while the process runs."""
    token = tmp_path / "token"
    token.write_text("first")
    server.says(200, {"metadata": {"name": "a"}})
    server.says(200, {"metadata": {"name": "a"}})

    async def twice(api: ClusterApi) -> None:
        await api.get("pods", "shop", "a")
        token.write_text("second")
        await api.get("pods", "shop", "a")

    ask(server, twice, token_file=str(token))
    assert [headers["Authorization"] for _, _, headers, _ in server.asked] == [
        "Bearer first",
        "Bearer second",
    ]
