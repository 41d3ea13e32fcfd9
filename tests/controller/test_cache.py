"""The cache: the newest version of each object counts, whoever brings it, and in whatever order."""

from __future__ import annotations

from typing import Any

import pytest

from format_operator.api.models import LabelSelector, StorageFormat
from format_operator.api.selection import matches
from format_operator.controller import cache as cache_module
from format_operator.controller import objects
from format_operator.controller.cache import Cache
from tests.controller.scenes import NOW, running
from tests.support.objects import storageformat


def body(name: str, version: int, uid: str = "u", **status: Any) -> dict[str, Any]:
    """A FormatState of that resource version."""
    metadata = {"namespace": "shop", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, "status": status}


def phases(cache: Cache) -> dict[str, Any]:
    """What is known of the FormatStates of StorageFormat orders."""
    parsed = StorageFormat.from_object(storageformat(metadata__namespace="shop"))
    return {name: one.reason for name, one in cache.snapshot(parsed, NOW).states.items()}


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def cache(told: list[tuple[str, str]]) -> Cache:
    return Cache(told.extend)


def test_what_is_older_does_not_replace(cache: Cache) -> None:
    """A watch that lags behind the answer to our own write changes nothing."""
    cache.put("formatstates", body("orders.a", 7, reason="New"))
    cache.put("formatstates", body("orders.a", 5, reason="Old"))
    assert phases(cache) == {"a": "New"}


def test_only_what_matters_wakes_anybody(cache: Cache, told: list[tuple[str, str]]) -> None:
    """A newer version with the same facts is no news; one with others is, for its StorageFormat alone."""
    cache.put("formatstates", body("orders.a", 1, reason="Same"))
    told.clear()
    cache.put("formatstates", body("orders.a", 2, reason="Same", progress={"percent": 3}))
    assert told == []
    cache.put("formatstates", body("orders.a", 3, reason="Other"))
    assert told == [("shop", "orders")]


def test_what_became_of_an_eviction_is_news(cache: Cache, told: list[tuple[str, str]]) -> None:
    """The watch says nothing of an eviction that was refused, and lags behind one that was not."""
    cache.put("storageformats", {**storageformat(metadata__namespace="shop", metadata__uid="u")})
    told.clear()
    cache.refused(running(0), NOW, "a budget")
    assert told == [("shop", "orders")]
    cache.evicted(running(0), NOW)
    assert told == [("shop", "orders")] * 2


def test_a_list_shows_what_is_gone(cache: Cache) -> None:
    """What a whole list lacks is gone; what was made after that list stays."""
    cache.put("formatstates", body("orders.gone", 3))
    cache.put("formatstates", body("orders.there", 4))
    cache.put("formatstates", body("orders.newer", 12))
    cache.keep_only("formatstates", {("shop", "orders.there")}, 10, None)
    assert set(phases(cache)) == {"there", "newer"}


def test_a_list_of_another_namespace_says_nothing(cache: Cache) -> None:
    """A namespaced list is about that namespace."""
    cache.put("formatstates", body("orders.a", 3))
    cache.keep_only("formatstates", set(), 10, "elsewhere")
    assert set(phases(cache)) == {"a"}


def test_a_successor_is_not_gone(cache: Cache) -> None:
    """404 for one object says nothing of another that has its name meanwhile."""
    first = objects.state(body("orders.a", 3, uid="first"))
    cache.put("formatstates", body("orders.a", 9, uid="second"))
    cache.gone("formatstates", first)
    assert set(phases(cache)) == {"a"}
    cache.gone("formatstates", objects.state(body("orders.a", 9, uid="second")))
    assert phases(cache) == {}


def test_an_answer_does_not_bring_back_what_was_deleted(cache: Cache) -> None:
    """The watch's word that it is gone comes before the answer to our write: the answer is the older one."""
    cache.put("formatstates", body("orders.a", 3))
    cache.remove("formatstates", "shop", "orders.a")
    cache.answered("formatstates", body("orders.a", 5))
    assert phases(cache) == {}


def test_an_odd_object_blinds_nobody(cache: Cache) -> None:
    """What cannot be understood is kept aside by its name, and taken when it can be."""
    odd = body("orders.a", 3)
    odd["metadata"]["resourceVersion"] = None
    del odd["metadata"]["uid"]
    cache.put("formatstates", odd)
    assert list(cache.unreadable) == [("formatstates", "shop", "orders.a")]
    cache.put("formatstates", body("orders.a", 4))
    assert cache.unreadable == {}


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({"match_labels": {"app": "a"}}, {"app": "a", "x": "y"}, True),
        ({"match_labels": {"app": "a"}}, {"app": "b"}, False),
        ({"match_labels": {"app": "a"}}, {}, False),
        (("app", "In", ("a", "b")), {"app": "b"}, True),
        (("app", "In", ("a", "b")), {"app": "c"}, False),
        (("app", "In", ("a",)), {}, False),
        (("app", "NotIn", ("a",)), {}, True),
        (("app", "NotIn", ("a",)), {"app": "a"}, False),
        (("app", "Exists", ()), {"app": ""}, True),
        (("app", "Exists", ()), {}, False),
        (("app", "DoesNotExist", ()), {}, True),
        (("app", "DoesNotExist", ()), {"app": "a"}, False),
    ],
)
def test_selectors(selector: Any, labels: dict[str, str], expected: bool) -> None:
    """As ``metav1.LabelSelector`` has it, absent labels included."""
    if isinstance(selector, tuple):
        key, operator, values = selector
        requirement = {"key": key, "operator": operator, "values": list(values)}
        spec = storageformat(spec__selector={"matchExpressions": [requirement]})
        made = StorageFormat.from_object(spec).spec.selector
    else:
        made = LabelSelector(**selector)
    assert matches(made, labels) is expected


def test_a_resource_version_is_a_number() -> None:
    """What is none is older than everything."""
    assert cache_module.as_version("17") == 17
    assert cache_module.as_version("") == 0
