"""What must hold of every decision, said without the controller's own words for it: from the bare facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from format_operator.api.models import Gate, Phase, Strategy
from format_operator.api.names import formatstate_name
from format_operator.controller.decide import Decision, decide
from format_operator.controller.facts import Pod, Snapshot, State
from format_operator.controller.plan import Eviction


class Seen:
    """A snapshot of one StatefulSet's pods, read the way a person would read it."""

    def __init__(self, snapshot: Snapshot) -> None:
        spec = snapshot.storageformat.spec
        self.snapshot = snapshot
        self.rollout = spec.rollout
        self.target = spec.target
        self.hash = spec.target_hash()
        (self.workload,) = snapshot.workloads.values()
        self.pods = {pod.name: pod for pod in snapshot.pods if not pod.finished}
        self.staying = sorted(
            (pod for pod in self.pods.values() if pod.ordinal < self.workload.desired),
            key=lambda pod: -pod.ordinal,
        )
        self.ours = [pod for pod in self.staying if pod.ordinal >= self.rollout.partition]
        self.failed = [pod for pod in self.staying if self.is_failed(pod)]
        self.spent = len(self.failed) > self.rollout.failure_budget
        self.unreadable_template = (
            self.workload.reads is not None and self.target not in self.workload.reads
        )

    def report(self, pod: Pod) -> State | None:
        """What this very pod said about the present target."""
        state = self.snapshot.states.get(pod.name)
        if state is None or state.pod_uid != pod.uid or state.target_hash != self.hash:
            return None
        return state

    def is_done(self, pod: Pod) -> bool:
        """Its volume was reported as being in the target, by it or by the pod before it."""
        state = self.snapshot.states.get(pod.name)
        return (
            state is not None and state.phase is Phase.CONVERTED and state.target_hash == self.hash
        )

    def is_skewed(self, pod: Pod) -> bool:
        report = self.report(pod)
        if report is None or self.is_done(pod):
            return False
        return report.reason == "SkewBlocked" or (
            pod.reads is not None and self.target not in pod.reads
        )

    def is_failed(self, pod: Pod) -> bool:
        report = self.report(pod)
        return (
            report is not None
            and report.phase in {Phase.FAILED, Phase.REFUSED}
            and not self.is_skewed(pod)
        )

    def is_converting(self, pod: Pod) -> bool:
        report = self.report(pod)
        return report is not None and report.phase in {Phase.CONVERTING, Phase.RECOVERING}

    def is_stuck(self, pod: Pod) -> bool:
        """It waits at its gate, and its app could not read what is on the volume."""
        report = self.report(pod)
        if report is None or report.phase is not Phase.WAITING or not pod.gate_held:
            return False
        return report.reason.endswith("AndUnreadable") or (
            pod.reads is not None and report.current_format not in pod.reads
        )

    def is_out(self, pod: Pod) -> bool:
        return not pod.ready or pod.deleting or pod.uid in self.snapshot.evicted

    def permitted(self) -> list[Pod | None]:
        """The pods that may convert; None for one that is not there to convert anything."""
        return [
            self.pods.get(state.pod)
            for state in self.snapshot.states.values()
            if state.permit is not None and state.permit.allows(self.hash, self.snapshot.now)
        ]


def applied(snapshot: Snapshot, decision: Decision) -> Snapshot:
    """The same moment, after all writes of the decision."""
    states = dict(snapshot.states)
    for state in decision.deletions:
        del states[state.pod]
    for change in decision.changes:
        states[change.state.pod] = replace(
            change.state, permit=change.permit, claim_uid=change.claim_uid
        )
    evicted = snapshot.evicted | {one.pod.uid for one in decision.evictions}
    return replace(snapshot, states=states, evicted=evicted)


# --- the laws -----------------------------------------------------------------------------------------------


def permits_are_for_the_present_target(_: Seen, after: Seen, __: Decision) -> None:
    now = after.snapshot.now
    for state in after.snapshot.states.values():
        permit = state.permit
        assert permit is None or permit.target_hash == after.hash or permit.expires <= now, state


def permits_respect_what_the_spec_holds_back(before: Seen, after: Seen, _: Decision) -> None:
    """Suspension, OnRestart, partition, scale, skew and the failure budget. Who is done needs none of this."""
    for pod in after.permitted():
        if pod is not None and before.is_done(pod):
            continue
        assert pod is not None, "a permit for no pod"
        assert not before.rollout.suspended
        assert before.rollout.strategy is Strategy.ROLLING_RESTART
        assert not before.unreadable_template
        assert not before.is_skewed(pod)
        assert before.rollout.partition <= pod.ordinal < before.workload.desired
        assert before.is_failed(pod) or not before.spent


def permits_are_few_and_in_order(before: Seen, after: Seen, _: Decision) -> None:
    """At most ``maxUnavailable``, besides those that failed and try again; highest ordinal first, unless stuck."""
    if before.workload.strategy == "OnDelete":
        return  # whoever restarts them decides; they may all convert
    holders = [
        pod
        for pod in after.permitted()
        if pod is not None and not before.is_done(pod) and not before.is_failed(pod)
    ]
    most = before.rollout.max_unavailable
    assert len(holders) <= most
    needy = [pod for pod in before.ours if not before.is_done(pod) and not before.is_failed(pod)]
    for pod in holders:
        if not before.is_stuck(pod) and not before.is_converting(pod):
            assert pod in needy[:most], f"{pod.name} is out of order"


def permits_wait_for_the_canaries(before: Seen, after: Seen, _: Decision) -> None:
    canary = before.rollout.canary
    if canary is None:
        return
    first = before.ours[: canary.pods]
    soaked = all(
        before.is_done(pod)
        and before.report(pod) is not None
        and not before.is_out(pod)
        and pod.ready_since is not None
        and (before.snapshot.now - pod.ready_since).total_seconds() >= canary.soak_for
        for pod in first
    )
    for pod in after.permitted():
        if pod is None or before.is_done(pod) or before.is_failed(pod):
            continue
        if not before.is_stuck(pod) and not before.is_converting(pod):
            assert soaked or pod in first, f"{pod.name} does not wait for the canaries"


def only_armed_pods_of_ours_are_evicted(before: Seen, _: Seen, decision: Decision) -> None:
    snapshot = before.snapshot
    for pod in _evicted(decision, "Evicted"):
        report, state = before.report(pod), snapshot.states.get(pod.name)
        assert report is not None
        assert report.armed_for == before.hash
        assert state is not None
        assert state.permit is not None
        assert state.permit.allows(before.hash, snapshot.now)
        served = pod.serves(snapshot.storageformat.name)
        assert served is not None
        assert served.claim is not None
        assert pod.owner is not None
        assert pod.owner.uid == before.workload.uid
        assert pod in before.ours
        assert not pod.deleting
        assert not pod.gate_held
        assert pod.uid not in snapshot.evicted
        assert before.workload.settled
        assert before.workload.strategy != "OnDelete"
        assert not before.rollout.suspended
        assert not before.spent
        until, _why = snapshot.refused.get(pod.uid, (snapshot.now, ""))
        assert until <= snapshot.now


def evictions_keep_enough_pods(before: Seen, _: Seen, decision: Decision) -> None:
    """With those that are out for whatever reason (and are known to be), never more than ``maxUnavailable``."""
    evicted = {pod.name for pod in _evicted(decision, "Evicted")}
    if evicted:
        wanted = {f"{before.workload.name}-{one}" for one in range(before.workload.desired)}
        out = wanted - before.pods.keys()
        out |= {pod.name for pod in before.pods.values() if before.is_out(pod)}
        assert len(out | evicted) <= before.rollout.max_unavailable


def only_hopeless_pods_of_an_old_revision_are_replaced(
    before: Seen, _: Seen, decision: Decision
) -> None:
    for pod in _evicted(decision, "Replaced"):
        report = before.snapshot.report_of(pod)
        assert report is not None
        assert pod.gate_held
        assert report.gate is Gate.CLOSED
        assert pod.revision != before.workload.update_revision
        assert report.phase in {Phase.FAILED, Phase.REFUSED} or report.reason.endswith(
            "AndUnreadable"
        )
        assert not before.rollout.suspended


def states_of_living_pods_are_kept(before: Seen, _: Seen, decision: Decision) -> None:
    for state in decision.deletions:
        assert state.pod not in before.snapshot.all_pods
        assert state.name == formatstate_name(state.storageformat, state.pod)


def deciding_again_changes_nothing(_: Seen, after: Seen, decision: Decision) -> None:
    """Once all is written there is nothing to write, and nobody to evict that was not given a new permit just now.

    (A sidecar reports for which target it is armed, not until when: a pod that was armed with a permit that ran out,
    and got another, counts as armed.)
    """
    again = decide(after.snapshot)
    assert (again.changes, again.deletions) == ((), ())
    renewed = {change.state.pod for change in decision.changes if change.permit is not None}
    assert {one.pod.name for one in again.evictions} <= renewed


LAWS: tuple[Callable[[Seen, Seen, Decision], None], ...] = (
    permits_are_for_the_present_target,
    permits_respect_what_the_spec_holds_back,
    permits_are_few_and_in_order,
    permits_wait_for_the_canaries,
    only_armed_pods_of_ours_are_evicted,
    evictions_keep_enough_pods,
    only_hopeless_pods_of_an_old_revision_are_replaced,
    states_of_living_pods_are_kept,
    deciding_again_changes_nothing,
)


def obeyed(snapshot: Snapshot, decision: Decision) -> None:
    """Raises AssertionError when the decision breaks one."""
    before, after = Seen(snapshot), Seen(applied(snapshot, decision))
    for law in LAWS:
        law(before, after, decision)


def _evicted(decision: Decision, reason: str) -> list[Pod]:
    found: list[Eviction] = [one for one in decision.evictions if one.reason == reason]
    return [one.pod for one in found]
