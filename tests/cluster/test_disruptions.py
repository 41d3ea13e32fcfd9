"""What people do to a rollout: drains and budgets are heard, pauses, partitions and canaries are kept."""

from __future__ import annotations

import subprocess
from datetime import datetime
from hashlib import sha256

from controlplane import find_kubectl
from tests.cluster import processes
from tests.cluster.processes import MANY, caught
from tests.cluster.shop import Shop, chronicled, eventually, writing

NEW = "sqlitedict(hierarchical msgpack zstd)"
OLD = "sqlitedict(natural pickle)"


def _formats(shop: Shop) -> list[str]:
    return [str(shop.summary(ordinal)["format"]) for ordinal in range(shop.replicas)]


def test_drained_in_mid_conversion(shop: Shop) -> None:
    """The conversion is aborted and leaves the database as it was; that is no failure. Back again, it converts."""
    shop.replicas = 1
    shop.open(seed=MANY)
    before = shop.summary(0)
    shop.apply(shop.storage_format())
    with caught(shop, 0) as one:
        uid = shop.uid(0)
        database = shop.volumes[0].path / "orders.db"
        content = sha256(database.read_bytes()).hexdigest()
        command = ("drain", "node", "--pod-selector=app=orders", "--delete-emptydir-data")
        drain = _begin(shop, *command)
        # The worker hears of its end when it goes on: that is long before the grace period is over.
        eventually(lambda: one.told_to_end, "the kubelet has told the sidecar to end")
    try:
        assert drain.wait(timeout=60) == 0
        eventually(lambda: shop.uid(0) not in {"", uid}, "there is a pod that waits for a node")
        assert sha256(database.read_bytes()).hexdigest() == content
        assert processes.pending(shop, 0) == []
        assert processes.history(shop, 0) == [("conversion", "aborted")]
        status = shop.status()
        assert status["failed"] == 0
        assert shop.condition("Degraded")["status"] == "False"
        assert not shop.app_started(0)
    finally:
        shop.cluster.kubectl("uncordon", "node")
    shop.wait_until_ready()
    assert shop.summary(0) == {**before, "format": NEW}
    assert processes.history(shop, 0) == [("conversion", "aborted"), ("conversion", "succeeded")]


def _begin(shop: Shop, *words: str) -> subprocess.Popen[bytes]:
    """Start kubectl; it goes on by itself."""
    return subprocess.Popen(
        [str(find_kubectl()), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=shop.cluster.environment(),
    )


def test_a_disruption_budget_is_heard(shop: Shop) -> None:
    """The rollout waits for as long as a PodDisruptionBudget forbids the eviction, says so, and then goes on."""
    shop.replicas = 2
    shop.disruption_budget(min_available=2)
    shop.open(seed=100)
    uids = [shop.uid(ordinal) for ordinal in range(2)]
    with writing(shop), chronicled(shop) as seen:
        shop.apply(shop.storage_format())
        rollout = shop.wait_for_rollout("WaitingForDisruptionBudget")
        assert "orders-1" in rollout["message"]
        assert "The disruption budget orders needs 2 healthy pods" in rollout["message"]
        assert shop.state(1)["phase"] == "Armed"
        assert shop.condition("Ready")["reason"] == "Converting"
        assert [shop.uid(ordinal) for ordinal in range(2)] == uids
        budget = shop.path("apis/policy/v1", "poddisruptionbudgets", "orders")
        shop.cluster.client.patch(budget, {"spec": {"minAvailable": 1}})
        shop.wait_until_ready()
    assert seen.most_out == 1
    assert _formats(shop) == [NEW, NEW]


def test_paused_in_mid_conversion(shop: Shop) -> None:
    """What is under way is finished, nobody else is touched; resumed, the rollout goes on."""
    shop.replicas = 2
    shop.open(seed=MANY)
    before = [shop.summary(ordinal) for ordinal in range(2)]
    uid = shop.uid(0)
    shop.apply(shop.storage_format())
    with caught(shop, 1):
        shop.patch({"rollout": {"suspended": True}})
        shop.wait_for_rollout("Suspended")
    shop.wait_for_phase(1, "Converted")
    shop.all_ready()
    assert shop.summary(1) == {**before[1], "format": NEW}
    eventually(lambda: shop.status()["converted"] == 1, "one is done")
    assert shop.condition("Ready")["reason"] == "Suspended"
    assert shop.permit(0) is None
    assert shop.uid(0) == uid
    assert shop.summary(0) == before[0]
    shop.patch({"rollout": {"suspended": False}})
    shop.wait_until_ready()
    assert [shop.summary(ordinal) for ordinal in range(2)] == [
        {**one, "format": NEW} for one in before
    ]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_canary_and_partition(shop: Shop) -> None:
    """The canary goes alone and is watched; then the others follow, down to the partition, and later the rest."""
    soak = 8
    shop.open(seed=100)
    uid = shop.uid(0)
    with writing(shop), chronicled(shop) as seen:
        shop.apply(
            shop.storage_format(
                spec__rollout={"canary": {"pods": 1, "soakFor": f"{soak}s"}, "partition": 1}
            )
        )
        rollout = shop.wait_for_rollout("Soaking")
        assert "orders-2" in rollout["message"]
        ready_at = _moment(processes.standing(shop, 2).ready_since)
        shop.wait_for_rollout("Partitioned")
        made_at = _moment((shop.pod(1) or {})["metadata"]["creationTimestamp"])
        assert (made_at - ready_at).total_seconds() >= soak - 1  # both are whole seconds
        assert shop.condition("Ready")["reason"] == "PartitionHeld"
        assert shop.permit(0) is None
        assert shop.uid(0) == uid
        assert _formats(shop) == [OLD, NEW, NEW]
        shop.patch({"rollout": {"partition": 0}})
        shop.wait_until_ready()
    assert seen.order == ["orders-2", "orders-1", "orders-0"]
    assert seen.most_out == 1
    assert _formats(shop) == [NEW, NEW, NEW]
