"""Answers of something that is no API server."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from format_operator.runtime.credentials import Access
from format_operator.sidecar.kube import Kube, Unreachable


@pytest.mark.parametrize("body", [b"", b"<html>sign in</html>", b'{"kind": "Stor', b"[]", b"null"])
def test_an_answer_that_is_no_object_says_nothing(body: bytes) -> None:
    """200 with a proxy's page or half an object is "unreachable": no gate is held closed for it."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def run() -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            async with Kube(Access(f"http://127.0.0.1:{port}"), "default", user_agent="t") as kube:
                with pytest.raises(Unreachable, match="JSON"):
                    await kube.get_storageformat("orders")
        finally:
            await runner.cleanup()

    asyncio.run(run())
