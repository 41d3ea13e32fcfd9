"""Answers of something that is no API server, and answers that do not come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from format_operator.runtime.credentials import Access
from format_operator.sidecar.kube import (
    ApiError,
    Kube,
    NotFound,
    NotServed,
    Overloaded,
    Unreachable,
)

PAGE = b"<html>sign in</html>"
BASE = "/apis/storageformat.dev/v1alpha1"


def error_of(
    answers: dict[str, tuple[int, bytes]],
    what: Callable[[Kube], Awaitable[Any]] = lambda kube: kube.get_storageformat("orders"),
    headers: dict[str, str] | None = None,
) -> ApiError:
    """The error of a request to a server that answers by path; ``""`` stands for all others."""

    async def answer(request: web.Request) -> web.Response:
        status, body = answers.get(request.path, answers[""])
        return web.Response(
            status=status, body=body, content_type="application/json", headers=headers
        )

    async def run() -> ApiError:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            async with Kube(Access(f"http://127.0.0.1:{port}"), "default", user_agent="t") as kube:
                with pytest.raises(ApiError) as raised:
                    await what(kube)
                return raised.value
        finally:
            await runner.cleanup()

    return asyncio.run(run())


@pytest.mark.parametrize("body", [b"", PAGE, b'{"kind": "Stor', b"[]", b"null", b"[" * 100_000])
def test_an_answer_that_is_no_object_says_nothing(body: bytes) -> None:
    """200 with a proxy's page or half an object is "unreachable": no gate is held closed for it."""
    error = error_of({"": (200, body)})
    assert isinstance(error, Unreachable)
    assert "JSON" in error.message


@pytest.mark.parametrize("body", [b"{}", b'{"metadata": 1}', b'{"metadata": {"name": "other"}}'])
def test_an_answer_about_something_else_says_nothing(body: bytes) -> None:
    """200 with another object is no word about this one, and no StorageFormat that makes no sense either."""
    assert isinstance(error_of({"": (200, body)}), Unreachable)


@pytest.mark.parametrize(
    "discovery",
    [
        {"": (404, PAGE)},
        {"": (404, PAGE), BASE: (503, b"{}")},
        {"": (404, PAGE), BASE: (200, PAGE)},
        {"": (404, PAGE), BASE: (200, b'{"resources": null}')},
        {"": (404, PAGE), BASE: (200, b'{"resources": [{"name": "storageformats"}]}')},
        {"": (404, PAGE), "/apis": (200, b'{"groups": [{"name": "storageformat.dev"}]}')},
    ],
)
def test_a_load_balancers_404_is_no_absence(discovery: dict[str, tuple[int, bytes]]) -> None:
    """Neither the object nor the kind is taken to be gone: what is on the volume would be forgotten over it."""
    assert isinstance(error_of(discovery), Unreachable)


@pytest.mark.parametrize(
    "discovery",
    [
        {BASE: (200, b'{"resources": [{"name": "other"}, "odd"]}')},
        {BASE: (404, b"404 page not found"), "/apis": (200, b'{"groups": [{"name": "apps"}]}')},
    ],
)
def test_a_kind_that_is_not_installed(discovery: dict[str, tuple[int, bytes]]) -> None:
    """The API server lists its kinds, or its groups, and this one is not among them."""
    assert isinstance(error_of({"": (404, b"404 page not found")} | discovery), NotServed)


def test_an_object_that_is_not_there() -> None:
    """404 with a Status that names it."""
    body = b'{"kind": "Status", "details": {"name": "orders", "kind": "storageformats"}}'
    assert isinstance(error_of({"": (404, body)}), NotFound)


@pytest.mark.parametrize("after", ["86400", "inf"])
def test_nobody_waits_for_hours(after: str) -> None:
    """A Retry-After that no API server would send is a minute at most."""
    error = error_of({"": (503, b"{}")}, headers={"Retry-After": after})
    assert isinstance(error, Overloaded)
    assert error.retry_after == 60.0
