"""What the controller does in each situation: who is permitted, who loses a permit, who is evicted, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from format_operator.api.models import Gate, Permit, Phase
from format_operator.controller.decide import Decision, decide
from format_operator.controller.facts import Kind, Owner, Served, Snapshot
from format_operator.controller.plan import RolloutPhase
from format_operator.controller.standing import Standing
from tests.controller.laws import applied
from tests.controller.scenes import (
    FORMER,
    NOW,
    PATH,
    WORKLOAD,
    Scene,
    armed,
    done,
    failed,
    gone,
    old,
    permit,
    running,
    said,
    spec,
    starting,
    stuck,
    waiting,
)

R0, R1, R2 = running(0), running(1), running(2)
S0, S1, S2 = starting(0), starting(1), starting(2)
RESTARTED = running(2, uid="new-2")
CANARY = {"canary": {"pods": 1, "soakFor": "10m"}}
CANARIES = {"canary": {"pods": 2, "soakFor": "10m"}}
FRESH = running(2, ready_since=NOW - timedelta(minutes=4))
ILL = replace(R0, ready=False, ready_since=None)
ROLLING_OUT = replace(WORKLOAD, settled=False, update_revision="rev-2")
READS_NEW = frozenset({"v1", "v2"})
READS_OLD = frozenset({"v1"})
EPHEMERAL = (Served("orders", PATH, None),)

RECREATE = replace(
    WORKLOAD,
    kind=Kind.DEPLOYMENT,
    name="orders",
    uid="deployment-uid",
    desired=1,
    strategy="Recreate",
    update_revision=None,
)
DEPLOYED = running(
    0,
    name="orders-5d9f-abcde",
    owner=Owner("ReplicaSet", "orders-5d9f", "rs-uid"),
    ordinal=-1,
)
RS = {"rs-uid": "deployment-uid"}
DAEMONS = replace(WORKLOAD, kind=Kind.DAEMON_SET, uid="daemon-uid", desired=2)
DAEMON_A, DAEMON_B = (
    running(
        n,
        name=f"orders-{letter}",
        ordinal=-1,
        owner=Owner("DaemonSet", "orders", "daemon-uid"),
    )
    for n, letter in enumerate("ab")
)


@dataclass(frozen=True)
class Case:
    """A situation, and what follows: names of pods, without the workload's where it is a StatefulSet's."""

    id: str
    scene: Scene
    phase: RolloutPhase
    says: str = ""
    permits: str = ""
    withdraws: str = ""
    evicts: str = ""
    wake_in: float | None = None


def case(
    name: str,
    phase: RolloutPhase,
    says: str = "",
    *,
    permits: str = "",
    withdraws: str = "",
    evicts: str = "",
    wake_in: float | None = None,
    **scene: Any,
) -> Case:
    return Case(name, Scene(**scene), phase, says, permits, withdraws, evicts, wake_in)


P = RolloutPhase
CASES = [
    # the order
    case("highest ordinal first", P.ARMING, "orders-2 has not stored", permits="2"),
    case("two at a time", P.ARMING, permits="2 1", rollout={"maxUnavailable": 2}),
    case(
        "armed is evicted",
        P.RESTARTING,
        "restarting orders-2",
        evicts="2",
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "two armed are evicted together",
        P.RESTARTING,
        "restarting orders-2, orders-1",
        evicts="2 1",
        states=[old(R0), armed(R1), armed(R2)],
        rollout={"maxUnavailable": 2},
    ),
    case(
        "ordinals are compared as numbers",
        P.ARMING,
        permits="10",
        pods=[running(one) for one in range(11)],
        workload=replace(WORKLOAD, desired=11),
    ),
    case(
        "the next one when one is done",
        P.ARMING,
        permits="1",
        states=[old(R0), old(R1), done(R2, permit=permit())],
    ),
    case(
        "all done",
        P.COMPLETE,
        "every database is in v2",
        states=[done(R0), done(R1), done(R2)],
    ),
    case(
        "a new replica without a database",
        P.COMPLETE,
        states=[said(R0, Phase.IDLE, "NoDatabase"), done(R1), done(R2)],
    ),
    case("no pods", P.NO_PODS, "no pod matches", pods=[]),
    case(
        "what was reported of the former target counts for nothing",
        P.ARMING,
        permits="2",
        states=[done(one, target_hash=FORMER) for one in (R0, R1, R2)],
    ),
    # partition
    case(
        "partition",
        P.PARTITIONED,
        "ordinals below 2 are left",
        rollout={"partition": 2},
        states=[old(R0), old(R1), done(R2)],
    ),
    case(
        "raised partition takes the permit back",
        P.PARTITIONED,
        withdraws="2",
        rollout={"partition": 3},
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "stuck below the partition stays",
        P.PARTITIONED,
        pods=[S0, R1, R2],
        rollout={"partition": 1},
        states=[stuck(S0), done(R1), done(R2)],
    ),
    # canary
    case(
        "canary first",
        P.ARMING,
        permits="2",
        rollout={**CANARY, "maxUnavailable": 2},
    ),
    case(
        "canary soaks",
        P.SOAKING,
        "canary orders-2 is watched for 360 s more",
        pods=[R0, R1, FRESH],
        rollout=CANARY,
        states=[old(R0), old(R1), done(FRESH)],
        wake_in=360.0,
    ),
    case(
        "others keep no permit during the soak",
        P.SOAKING,
        withdraws="1",
        pods=[R0, R1, FRESH],
        rollout=CANARY,
        states=[old(R0), armed(R1), done(FRESH)],
    ),
    case(
        "canary has soaked",
        P.ARMING,
        permits="1",
        rollout=CANARY,
        states=[old(R0), old(R1), done(R2)],
    ),
    case(
        "canary is not ready",
        P.WAITING_FOR_PODS,
        "canaries are not ready: orders-2",
        pods=[R0, R1, replace(R2, ready=False)],
        rollout=CANARY,
        states=[old(R0), old(R1), done(R2)],
    ),
    case(
        "one canary soaks, the other is not ready",
        P.WAITING_FOR_PODS,
        "canaries are not ready: orders-1",
        pods=[R0, replace(R1, ready=False), FRESH],
        rollout=CANARIES,
        states=[old(R0), done(R1), done(FRESH)],
    ),
    case(
        "canary is ready, but silent as yet",
        P.WAITING_FOR_PODS,
        "canaries are not ready: orders-2",
        pods=[R0, R1, RESTARTED],
        rollout=CANARY,
        states=[old(R0), old(R1), done(R2)],
    ),
    case(
        "canary failed within the budget",
        P.CONVERTING,
        "orders-2 failed and tries again",
        permits="2",
        pods=[R0, R1, S2],
        rollout={**CANARY, "failureBudget": 1},
        states=[old(R0), old(R1), failed(S2)],
    ),
    case(
        "a soak holds nobody back when all are done",
        P.COMPLETE,
        pods=[R0, R1, FRESH],
        rollout=CANARY,
        states=[done(R0), done(R1), done(FRESH)],
    ),
    # the failure budget
    case(
        "budget 0, one failed: it keeps its permit, nobody else gets one",
        P.STOPPED,
        "1 failed, 0 may: pod orders-2: RowNotAsDeclared",
        withdraws="1",
        pods=[R0, R1, S2],
        states=[old(R0), armed(R1), failed(S2, permit=permit())],
    ),
    case(
        "budget 1, one failed: the next may",
        P.ARMING,
        permits="1",
        pods=[R0, R1, S2],
        rollout={"failureBudget": 1},
        states=[old(R0), old(R1), failed(S2, permit=permit())],
    ),
    case(
        "budget 1, one failed and out: nobody is evicted",
        P.WAITING_FOR_PODS,
        "orders-1 waits until others are ready: orders-2",
        pods=[R0, R1, S2],
        rollout={"failureBudget": 1},
        states=[old(R0), armed(R1), failed(S2, permit=permit())],
    ),
    case(
        "aborted and in use do not count",
        P.CONVERTING,
        "orders-2 starts",
        permits="2",
        pods=[R0, R1, S2],
        states=[old(R0), old(R1), waiting(S2, "InUse")],
    ),
    case(
        "in use until the app was started: it is not restarted at once",
        P.WAITING_FOR_RESTART,
        "orders-2 started without its conversion (InUse)",
        pods=[R0, R1, FRESH],
        states=[old(R0), old(R1), waiting(FRESH, "InUse", armed=True)],
        wake_in=360.0,
    ),
    case(
        "in use until the app was started: it is restarted after a while",
        P.RESTARTING,
        evicts="2",
        states=[old(R0), old(R1), waiting(R2, "InUse", armed=True)],
    ),
    case(
        "stuck, but the budget is spent",
        P.STOPPED,
        permits="2",
        pods=[S0, R1, S2],
        states=[stuck(S0), done(R1), failed(S2)],
    ),
    case(
        "a failure beyond the replicas stops nobody",
        P.ARMING,
        permits="2",
        pods=[R0, R1, R2, starting(3)],
        states=[old(R0), old(R1), old(R2), failed(starting(3))],
    ),
    # suspended, OnRestart, OnDelete
    case(
        "suspended withdraws",
        P.SUSPENDED,
        withdraws="2",
        rollout={"suspended": True},
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "OnRestart permits nothing",
        P.WAITING_FOR_RESTART,
        "3 convert when they are restarted",
        withdraws="2",
        rollout={"strategy": "OnRestart"},
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "OnDelete: all are permitted, none is evicted",
        P.WAITING_FOR_RESTART,
        "orders-2 converts when it is restarted",
        permits="1 0",
        workload=replace(WORKLOAD, strategy="OnDelete"),
        states=[old(R0), old(R1), armed(R2)],
    ),
    # workloads
    case(
        "Deployment with Recreate",
        P.RESTARTING,
        evicts="orders-5d9f-abcde",
        pods=[DEPLOYED],
        states=[armed(DEPLOYED)],
        workload=RECREATE,
        owners=RS,
    ),
    case(
        "Deployment with RollingUpdate",
        P.BLOCKED,
        "set spec.strategy.type: Recreate",
        withdraws="orders-5d9f-abcde",
        pods=[DEPLOYED],
        states=[armed(DEPLOYED)],
        workload=replace(RECREATE, strategy="RollingUpdate"),
        owners=RS,
    ),
    case(
        "Deployment with replicas",
        P.BLOCKED,
        "2 replicas on one volume",
        pods=[DEPLOYED],
        workload=replace(RECREATE, desired=2),
        owners=RS,
    ),
    case(
        "a Deployment without our sidecar blocks nobody",
        P.BLOCKED,
        "has no sidecar",
        pods=[replace(DEPLOYED, served=())],
        states=[],
        workload=replace(RECREATE, strategy="RollingUpdate"),
        owners=RS,
    ),
    case(
        "DaemonSet: by name",
        P.ARMING,
        permits="orders-a",
        pods=[DAEMON_B, DAEMON_A],
        workload=DAEMONS,
    ),
    case(
        "DaemonSet: evicted",
        P.RESTARTING,
        evicts="orders-a",
        pods=[DAEMON_A, DAEMON_B],
        states=[armed(DAEMON_A), old(DAEMON_B)],
        workload=DAEMONS,
    ),
    case(
        "the workload's own rollout comes first",
        P.WAITING_FOR_WORKLOAD,
        "StatefulSet orders rolls out its own change",
        workload=ROLLING_OUT,
        states=[old(R0), old(R1), armed(R2)],
    ),
    # skew
    case(
        "template cannot read the target: no pod is touched",
        P.BLOCKED,
        "template reads v1, the target is v2",
        withdraws="2",
        workload=replace(WORKLOAD, reads=READS_OLD),
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "template can, a pod cannot yet",
        P.WAITING_FOR_WORKLOAD,
        "has yet to replace pod orders-2",
        pods=[R0, R1, replace(R2, reads=READS_OLD)],
        workload=replace(ROLLING_OUT, reads=READS_NEW),
        states=[old(R0), old(R1), said(R2, Phase.REFUSED, "SkewBlocked")],
    ),
    case(
        "a pod cannot, and nothing will replace it",
        P.BLOCKED,
        "orders-2: its app reads v1, not v2",
        pods=[R0, R1, replace(R2, reads=READS_OLD)],
        states=[old(R0), old(R1), said(R2, Phase.REFUSED, "SkewBlocked")],
    ),
    # stuck pods
    case(
        "stuck goes ahead of the order",
        P.CONVERTING,
        "orders-0 starts",
        permits="0",
        withdraws="2",
        pods=[S0, R1, R2],
        states=[stuck(S0), old(R1), armed(R2)],
    ),
    case(
        "stuck goes ahead of the soak",
        P.CONVERTING,
        permits="0",
        pods=[S0, R1, FRESH],
        rollout=CANARY,
        states=[stuck(S0), old(R1), done(FRESH)],
    ),
    case(
        "stuck is permitted while the workload rolls out",
        P.CONVERTING,
        permits="2",
        pods=[R0, R1, replace(S2, revision="rev-2")],
        workload=ROLLING_OUT,
        states=[old(R0), old(R1), stuck(S2)],
    ),
    case(
        "known to be stuck before its patience ends",
        P.CONVERTING,
        permits="0",
        pods=[replace(S0, reads=frozenset({"v2"})), R1, R2],
        states=[waiting(S0), old(R1), old(R2)],
    ),
    case(
        "one that can start waits for its turn",
        P.ARMING,
        permits="2",
        pods=[S0, R1, R2],
        states=[waiting(S0), old(R1), old(R2)],
    ),
    case(
        "one that converts comes before all others",
        P.CONVERTING,
        "orders-1 is converting",
        withdraws="2",
        pods=[R0, S1, R2],
        states=[old(R0), said(S1, Phase.CONVERTING, permit=permit()), armed(R2)],
    ),
    # evictions wait
    case(
        "another pod is not ready",
        P.WAITING_FOR_PODS,
        "orders-2 waits until others are ready: orders-0",
        pods=[ILL, R1, R2],
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "it is itself the one that is not ready",
        P.RESTARTING,
        evicts="0",
        pods=[ILL, R1, R2],
        states=[armed(R0), done(R1), done(R2)],
    ),
    case(
        "another pod is missing",
        P.WAITING_FOR_PODS,
        pods=[gone(0), R1, R2],
        states=[old(R1), armed(R2)],
    ),
    case(
        "evicted, and still shown",
        P.RESTARTING,
        "orders-2 is restarting",
        evicted=frozenset({R2.uid}),
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "a disruption budget says not yet",
        P.WAITING_FOR_BUDGET,
        "orders-2: pdb says no",
        refused={R2.uid: (NOW + timedelta(seconds=9), "pdb says no")},
        states=[old(R0), old(R1), armed(R2)],
        wake_in=9.0,
    ),
    case(
        "a disruption budget is asked again",
        P.RESTARTING,
        evicts="2",
        refused={R2.uid: (NOW - timedelta(seconds=1), "pdb says no")},
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "armed with a permit that would run out meanwhile",
        P.ARMING,
        permits="2",
        states=[old(R0), old(R1), armed(R2, permit=permit(200))],
    ),
    case(
        "armed for the former target",
        P.ARMING,
        permits="2",
        states=[old(R0), old(R1), armed(R2, armed_for=FORMER, permit=permit(target_hash=FORMER))],
    ),
    # permits
    case(
        "not renewed before half of its time",
        P.ARMING,
        states=[old(R0), old(R1), old(R2, permit=permit(1801))],
        wake_in=1.0,
    ),
    case(
        "renewed at half of its time",
        P.ARMING,
        permits="2",
        states=[old(R0), old(R1), old(R2, permit=permit(1800))],
        wake_in=1800.0,
    ),
    case(
        "for the former target: withdrawn, whoever holds it",
        P.ARMING,
        permits="2",
        withdraws="1 0",
        states=[
            done(R0, permit=permit(target_hash=FORMER)),
            old(R1, permit=permit(target_hash=FORMER)),
            old(R2),
        ],
    ),
    case(
        "expired: left where it is",
        P.ARMING,
        permits="2",
        states=[old(R0), old(R1, permit=permit(-1)), old(R2)],
    ),
    # between a pod's end and its successor
    case(
        "a missing pod keeps its turn and its permit",
        P.RESTARTING,
        "orders-2 is restarting",
        pods=[R0, R1, gone(2)],
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "a new pod keeps them until it reports",
        P.CONVERTING,
        "orders-2 starts",
        pods=[R0, R1, S2],
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "restarted after the rollout: no write",
        P.WAITING_FOR_PODS,
        "orders-2 is not ready",
        pods=[R0, R1, S2],
        states=[done(R0), done(R1), done(R2, permit=permit())],
    ),
    case(
        "restarted and ready, but silent as yet",
        P.WAITING_FOR_PODS,
        "orders-2: its sidecar has not reported yet",
        pods=[R0, R1, RESTARTED],
        states=[done(R0), done(R1), done(R2, permit=permit())],
    ),
    case(
        "a converted pod that restarts takes nobody's permit",
        P.WAITING_FOR_PODS,
        "orders-1 waits until others are ready: orders-2",
        pods=[R0, R1, S2],
        states=[old(R0), armed(R1), done(R2)],
    ),
    # scaling
    case(
        "scaled up",
        P.ARMING,
        permits="2",
        pods=[R0, R1, R2, running(3)],
        workload=replace(WORKLOAD, desired=4),
        states=[old(R0), old(R1), old(R2), done(running(3))],
    ),
    case(
        "scaled down: what is beyond the replicas is ignored",
        P.ARMING,
        permits="1",
        withdraws="2",
        workload=replace(WORKLOAD, desired=2),
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "scaled down: what is left is done",
        P.COMPLETE,
        workload=replace(WORKLOAD, desired=2),
        states=[done(R0), done(R1), old(R2)],
    ),
    case(
        "scaled to nothing",
        P.NO_PODS,
        pods=[R0],
        workload=replace(WORKLOAD, desired=0),
        states=[old(R0)],
    ),
    case(
        "ordinals that do not begin at 0",
        P.ARMING,
        permits="6",
        withdraws="0",
        pods=[R0, running(5), running(6)],
        workload=replace(WORKLOAD, desired=2, first=5),
        states=[armed(R0), old(running(5)), old(running(6))],
    ),
    # whose pods these are
    case(
        "on no claim: never evicted",
        P.WAITING_FOR_RESTART,
        "would be deleted with the pod",
        pods=[replace(R2, served=EPHEMERAL)],
        states=[armed(R2)],
    ),
    case(
        "nobody would make it again: never evicted",
        P.WAITING_FOR_RESTART,
        "nothing that is known would make it again",
        pods=[replace(R2, owner=None)],
        states=[armed(R2)],
        workload=None,
    ),
    case(
        "its workload is being deleted",
        P.WAITING_FOR_RESTART,
        "is being deleted",
        workload=replace(WORKLOAD, deleting=True),
        states=[old(R0), old(R1), armed(R2)],
    ),
    case(
        "another path",
        P.BLOCKED,
        "its sidecar serves /data/other.db",
        pods=[replace(R2, served=(Served("orders", "/data/other.db", "data-orders-2"),))],
    ),
    case(
        "a path that the sidecar takes for another",
        P.BLOCKED,
        "orders-2 as it says",
        pods=[R2],
        states=[said(R2, Phase.PATH_NOT_SERVED, "PathNotServed", target_hash=None)],
    ),
    case(
        "conflict: the others go on",
        P.ARMING,
        permits="1",
        states=[old(R0), old(R1), said(R2, Phase.CONFLICT, "Conflict", target_hash=None)],
    ),
    case(
        "newer protocol: the others go on",
        P.ARMING,
        permits="1",
        states=[old(R0), old(R1), armed(R2, protocol="2", permit=None)],
    ),
    case(
        "no sidecar: the others go on",
        P.ARMING,
        permits="1",
        pods=[R0, R1, replace(R2, served=())],
        states=[old(R0), old(R1)],
    ),
    case(
        "an older sidecar that does not say its protocol",
        P.RESTARTING,
        evicts="2",
        states=[old(R0), old(R1), armed(R2, protocol=None)],
    ),
    case(
        "a phase of a later release is one that still has to convert",
        P.ARMING,
        permits="2",
        states=[old(R0), old(R1), said(R2, None, "Pondering")],
    ),
    case(
        "a sidecar that cannot read the StorageFormat counts as failed",
        P.STOPPED,
        permits="2",
        states=[
            old(R0),
            old(R1),
            said(R2, Phase.REFUSED, "InvalidStorageFormat", target_hash=None),
        ],
    ),
    # a pod that its StatefulSet does not replace
    case(
        "held in an old revision: replaced",
        P.STOPPED,
        permits="2",
        evicts="2",
        pods=[R0, R1, S2],
        workload=ROLLING_OUT,
        states=[old(R0), old(R1), failed(S2)],
    ),
    case(
        "held in an old revision, but converting",
        P.CONVERTING,
        permits="2",
        pods=[R0, R1, S2],
        workload=ROLLING_OUT,
        states=[old(R0), old(R1), said(S2, Phase.CONVERTING)],
    ),
    case(
        "held in an old revision, but permitted just now",
        P.CONVERTING,
        permits="2",
        pods=[R0, R1, S2],
        workload=ROLLING_OUT,
        states=[old(R0), old(R1), stuck(S2)],
    ),
    case(
        "held in an old revision by skew, while nothing else is touched",
        P.BLOCKED,
        evicts="2",
        pods=[R0, R1, S2],
        workload=replace(ROLLING_OUT, reads=READS_OLD),
        states=[old(R0), old(R1), said(S2, Phase.REFUSED, "SkewBlocked")],
    ),
    case(
        "held in an old revision, but suspended",
        P.SUSPENDED,
        pods=[R0, R1, S2],
        rollout={"suspended": True},
        workload=ROLLING_OUT,
        states=[old(R0), old(R1), failed(S2)],
    ),
    case(
        "held in an old revision that its partition keeps",
        P.STOPPED,
        permits="2",
        pods=[R0, R1, S2],
        workload=replace(ROLLING_OUT, partition=3),
        states=[old(R0), old(R1), failed(S2)],
    ),
    case(
        "held in an old revision that its partition keeps, counted from the first ordinal",
        P.STOPPED,
        permits="6",
        pods=[running(5), starting(6)],
        workload=replace(ROLLING_OUT, desired=2, first=5, partition=2),
        states=[old(running(5)), failed(starting(6))],
    ),
]


def _names(words: str) -> set[str]:
    return {f"orders-{word}" if word.isdigit() else word for word in words.split()}


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.id)
def test_situation(one: Case) -> None:
    """Each situation has its permits, withdrawals, evictions, phase, message and time to look again."""
    snapshot = one.scene.snapshot()
    decision = decide(snapshot)
    given = {change.state.pod for change in decision.changes if change.permit is not None}
    withdrawn = {change.state.pod for change in decision.changes if change.permit is None}
    assert (given, withdrawn) == (_names(one.permits), _names(one.withdraws))
    assert {eviction.pod.name for eviction in decision.evictions} == _names(one.evicts)
    assert decision.phase is one.phase, decision.message
    assert one.says in decision.message
    if one.wake_in is not None:
        assert decision.wake_in == one.wake_in
    for change in decision.changes:
        if change.permit is not None:
            assert change.permit.target_hash == snapshot.storageformat.spec.target_hash()
            assert change.permit.expires == NOW + timedelta(hours=1)


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.id)
def test_nothing_is_written_twice(one: Case) -> None:
    """Once all is written there is nothing more to write, and nobody to evict but who got a new permit just now."""
    snapshot = one.scene.snapshot()
    decision = decide(snapshot)
    again = decide(applied(snapshot, decision))
    assert (again.changes, again.deletions) == ((), ())
    renewed = {change.state.pod for change in decision.changes if change.permit is not None}
    assert {eviction.pod.name for eviction in again.evictions} <= renewed


def test_reasons_that_others_rely_on() -> None:
    """What blocks every pod has a reason of its own, by which conditions and alerts are made."""
    blocked = {
        "UnsupportedStrategy": replace(RECREATE, strategy="RollingUpdate"),
        "UnsupportedReplicas": replace(RECREATE, desired=2),
        "SkewBlocked": replace(RECREATE, reads=READS_OLD),
    }
    for reason, workload in blocked.items():
        decision = decide(Scene(pods=[DEPLOYED], workload=workload, owners=RS).snapshot())
        assert decision.blocked is not None
        assert decision.blocked[0] == reason


def test_failures_are_told() -> None:
    """Who failed, and whether the budget is spent, is part of the decision."""
    pods = [R0, R1, S2]
    states = [old(R0), old(R1), failed(S2)]
    decision = decide(Scene(pods=pods, states=states).snapshot())
    assert [one.pod.name for one in decision.failures] == ["orders-2"]
    assert decision.failures[0].standing is Standing.FAILED
    assert decision.budget_spent
    decision = decide(Scene(pods=pods, states=states, rollout={"failureBudget": 1}).snapshot())
    assert not decision.budget_spent


def test_renewal_follows_the_lifetime() -> None:
    """With another lifetime permits are renewed at half of that."""
    states = [old(R0), old(R1), old(R2, permit=permit(301))]
    decision = decide(Scene(states=states).snapshot(), permit_seconds=600.0)
    assert (decision.changes, decision.wake_in) == ((), 1.0)


@pytest.mark.parametrize("seconds", [60.0, 300.0, 599.0])
def test_a_short_lifetime_evicts_too(seconds: float) -> None:
    """However short permits live, an armed pod is evicted while half of it is left."""
    states = [old(R0), old(R1), armed(R2, permit=permit(seconds / 2 + 1))]
    decision = decide(Scene(states=states).snapshot(), permit_seconds=seconds)
    assert [one.pod.name for one in decision.evictions] == ["orders-2"]


# --- the FormatStates ---------------------------------------------------------------------------------------


def _deleted(decision: Decision) -> list[str]:
    return [state.pod for state in decision.deletions]


def _complete(**changes: Any) -> Snapshot:
    return replace(Scene(states=[done(R0), done(R1), done(R2)]).snapshot(), **changes)


def test_claim_is_noted() -> None:
    """The claim of each pod's volume is written into its FormatState, once."""
    states = [done(R0, claim_uid=None), done(R1), done(R2)]
    decision = decide(Scene(states=states).snapshot())
    (change,) = decision.changes
    assert (change.state.pod, change.claim_uid) == ("orders-0", "claim-orders-0")
    assert change.permit is None


def test_permit_and_claim_are_one_write() -> None:
    """A pod that gets its permit gets its claim with it."""
    states = [old(R0), old(R1), old(R2, claim_uid=None)]
    (change,) = decide(Scene(states=states).snapshot()).changes
    assert isinstance(change.permit, Permit)
    assert change.claim_uid == "claim-orders-2"


def test_an_unknown_claim_changes_nothing() -> None:
    """A claim that the watch has not shown yet takes nothing back."""
    decision = decide(Scene(states=[done(R0), done(R1), done(R2)], claims={}).snapshot())
    assert decision.changes == ()
    assert decision.deletions == ()


def test_scaled_down_volume_is_remembered() -> None:
    """A FormatState outlives its pod as long as its claim is there."""
    snapshot = Scene(states=[done(R0), done(R1), done(R2), done("orders-3")]).snapshot()
    kept = replace(snapshot, claims={**snapshot.claims, "data-orders-3": "claim-orders-3"})
    assert _deleted(decide(kept)) == []
    assert _deleted(decide(snapshot)) == ["orders-3"]


def test_state_of_an_existing_pod_is_kept() -> None:
    """Not even a claim that is gone makes it go before its pod does: the sidecar would make it again."""
    states = [done(R0), done(R1), done(R2, claim_uid="another")]
    snapshot = Scene(states=states, claims={}).snapshot()
    assert _deleted(decide(snapshot)) == []


def test_state_of_an_unselected_pod_is_kept() -> None:
    """Also when the selector does not match the pod any more; it loses its permit only."""
    states = [done(R0), done(R1), done(R2), done("orders-x", claim_uid=None, permit=permit())]
    snapshot = Scene(states=states).snapshot()
    snapshot = replace(snapshot, all_pods=snapshot.all_pods | {"orders-x"})
    decision = decide(snapshot)
    assert _deleted(decision) == []
    assert [(one.state.pod, one.permit) for one in decision.changes] == [("orders-x", None)]


def test_state_of_a_replaced_deployment_pod_goes() -> None:
    """The next pod on the same claim takes over; until it has reported, the old state stands for the volume."""
    before = done("orders-5d9f-zzzzz", claim_uid="claim-orders-5d9f-abcde", permit=permit())
    scene = Scene(pods=[DEPLOYED], states=[before, done(DEPLOYED)], workload=RECREATE, owners=RS)
    decision = decide(scene.snapshot())
    assert _deleted(decision) == ["orders-5d9f-zzzzz"]
    assert decision.changes == ()
    silent = replace(scene, pods=[replace(DEPLOYED, uid="new")], states=[before])
    assert _deleted(decide(silent.snapshot())) == []


def test_state_waits_for_its_pod() -> None:
    """Between deletion and re-creation it stays, claim known or not: the permit is in it."""
    states = [old(R0), old(R1), armed(R2, claim_uid=None)]
    scene = Scene(pods=[R0, R1, gone(2)], states=states)
    assert _deleted(decide(scene.snapshot())) == []


def test_state_of_a_new_volume_starts_anew() -> None:
    """Pod and claim deleted together: what was said of the old volume is no more."""
    scene = Scene(pods=[R0, R1, gone(2)], states=[done(R0), done(R1), done(R2)])
    claims = {"data-orders-0": "claim-orders-0", "data-orders-1": "claim-orders-1"}
    assert _deleted(decide(replace(scene, claims=claims).snapshot())) == ["orders-2"]


def test_gate_of_an_old_sidecar() -> None:
    """A sidecar that does not report its gate is never taken to be held for good."""
    state = failed(S2, gate=None)
    scene = Scene(pods=[R0, R1, S2], workload=ROLLING_OUT, states=[old(R0), old(R1), state])
    assert decide(scene.snapshot()).evictions == ()
    assert state.gate is not Gate.CLOSED


def test_target_changed_back_and_forth() -> None:
    """Each change of the target takes all permits for the one before with it."""
    states = [old(R0), old(R1), armed(R2)]
    scene = Scene(states=states, rollout={"target": "v1"})
    decision = decide(scene.snapshot())
    hashes = {
        change.state.pod: change.permit and change.permit.target_hash for change in decision.changes
    }
    # It has not seen the new target yet, and is the next all the same.
    assert hashes == {"orders-2": spec(target="v1").spec.target_hash()}
