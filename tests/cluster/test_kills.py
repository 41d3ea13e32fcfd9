"""Whatever dies in the middle of a rollout: nothing that was acknowledged is lost, and the rollout finishes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import processes
from tests.cluster.operator import Operator
from tests.cluster.processes import (
    GATE,
    MANY,
    SIDECAR,
    caught,
    standing,
    starts_without_api,
    without_api,
)
from tests.cluster.shop import Shop, chronicled, eventually, writing

NEW = "sqlitedict(hierarchical msgpack zstd)"
OLD = "sqlitedict(natural pickle)"
OUTAGE_SECONDS = 60.0


def _all_converted(shop: Shop, seeded: int) -> None:
    """Everything is in the new format, complete, and no trace of a conversion is left on a volume."""
    for ordinal in range(shop.replicas):
        found = shop.summary(ordinal)
        assert found["format"] == NEW
        assert found["count"] >= seeded + len(shop.orders_in(ordinal, f"/writer/{ordinal}/"))
        assert processes.pending(shop, ordinal) == []
    status = shop.status()
    assert (status["converted"], status["failed"]) == (shop.replicas, 0)


def test_the_sidecar_is_killed(shop: Shop) -> None:
    """Its worker, and its whole container, while the app runs and in mid-conversion.

    A worker's death changes nothing about an app that runs. A container's makes the pod unready until it is
    started again (Kubernetes counts native sidecars); the app itself goes on. In mid-conversion, what was half
    done is discarded, and done again.
    """
    shop.replicas = 1
    shop.open(seed=MANY)
    with writing(shop) as (writer,):
        eventually(lambda: processes.in_service(shop, 0), "it is in its Service")
        before, failures = standing(shop, 0), writer.failures
        first = processes.worker(shop, 0)
        assert first is not None
        os.kill(first, 9)
        second = processes.another_worker(shop, 0, first)
        assert standing(shop, 0) == before
        processes.kill(shop, 0, SIDECAR)
        processes.another_worker(shop, 0, second)
        eventually(lambda: processes.restarts(shop.pod(0), SIDECAR) == 1, "it was restarted")
        shop.all_ready()
        eventually(lambda: processes.in_service(shop, 0), "it is in its Service")
        written = len(writer.acknowledged)
        eventually(lambda: len(writer.acknowledged) > written, "the app writes")
        assert writer.failures == failures
        assert standing(shop, 0).uid == before.uid
        assert processes.restarts(shop.pod(0), "app") == 0

        shop.apply(shop.storage_format())
        with caught(shop, 0) as one:
            one.kill()
        with caught(shop, 0, after=one) as another:
            processes.kill(shop, 0, SIDECAR)
        assert another.worker != one.worker
        shop.wait_until_ready()
        pod = shop.pod(0)
        assert processes.restarts(pod, SIDECAR) == 1
        assert processes.restarts(pod, GATE) == 0
    _all_converted(shop, MANY)
    assert processes.history(shop, 0) == [
        ("recovery", "discarded"),
        ("recovery", "discarded"),
        ("conversion", "succeeded"),
    ]


def test_the_pod_is_killed_and_the_kubelet_goes_away(shop: Shop) -> None:
    """Deleted with grace 0 in mid-conversion, and then without a kubelet for as long as the conversion takes."""
    shop.replicas = 1
    shop.open(seed=MANY)
    cluster = shop.cluster
    before = shop.uid(0)
    with writing(shop) as (writer,):
        # While it is away: the app runs on, and the eviction waits.
        cluster.stop_kubelet()
        try:
            shop.apply(shop.storage_format())
            eventually(lambda: _is_leaving(shop), "the controller has evicted it")
            written = len(writer.acknowledged)
            eventually(lambda: len(writer.acknowledged) > written, "the app writes")
            assert shop.uid(0) == before
        finally:
            cluster.start_kubelet()
        with caught(shop, 0) as one:
            deleted = shop.uid(0)
            assert deleted != before
            cluster.delete_pod(shop.namespace, "orders-0", grace_seconds=0)
            eventually(lambda: shop.uid(0) not in {"", deleted}, "there is another pod")
            # Without its object the old pod may still stand here: let it go on now, and it converts after all.
            eventually(lambda: one.told_to_end, "the kubelet has told the sidecar to end")
        with caught(shop, 0, after=one):
            last = shop.uid(0)
            cluster.stop_kubelet()
        try:
            # Nobody starts the app now, but the conversion ends.
            shop.wait_for_phase(0, "Converted")
            assert not shop.app_started(0)
        finally:
            cluster.start_kubelet()
        shop.wait_until_ready()
        assert shop.uid(0) == last
    _all_converted(shop, MANY)
    assert processes.history(shop, 0)[-1] == ("conversion", "succeeded")


def _is_leaving(shop: Shop) -> bool:
    return "deletionTimestamp" in (shop.pod(0) or {}).get("metadata", {})


def test_the_api_server_is_away_for_a_minute(shop: Shop) -> None:
    """Pods that start meanwhile start their apps: converted where a permit lies on the volume, else as they were."""
    shop.replicas = 2
    # Nobody may be evicted: orders-1 stays armed until the API server goes.
    shop.disruption_budget(min_available=2)
    shop.open(seed=500)
    cluster = shop.cluster
    before = [shop.uid(ordinal) for ordinal in range(2)]
    with writing(shop):
        shop.apply(shop.storage_format())
        shop.wait_for_rollout("WaitingForDisruptionBudget")
        assert shop.state(1)["phase"] == "Armed"
        with without_api(cluster):
            gone = time.monotonic()
            for ordinal in range(2):
                processes.restart_sandbox(shop, ordinal)
            assert starts_without_api(shop, 1) == NEW
            assert starts_without_api(shop, 0) == OLD
            while time.monotonic() < gone + OUTAGE_SECONDS:
                assert starts_without_api(shop, 1) == NEW
                time.sleep(1)
        shop.wait_for_phase(1, "Converted")
        shop.cluster.client.delete(shop.path("apis/policy/v1", "poddisruptionbudgets", "orders"))
        shop.wait_until_ready()
    # Who had converted without the API was not restarted again.
    assert shop.uid(1) == before[1]
    assert shop.uid(0) != before[0]
    _all_converted(shop, 500)


@pytest.fixture
def quick_lease(operator: Operator) -> Iterator[Operator]:
    """The operator, whose successor does not wait long for the Lease of one that was killed."""
    operator.install("--set", "extraArgs={--lease-seconds=3}")
    yield operator
    operator.install()


def test_the_controller_is_killed_at_each_step(shop: Shop, quick_lease: Operator) -> None:
    """Permit given, pod evicted, converting, converted, the next permit: its successor goes on from there."""
    shop.replicas = 2
    shop.open(seed=100)
    steps: list[tuple[str, Callable[[], bool]]] = [
        ("a permit is given", lambda: shop.permit(1) is not None),
        ("it is evicted", lambda: shop.uid(1) != before[1]),
        ("it is converted", lambda: shop.state(1).get("phase") == "Converted"),
        ("the next one is evicted", lambda: shop.uid(0) != before[0]),
        ("all are converted", lambda: shop.state(0).get("phase") == "Converted"),
    ]
    before = [shop.uid(ordinal) for ordinal in range(2)]
    with writing(shop), chronicled(shop) as seen:
        shop.apply(shop.storage_format())
        for text, reached in steps:
            leader = quick_lease.leader()
            eventually(reached, text)
            quick_lease.kill_leader(leader)
        shop.wait_until_ready()
    assert seen.most_out == 1
    assert seen.order == ["orders-1", "orders-0"]
    _all_converted(shop, 100)
