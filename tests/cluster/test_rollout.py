"""The main job on a real cluster: apply a StorageFormat, and the pods convert one after the other."""

from __future__ import annotations

from tests.cluster.shop import Shop, chronicled, eventually, writing


def test_three_pods_convert_in_turn_while_an_app_writes(shop: Shop) -> None:
    """Never two at once, each restarted once, from the highest ordinal; nothing that was acknowledged is lost."""
    shop.open(seed=200)
    with writing(shop) as writers, chronicled(shop) as seen:
        shop.apply(shop.storage_format())
        shop.wait_until_ready()
        written = [len(one.acknowledged) for one in writers]
        # The app goes on in the new format.
        eventually(
            lambda: all(
                len(one.acknowledged) > before for one, before in zip(writers, written, strict=True)
            ),
            "everybody writes again",
        )
    assert seen.most_out == 1
    assert seen.converting_together <= 1  # a small one is done between two looks
    assert seen.order == ["orders-2", "orders-1", "orders-0"]
    assert {name: len(uids) for name, uids in seen.uids.items()} == {
        "orders-0": 2,
        "orders-1": 2,
        "orders-2": 2,
    }
    for ordinal in range(3):
        assert shop.summary(ordinal)["format"] == "sqlitedict(hierarchical msgpack zstd)"
    status = shop.status()
    assert (status["pods"], status["converted"], status["failed"]) == (3, 3, 0)
    assert shop.condition("SafeToDropOldFormat")["status"] == "True"


def test_there_and_back(shop: Shop) -> None:
    """Going back is setting the target to the old format: the same records, in the same format as before."""
    shop.replicas = 2
    shop.open(seed=100)
    before = [shop.summary(ordinal) for ordinal in range(2)]
    shop.apply(shop.storage_format())
    shop.wait_until_ready()
    there = [shop.summary(ordinal) for ordinal in range(2)]
    shop.patch({"target": "v1"})
    shop.wait_until_ready()
    back = [shop.summary(ordinal) for ordinal in range(2)]
    assert [one["digest"] for one in there] == [one["digest"] for one in before]
    assert back == before


def test_the_target_changes_in_the_middle(shop: Shop) -> None:
    """One pod is in the new format already, another is on its way: all of them end where the spec says now."""
    shop.open(seed=100)
    shop.apply(shop.storage_format())
    shop.wait_for_phase(2, "Converted")
    shop.patch({"target": "v1"})
    shop.wait_until_ready()
    formats = {shop.summary(ordinal)["format"] for ordinal in range(3)}
    assert formats == {"sqlitedict(natural pickle)"}
    assert shop.status()["persistedFormats"] == [{"name": "v1", "count": 3}]


def test_scaled_up_and_down_in_the_middle(shop: Shop) -> None:
    """A new replica starts in the target at once; one that is scaled away is still counted by its volume."""
    shop.replicas = 2
    for ordinal in range(3):
        shop.volume(ordinal)
    shop.open(seed=100)
    shop.apply(shop.storage_format())
    shop.wait_for_phase(1, "Converting", "Converted")
    shop.change(lambda body: body["spec"].update(replicas=3))
    shop.replicas = 3
    shop.wait_until_ready()
    shop.change(lambda body: body["spec"].update(replicas=1))
    shop.replicas = 1
    eventually(lambda: set(shop.pods()) == {"orders-0"}, "two are scaled away")
    eventually(
        lambda: sum(one["count"] for one in shop.status()["persistedFormats"]) == 3,
        "their volumes are still counted",
    )
    eventually(lambda: shop.status()["pods"] == 1, "one pod is left")
