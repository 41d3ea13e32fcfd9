"""Who may convert, who is restarted, and what everybody else waits for. Pure.

    who may convert          the pods at the head of the order (highest ordinal first), as many as may be out;
                             before them those that convert already or that cannot start otherwise
    who is held back         by `suspended`, `partition`, the canaries' soak, the failure budget, skew, or a
                             workload that cannot be restarted safely
    who is evicted           of those that may convert: the armed ones, while fewer pods than `maxUnavailable` are
                             out and the workload's own rollout is over

**Permits never wait for readiness, evictions do.** Otherwise a StatefulSet waits for its pod, the pod for a permit,
and the controller for the StatefulSet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from format_operator.api.models import Gate, OnAppRollback, Phase, Strategy
from format_operator.controller import standing
from format_operator.controller.facts import Kind, Pod, Snapshot
from format_operator.controller.standing import Placed, Standing

#: How long an app runs that was started because its database stayed in use, before the next attempt.
_AGAIN_SECONDS: Final = 600.0


class RolloutPhase(StrEnum):
    """``status.rollout.phase``."""

    NO_PODS = "NoPods"
    COMPLETE = "Complete"
    CONVERTING = "Converting"
    RESTARTING = "Restarting"
    ARMING = "Arming"
    WAITING_FOR_PODS = "WaitingForPods"
    WAITING_FOR_WORKLOAD = "WaitingForWorkload"
    WAITING_FOR_BUDGET = "WaitingForDisruptionBudget"
    WAITING_FOR_RESTART = "WaitingForRestart"
    SOAKING = "Soaking"
    PARTITIONED = "Partitioned"
    SUSPENDED = "Suspended"
    BLOCKED = "Blocked"
    STOPPED = "Stopped"


@dataclass(frozen=True)
class Eviction:
    """Evict that pod, with its UID as precondition."""

    pod: Pod
    reason: str
    message: str


class Plan:
    """One look at one snapshot: who is next, who may be evicted, and what everybody waits for."""

    def __init__(
        self, snapshot: Snapshot, placed: Sequence[Placed], *, enough_seconds: float
    ) -> None:
        spec = snapshot.storageformat.spec
        self._snapshot = snapshot
        self._rollout = spec.rollout
        self._target = spec.target
        self._target_hash = spec.target_hash()
        self._follows = spec.on_app_rollback is OnAppRollback.CONVERT_BACK
        self._placed = placed
        self._enough = snapshot.now + timedelta(seconds=enough_seconds)
        self.wake_in: float | None = None
        # What is scaled away must not stop those that its StatefulSet waits for before it deletes it.
        self._staying = [one for one in placed if not _scaled_away(one)]
        self.failures = tuple(one for one in self._staying if one.standing is Standing.FAILED)
        self.budget_spent = len(self.failures) > self._rollout.failure_budget
        self.blocked = self._blocked()
        # Ordinals below the partition are left as they are, whatever they report.
        self._ours = [
            one
            for one in self._staying
            if one.standing is not Standing.UNSERVED
            and not 0 <= one.pod.ordinal < self._rollout.partition
        ]
        # A converted pod that somebody restarts needs no permit, and takes nobody else's.
        self._queue = [
            one
            for one in self._ours
            if one.needs_conversion and not one.was_converted(self._target_hash)
        ]
        self._soaking: Placed | None = None
        self._waits_for_canaries = self._canaries_first()

    # --- who may convert ----------------------------------------------------------------------------------

    def holders(self) -> list[Placed]:
        """Who may convert now, and so holds a permit."""
        if (
            self._rollout.suspended
            or self._rollout.strategy is Strategy.ON_RESTART
            or self.blocked is not None
        ):
            return []
        # A pod that failed tries again with the permit that it had: it is counted already.
        again = [one for one in self._ours if one.standing is Standing.FAILED]
        if self.budget_spent:
            return again
        converting = [one for one in self._queue if one.standing is Standing.CONVERTING]
        stuck = [one for one in self._queue if one.stuck]
        whenever = [
            one for one in self._next if standing.restarts_by_itself(self._snapshot, one.workload)
        ]
        first = _distinct([*converting, *stuck, *self._next])[: self._rollout.max_unavailable]
        return [
            one
            for one in _distinct([*first, *whenever, *again])
            if one.standing is not Standing.SKEWED
        ]

    @property
    def _next(self) -> list[Placed]:
        if self._waits_for_canaries is None:
            return self._queue
        canaries = {id(one) for one in self._waits_for_canaries}
        return [one for one in self._queue if id(one) in canaries]

    def _canaries_first(self) -> list[Placed] | None:
        """The canaries while the others have to wait for them; None: nobody waits."""
        canary = self._rollout.canary
        if canary is None:
            return None
        canaries = self._ours[: canary.pods]
        if any(one.standing is not Standing.CONVERTED or one.out for one in canaries):
            return canaries
        now = self._snapshot.now
        left = {
            one.pod.name: canary.soak_for - _seconds_since(one.pod.ready_since, now)
            for one in canaries
        }
        longest = max(canaries, key=lambda one: left[one.pod.name], default=None)
        if longest is None or left[longest.pod.name] <= 0 or not self._queue:
            return None
        self._soaking, self.wake_in = longest, left[longest.pod.name]
        return canaries

    def _blocked(self) -> tuple[str, str] | None:
        """Why no pod at all is touched."""
        # Not those of pods that the selector happens to match and that have no sidecar.
        workloads = {
            id(one.workload): one.workload for one in self._placed if one.workload and one.served
        }
        for workload in workloads.values():
            if (why := standing.unsupported(workload)) is not None:
                return why
            if workload.reads is not None and self._target not in workload.reads:
                reads = ", ".join(sorted(workload.reads))
                message = (
                    f"{workload}'s template reads {reads}, the target is {self._target}: release an app that "
                    "reads both first, or set the target back; "
                    + (
                        "databases that it cannot read follow it"
                        if self._follows
                        else "no pod was touched"
                    )
                )
                return "SkewBlocked", message
        return None

    # --- who is evicted -----------------------------------------------------------------------------------

    def evictions(
        self, holders: Sequence[Placed]
    ) -> tuple[tuple[Eviction, ...], RolloutPhase, str]:
        """Who is evicted now; and the rollout's phase, with what it waits for."""
        healing = self._old_revisions(holders)
        told = self._without_evictions()
        if told is not None:
            return healing, *told
        evicted: list[Eviction] = []
        waiting: tuple[RolloutPhase, str] | None = None
        out = {id(one) for one in self._placed if one.out}
        for one in holders:
            if not one.needs_conversion:
                continue
            reason = self._evictable(one, len(out - {id(one)}))
            if reason is not None:
                waiting = waiting or reason
                continue
            out.add(id(one))
            evicted.append(
                Eviction(one.pod, "Evicted", f"restarted to convert its database to {self._target}")
            )
        if evicted:
            names = ", ".join(one.pod.name for one in evicted)
            return (*healing, *evicted), RolloutPhase.RESTARTING, f"restarting {names}"
        if waiting is None:
            waiting = self._idle()
        return healing, *waiting

    def _without_evictions(self) -> tuple[RolloutPhase, str] | None:
        """The cases in which nothing is restarted, whoever is armed."""
        if not self._staying:
            return RolloutPhase.NO_PODS, "no pod matches the selector"
        if self.blocked is not None and self._remaining():
            return RolloutPhase.BLOCKED, self.blocked[1]
        if not self._remaining() and not self.failures:
            return RolloutPhase.COMPLETE, f"every database is in {self._target}"
        if self._rollout.suspended:
            return RolloutPhase.SUSPENDED, "spec.rollout.suspended is true"
        if self.budget_spent:
            first = self.failures[0]
            message = (
                f"{len(self.failures)} failed, {self._rollout.failure_budget} may: "
                f"pod {first.pod.name}: {first.reason}: {first.why}"
            )
            return RolloutPhase.STOPPED, message
        return None

    def _evictable(self, one: Placed, out: int) -> tuple[RolloutPhase, str] | None:
        """None: evict. Otherwise what its eviction waits for."""
        pod, snapshot = one.pod, self._snapshot
        name = pod.name
        if one.standing is Standing.CONVERTING:
            return RolloutPhase.CONVERTING, f"pod {name} is converting"
        if pod.missing or pod.deleting or pod.uid in snapshot.evicted:
            return RolloutPhase.RESTARTING, f"pod {name} is restarting"
        if standing.restarts_by_itself(snapshot, one.workload):
            return RolloutPhase.WAITING_FOR_RESTART, f"pod {name} converts when it is restarted"
        if (why := standing.not_ours_to_evict(one)) is not None:
            return (
                RolloutPhase.WAITING_FOR_RESTART,
                f"pod {name} is not restarted: {why}; it converts when somebody else restarts it",
            )
        if pod.gate_held:
            return RolloutPhase.CONVERTING, f"pod {name} starts"
        if (left := self._until_again(one)) > 0:
            self._wake(left)
            reason = one.report.reason if one.report is not None else ""
            message = f"pod {name} started without its conversion ({reason}) and is restarted again in a while"
            return RolloutPhase.WAITING_FOR_RESTART, message
        if not self._armed(one):
            return RolloutPhase.ARMING, f"pod {name} has not stored its permit yet"
        if one.workload is not None and not one.workload.settled:
            return RolloutPhase.WAITING_FOR_WORKLOAD, f"{one.workload} rolls out its own change"
        if out >= self._rollout.max_unavailable:
            return RolloutPhase.WAITING_FOR_PODS, self._who_is_out(one)
        if self._is_refused(pod):
            return RolloutPhase.WAITING_FOR_BUDGET, f"pod {name}: {snapshot.refused[pod.uid][1]}"
        return None

    def _until_again(self, one: Placed) -> float:
        """Seconds until a running pod that gave up on its conversion is restarted for it once more.

        Under StartApp the app starts when the database stays in use; it would be restarted without end.
        """
        report = one.report
        if report is None or report.phase is not Phase.WAITING or report.gate is not Gate.OPEN:
            return 0.0
        return _AGAIN_SECONDS - _seconds_since(one.pod.ready_since, self._snapshot.now)

    def _armed(self, one: Placed) -> bool:
        report, state = one.report, one.state
        target_hash = self._target_hash
        if report is None or state is None or report.armed_for != target_hash:
            return False
        return state.permit is not None and state.permit.allows(target_hash, self._enough)

    def _old_revisions(self, holders: Sequence[Placed]) -> tuple[Eviction, ...]:
        if self._rollout.suspended:
            return ()
        held = {id(one) for one in holders if one.stuck}
        return tuple(
            Eviction(
                one.pod,
                "Replaced",
                f"held at its gate in a revision that {one.workload} has replaced: {one.reason}",
            )
            for one in self._placed
            if standing.held_by_old_revision(one)
            and standing.not_ours_to_evict(one) is None
            and id(one) not in held
            and not one.pod.deleting
            and one.pod.uid not in self._snapshot.evicted
            and not self._is_refused(one.pod)
        )

    def _is_refused(self, pod: Pod) -> bool:
        """Whether a PodDisruptionBudget said not yet; then it is asked again when it said to."""
        refused = self._snapshot.refused.get(pod.uid)
        if refused is None or refused[0] <= self._snapshot.now:
            return False
        self._wake((refused[0] - self._snapshot.now).total_seconds())
        return True

    def _who_is_out(self, but: Placed) -> str:
        names = [one.pod.name for one in self._placed if one.out and one is not but]
        return f"pod {but.pod.name} waits until others are ready: {', '.join(names)}"

    def _idle(self) -> tuple[RolloutPhase, str]:
        """Nobody may convert now: why."""
        if self._soaking is not None:
            return (
                RolloutPhase.SOAKING,
                f"canary {self._soaking.pod.name} is watched for {self.wake_in:.0f} s more",
            )
        for one in self._queue:
            if one.standing is Standing.SKEWED:
                return self._skewed(one)
        remaining = [one for one in self._ours if one.needs_conversion]
        for one in remaining:
            if one.out:
                return RolloutPhase.WAITING_FOR_PODS, f"pod {one.pod.name} is not ready"
        if self._rollout.strategy is Strategy.ON_RESTART and self._queue:
            return (
                RolloutPhase.WAITING_FOR_RESTART,
                f"{len(self._queue)} convert when they are restarted",
            )
        if self.failures:
            first = self.failures[0]
            return (
                RolloutPhase.CONVERTING,
                f"pod {first.pod.name} failed and tries again: {first.reason}",
            )
        if self._waits_for_canaries is not None:
            late = [one for one in self._waits_for_canaries if one.out or one.needs_conversion]
            names = ", ".join(one.pod.name for one in late)
            return RolloutPhase.WAITING_FOR_PODS, f"canaries are not ready: {names}"
        for one in remaining:
            return RolloutPhase.WAITING_FOR_PODS, f"pod {one.pod.name}: {one.why}"
        if any(one.needs_conversion for one in self._staying):
            return (
                RolloutPhase.PARTITIONED,
                f"ordinals below {self._rollout.partition} are left as they are",
            )
        one = next(one for one in self._staying if one.standing is Standing.UNSERVED)
        return RolloutPhase.BLOCKED, f"pod {one.pod.name} {one.why}"

    def _skewed(self, one: Placed) -> tuple[RolloutPhase, str]:
        if one.workload is not None and not one.workload.settled:
            # Its template reads the target, or no pod at all would be touched.
            why = f"{one.workload} has yet to replace pod {one.pod.name}: {one.why}"
            return RolloutPhase.WAITING_FOR_WORKLOAD, why
        return RolloutPhase.BLOCKED, f"pod {one.pod.name}: {one.why}"

    def _remaining(self) -> bool:
        return any(
            one.needs_conversion or one.standing is Standing.UNSERVED for one in self._staying
        )

    def _wake(self, seconds: float) -> None:
        self.wake_in = seconds if self.wake_in is None else min(self.wake_in, seconds)


def _scaled_away(placed: Placed) -> bool:
    """Whether its StatefulSet is about to delete it: there is nothing to convert it for."""
    pod, workload = placed.pod, placed.workload
    return (
        workload is not None
        and workload.kind is Kind.STATEFUL_SET
        and not workload.first <= pod.ordinal < workload.first + workload.desired
    )


def _seconds_since(moment: datetime | None, now: datetime) -> float:
    return (now - moment).total_seconds() if moment is not None else 0.0


def _distinct(placed: Sequence[Placed]) -> list[Placed]:
    return list({id(one): one for one in placed}.values())
