"""Reviews, as the API server sends them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from format_operator.admission.formats import Formats, Unknown
from format_operator.admission.kube import NotFound, RequestFailed
from format_operator.admission.review import Answer, NoReview, Result, answer
from format_operator.runtime.log import Log
from tests.admission.pods import DEFAULTS, PATHS, injected, pod
from tests.support.jsonpatch import applied


def review(body: Mapping[str, Any], **request: Any) -> bytes:
    defaults = {"uid": "u-1", "namespace": "shop", "operation": "CREATE", "object": body}
    document = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {**defaults, **request},
    }
    return json.dumps(document).encode()


async def known(namespace: str, name: str) -> str | None:
    assert namespace == "shop"
    return PATHS.get(name)


def answered(content: bytes, path: Any = known) -> Answer:
    return asyncio.run(answer(content, path, DEFAULTS))


def response(found: Answer) -> dict[str, Any]:
    body = found.body
    assert (body["apiVersion"], body["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    decided: dict[str, Any] = body["response"]
    assert decided["uid"] == "u-1"
    return decided


def test_a_pod_that_asks_gets_a_patch() -> None:
    """The patch in the answer makes the pod what it shall be; mistyped annotations are warnings."""
    body = pod("orders,users", options={"reeds": "v1"})
    found = answered(review(body))
    decided = response(found)
    assert (found.result, found.pod) == (Result.INJECTED, "shop/orders-0")
    assert (decided["allowed"], decided["patchType"]) == (True, "JSONPatch")
    assert applied(body, json.loads(base64.b64decode(decided["patch"]))) == injected(body)
    assert "storageformat.dev/reeds" in decided["warnings"][0]


@pytest.mark.parametrize(
    ("content", "result"),
    [
        (review({"spec": {}, "metadata": {}}), Result.IGNORED),
        (review(pod(), operation="UPDATE"), Result.IGNORED),
        (review(pod(), operation="CREATE", subResource="ephemeralcontainers"), Result.IGNORED),
        (review(injected(pod())), Result.PRESENT),
    ],
)
def test_who_gets_none(content: bytes, result: Result) -> None:
    """A pod that does not ask, one that is there already (`kubectl debug` adds a container to it), and one that has ours."""
    found = answered(content)
    assert found.result is result
    assert response(found) == {"uid": "u-1", "allowed": True}


def test_a_refusal() -> None:
    """It is a 403 with the reason for people."""
    found = answered(review(pod("nothing")))
    decided = response(found)
    assert (found.result, decided["allowed"]) == (Result.REFUSED, False)
    assert (decided["status"]["code"], decided["status"]["reason"]) == (403, "Forbidden")
    assert "there is no StorageFormat nothing" in decided["status"]["message"]


def test_nobody_says_where_the_database_is() -> None:
    """Refused as something that passes (503), with the way round; who has written the path out is let in."""

    async def away(namespace: str, name: str) -> str | None:
        raise Unknown(f"get storageformats {name}: no answer in time of {namespace}")

    found = answered(review(pod()), away)
    decided = response(found)
    assert (found.result, decided["allowed"]) == (Result.UNAVAILABLE, False)
    assert (decided["status"]["code"], decided["status"]["reason"]) == (503, "ServiceUnavailable")
    assert "cannot be asked now: get storageformats orders" in decided["status"]["message"]
    assert "orders=/PATH/OF/THE/DATABASE" in decided["status"]["message"]
    assert answered(review(pod("orders=/data/orders.db")), away).result is Result.INJECTED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        review({}),
        review(pod(), uid=""),
        review(pod()).replace(b"k8s.io/v1", b"k8s.io/v2"),
    ],
)
def test_what_is_no_review(content: bytes) -> None:
    """It is said to be none."""
    with pytest.raises(NoReview):
        answered(content)


class Source:
    """An API server that says what it is told to."""

    def __init__(self) -> None:
        self.says: Any = None
        self.asked = 0

    async def storageformat(self, namespace: str, name: str) -> Mapping[str, Any]:
        assert (namespace, name) == ("shop", "orders")
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return {"spec": {"database": {"path": self.says}}}


def test_paths_are_asked_for_and_remembered() -> None:
    """Each time anew; where there is no answer, the last one; a StorageFormat that was deleted is forgotten."""
    source = Source()
    formats = Formats(source, Log())

    async def story() -> None:
        source.says = RequestFailed("get", "no answer in time")
        with pytest.raises(Unknown, match="no answer in time"):
            await formats.path("shop", "orders")
        for says in ("/data/a.db", "/data/b.db"):
            source.says = says
            assert await formats.path("shop", "orders") == says
        source.says = RequestFailed("get", "no answer in time")
        assert await formats.path("shop", "orders") == "/data/b.db"
        source.says = NotFound("get", "not found", kind=True)
        with pytest.raises(Unknown, match="does not know StorageFormats"):
            await formats.path("shop", "orders")
        source.says = NotFound("get", "not found", kind=False)
        assert await formats.path("shop", "orders") is None
        source.says = RequestFailed("get", "no answer in time")
        with pytest.raises(Unknown):
            await formats.path("shop", "orders")

    asyncio.run(story())
    assert source.asked == 7
