"""Whatever happens, in whatever order: no decision breaks a law, and once the faults stop the rollout finishes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from format_operator.sidecar.observed import FailureKind
from tests.controller import laws
from tests.controller.model import EVERYTHING, ModelPod, Watch, World

#: No pod needs more than this; a soak, a failed attempt and every wait of the sidecar are in it.
TURNS_PER_POD = 25
ORDINALS = st.integers(0, 4)
CANARIES = st.sampled_from([None, None, {"pods": 1, "soakFor": "1m"}, {"pods": 2, "soakFor": "1m"}])
READS = st.sampled_from(
    [None, EVERYTHING, frozenset({"v1"}), frozenset({"v2"}), frozenset({"v1", "v2"})]
)
FAULTS = st.sampled_from([FailureKind.TRY_AGAIN, FailureKind.REFUSED, FailureKind.FAILED])


class Rollout(RuleBasedStateMachine):
    """The cluster of ``model.py``; each rule lets one thing happen, each decision is judged by ``laws.py``."""

    world: World

    @initialize(
        replicas=st.integers(1, 4),
        parallel=st.booleans(),
        most=st.integers(1, 2),
        budget=st.sampled_from([0, 0, 1, 2]),
        canary=CANARIES,
        on_failure=st.sampled_from(["Block", "Block", "StartApp"]),
        on_app_rollback=st.sampled_from(["Block", "ConvertBack"]),
        reads=READS,
    )
    def begin(
        self,
        replicas: int,
        parallel: bool,
        most: int,
        budget: int,
        canary: dict[str, Any] | None,
        on_failure: str,
        on_app_rollback: str,
        reads: frozenset[str] | None,
    ) -> None:
        rollout: dict[str, Any] = {"maxUnavailable": most, "failureBudget": budget}
        if canary is not None:
            rollout["canary"] = canary
        self.world = World(replicas, parallel=parallel, **rollout)
        self.world.on_failure = on_failure
        self.world.on_app_rollback = on_app_rollback
        self.world.set.templates = [reads]
        for pod in self.world.pods.values():
            pod.reads = reads
            if reads == frozenset({"v2"}):
                self.world.volumes[pod.ordinal].format = "v2"
        self.world.publish()
        self.world.deliver_all()

    # --- the ordinary course of things --------------------------------------------------------------------

    @rule(
        count=st.integers(1, 8),
        seconds=st.sampled_from([5, 15, 40]),
        set_works=st.sampled_from([True, True, False]),
    )
    def goes_on(self, count: int, seconds: int, set_works: bool) -> None:
        for _ in range(count):
            self.world.turn(seconds, set_works=set_works)
            self._judge()

    @rule(seconds=st.sampled_from([1, 11, 31, 61, 1900, 3700]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule()
    def set_syncs(self) -> None:
        self.world.sync_set()

    @rule(ordinal=ORDINALS, steps=st.integers(1, 3))
    def pod_goes_on(self, ordinal: int, steps: int) -> None:
        for _ in range(steps):
            self.world.kubelet(ordinal)
            self.world.sidecar(ordinal)

    @rule(kind=st.sampled_from(Watch.KINDS), count=st.sampled_from([1, 2, None]))
    def watch_delivers(self, kind: str, count: int | None) -> None:
        self.world.watch.deliver(kind, count)

    @rule()
    def controller_decides(self) -> None:
        self.world.control()

    # --- what people ask for ------------------------------------------------------------------------------

    @rule(wanted=st.sampled_from(["v1", "v2", "v3"]))
    def another_target(self, wanted: str) -> None:
        self.world.ask(target=wanted)

    @rule(suspended=st.booleans())
    def suspends(self, suspended: bool) -> None:
        self.world.ask(suspended=suspended)

    @rule(partition=st.integers(0, 3))
    def partitions(self, partition: int) -> None:
        self.world.ask(partition=partition)

    @rule(most=st.integers(1, 2), budget=st.integers(0, 2), canary=CANARIES)
    def another_pace(self, most: int, budget: int, canary: dict[str, Any] | None) -> None:
        self.world.ask(maxUnavailable=most, failureBudget=budget, canary=canary)

    @rule(replicas=st.integers(1, 5))
    def scales(self, replicas: int) -> None:
        self.world.set.replicas = replicas
        self.world.publish()

    @rule(reads=READS)
    def releases(self, reads: frozenset[str] | None) -> None:
        self.world.release(reads)

    @rule()
    def releases_an_app_that_reads_the_target_only(self) -> None:
        self.world.release(frozenset({self.world.target}))

    @rule(strategy=st.sampled_from(["RollingUpdate", "OnDelete"]), partition=st.integers(0, 2))
    def another_update_strategy(self, strategy: str, partition: int) -> None:
        self.world.set.strategy, self.world.set.partition = strategy, partition
        self.world.publish()

    # --- what goes wrong ------------------------------------------------------------------------------------

    @rule(ordinal=ORDINALS, kind=FAULTS)
    def conversion_will_fail(self, ordinal: int, kind: FailureKind) -> None:
        if ordinal in self.world.volumes:
            self.world.volumes[ordinal].next_results.append(kind)

    @rule(ordinal=ORDINALS)
    def pod_is_deleted(self, ordinal: int) -> None:
        self.world.delete_pod(ordinal)

    @rule()
    def all_pods_are_deleted(self) -> None:
        for ordinal in list(self.world.pods):
            self.world.delete_pod(ordinal)

    @rule(ordinal=ORDINALS)
    def pod_is_evicted_by_the_node(self, ordinal: int) -> None:
        if (pod := self._pod(ordinal)) is not None and not pod.converting:
            pod.finished, pod.ready_since, pod.at_gate, pod.running = True, None, False, False
            self.world.publish()

    @rule(ordinal=ORDINALS, healthy=st.booleans())
    def app_falls_ill_or_recovers(self, ordinal: int, healthy: bool) -> None:
        if (pod := self._pod(ordinal)) is not None:
            pod.healthy = healthy

    @rule(ordinal=ORDINALS, away=st.booleans())
    def sidecar_loses_the_api(self, ordinal: int, away: bool) -> None:
        if (pod := self._pod(ordinal)) is not None:
            pod.api_away = away

    @rule(refuses=st.booleans())
    def disruption_budget(self, refuses: bool) -> None:
        self.world.pdb_refuses = refuses

    @rule(effects=st.integers(0, 3))
    def controller_is_killed(self, effects: int) -> None:
        self.world.control(killed_after=effects)

    # --- what holds -----------------------------------------------------------------------------------------

    @invariant()
    @precondition(lambda self: hasattr(self, "world"))
    def laws_hold(self) -> None:
        self._judge()

    def teardown(self) -> None:
        """No fault any more, nothing that the spec holds back: every pod gets there, in a bounded time."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.calm()
        turns = TURNS_PER_POD * max(world.set.replicas, len(world.pods))
        for _ in range(turns):
            world.turn()
            self._judge()
            if world.is_converted() and world.decided_phase == "Complete":
                return
        for turn in world.story[-12:]:
            note(turn)
        raise AssertionError(f"not finished after {turns} turns: {world.story[-1]}")

    def _pod(self, ordinal: int) -> ModelPod | None:
        return self.world.pods.get(ordinal)

    def _judge(self) -> None:
        world = self.world
        for snapshot, decision in world.decided:
            laws.obeyed(snapshot, decision)
            most = snapshot.storageformat.spec.rollout.max_unavailable
            if any(one.reason == "Evicted" for one in decision.evictions):
                assert len(world.out_by_us) <= most, "we restarted too many, whatever was known"
        world.decided.clear()
        for pod, format_name, reads in world.opened:
            assert reads is None or format_name in {*reads, None}, (
                f"{pod} meets {format_name}, which its app cannot read"
            )
        world.opened.clear()


def finish(world: World, most: int = 60) -> int:
    """In how many turns, without a single fault, everything is converted; each decision is judged."""
    for turn in range(most):
        world.turn()
        for snapshot, decision in world.decided:
            laws.obeyed(snapshot, decision)
        world.decided.clear()
        if world.is_converted() and world.decided_phase == "Complete":
            return turn
    raise AssertionError("\n".join(world.story))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("most", [1, 2])
def test_plain_rollout(parallel: bool, most: int) -> None:
    """Each pod is restarted once, and converts while it starts."""
    world = World(4, parallel=parallel, maxUnavailable=most)
    finish(world)
    assert world.evictions == 4


@pytest.mark.parametrize("parallel", [False, True])
def test_cold_start_of_an_app_that_cannot_read_the_old_format(parallel: bool) -> None:
    """Lowest ordinal first, because that is the order in which the StatefulSet starts them: nobody waits for ever."""
    world = World(3, parallel=parallel)
    world.set.templates = [frozenset({"v2"})]
    for ordinal in range(3):
        world.delete_pod(ordinal)
    finish(world)
    assert world.evictions == 0


def test_app_and_target_changed_together() -> None:
    """A release that reads both, and the new target, in one go: never more than one restart for each of the two."""
    world = World(3)
    world.set.templates = [frozenset({"v1"})]
    for pod in world.pods.values():
        pod.reads = frozenset({"v1"})
    world.release(frozenset({"v1", "v2"}))
    finish(world)
    assert world.evictions <= 3


def test_undone_release_is_healed() -> None:
    """kubernetes#67250: a pod held at its gate in a revision that was replaced would never be replaced by itself."""
    world = World(3)
    finish(world)
    world.release(frozenset({"v1"}))
    for _ in range(20):
        world.turn()
    assert not world.is_converted()
    assert "SkewBlocked" in world.story[-1] or "reads v1" in world.story[-1]
    world.release(frozenset({"v1", "v2"}))
    finish(world)


@pytest.mark.parametrize("parallel", [False, True])
def test_databases_follow_an_app_that_is_rolled_back(parallel: bool) -> None:
    """With ``ConvertBack`` every pod comes back on the format that its release reads, one restart each, none of them ours.
    The target stays what it was and is not converted to; a release that reads it goes on."""
    world = World(3, parallel=parallel)
    world.on_app_rollback = "ConvertBack"
    world.release(frozenset({"v1", "v2"}))
    finish(world)
    evicted = world.evictions
    world.release(frozenset({"v1"}))
    for _ in range(40):
        world.turn()
    assert {volume.format for volume in world.volumes.values()} == {"v1"}
    assert all(pod.ready and pod.reads == frozenset({"v1"}) for pod in world.pods.values())
    assert (world.evictions, world.decided_phase) == (evicted, "Blocked")
    world.release(frozenset({"v1", "v2"}))
    finish(world)


def test_deleted_by_others_while_another_converts() -> None:
    """A pod that others delete counts as out: ours wait, and it needs no second restart once it is permitted."""
    world = World(3)
    for _ in range(3):
        world.turn()
    world.delete_pod(0)
    finish(world)


def test_pod_that_its_node_evicted_counts_as_out() -> None:
    """It is still there, as Failed, until its StatefulSet makes it again."""
    world = World(3)
    world.turn()
    world.pods[0].finished, world.pods[0].ready_since = True, None
    world.publish()
    for _ in range(3):
        world.turn(set_works=False)
    assert world.evictions == 0
    finish(world)


def test_failed_pod_stops_the_rollout_and_mended_goes_on() -> None:
    """The other pods are untouched meanwhile; nobody has to touch the StorageFormat afterwards."""
    world = World(3)
    world.volumes[2].next_results.extend([FailureKind.FAILED] * 4)
    for _ in range(15):
        world.turn()
    assert world.decided_phase == "Stopped"
    assert world.evictions == 1
    finish(world)
    assert world.evictions == 3


TestRollout = Rollout.TestCase
TestRollout.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
