"""Snapshots of a StatefulSet ``orders`` whose pods convert from v1 to v2, for tests of single decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from format_operator.api.models import Gate, Permit, Phase, StorageFormat
from format_operator.controller.facts import Kind, Owner, Pod, Served, Snapshot, State, Workload
from format_operator.controller.objects import missing_pod
from tests.support.objects import storageformat

NOW: Final = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
PATH: Final = "/data/orders.db"
OWNER: Final = Owner("StatefulSet", "orders", "set-uid")


def spec(**rollout: Any) -> StorageFormat:
    """The StorageFormat, with these fields of ``spec.rollout``."""
    target = rollout.pop("target", "v2")
    body = storageformat("orders", spec__rollout=rollout, spec__target=target)
    return StorageFormat.from_object(body)


HASH: Final = spec().spec.target_hash()
FORMER: Final = spec(target="v1").spec.target_hash()


def permit(seconds: float = 3600.0, target_hash: str = HASH) -> Permit:
    """One that ends in so many seconds."""
    return Permit(target_hash, NOW + timedelta(seconds=seconds))


def running(ordinal: int, /, **changes: Any) -> Pod:
    """A pod whose app runs and has been ready for an hour."""
    name = f"orders-{ordinal}"
    pod = Pod(
        namespace="shop",
        name=name,
        uid=f"uid-{ordinal}",
        labels={"app": "orders"},
        owner=OWNER,
        revision="rev-1",
        deleting=False,
        finished=False,
        ready=True,
        ready_since=NOW - timedelta(hours=1),
        gate_held=False,
        reads=None,
        served=(Served("orders", PATH, f"data-{name}"),),
        ordinal=ordinal,
    )
    return replace(pod, **changes)


def starting(ordinal: int, /, **changes: Any) -> Pod:
    """A new pod whose gate is held: its UID is another than that of the one before."""
    held = {"uid": f"new-{ordinal}", "ready": False, "ready_since": None, "gate_held": True}
    return running(ordinal, **{**held, **changes})


def said(
    pod: Pod | str, phase: Phase | None, reason: str = "", *, armed: bool = False, **changes: Any
) -> State:
    """What a pod's sidecar reports on v2; armed: with a good permit."""
    name = pod if isinstance(pod, str) else pod.name
    state = State(
        namespace="shop",
        name=f"orders.{name}",
        uid=f"state-{name}",
        resource_version="7",
        storageformat="orders",
        pod=name,
        permit=permit() if armed else None,
        claim_uid=f"claim-{name}",
        pod_uid=None if isinstance(pod, str) else pod.uid,
        target_hash=HASH,
        current_format="v2" if phase is Phase.CONVERTED else "v1",
        phase=phase,
        reason=reason,
        message="as it says",
        armed_for=HASH if armed else None,
        gate=None if isinstance(pod, str) else Gate.CLOSED if pod.gate_held else Gate.OPEN,
        backup_present=False,
        updated_at="2026-11-25T11:00:00Z",
        conversion_at="",
        protocol="1",
    )
    return replace(state, **changes)


def old(pod: Pod, **changes: Any) -> State:
    """It runs on v1 and needs a restart."""
    return said(pod, Phase.RESTART_REQUIRED, "AppRunning", **changes)


def armed(pod: Pod, **changes: Any) -> State:
    """It runs on v1, and converts at its next start."""
    return said(pod, Phase.ARMED, "Permitted", armed=True, **changes)


def done(pod: Pod | str, **changes: Any) -> State:
    """It is in v2."""
    return said(pod, Phase.CONVERTED, "InTargetFormat", **changes)


def waiting(pod: Pod, reason: str = "NoPermit", **changes: Any) -> State:
    """It waits at its gate."""
    return said(pod, Phase.WAITING, reason, **changes)


def stuck(pod: Pod, **changes: Any) -> State:
    """It waits at its gate, and its app cannot read what is there."""
    return waiting(pod, "NoPermitAndUnreadable", **changes)


def failed(pod: Pod, reason: str = "RowNotAsDeclared", **changes: Any) -> State:
    """Its conversion failed."""
    return said(pod, Phase.FAILED, reason, **changes)


WORKLOAD: Final = Workload(
    namespace="shop",
    kind=Kind.STATEFUL_SET,
    name="orders",
    uid="set-uid",
    desired=3,
    settled=True,
    strategy="RollingUpdate",
    partition=0,
    update_revision="rev-1",
    reads=None,
    labels={"app": "orders"},
    served=(Served("orders", PATH, "data"),),
    claim_templates=frozenset({"data"}),
)


def gone(ordinal: int) -> Pod:
    """A pod that its StatefulSet has not made yet."""
    return missing_pod(WORKLOAD, ordinal)


@dataclass
class Scene:
    """A snapshot in the making: three pods that run on v1, unless told otherwise."""

    pods: Iterable[Pod] = field(default_factory=lambda: [running(one) for one in range(3)])
    states: Iterable[State] | None = None
    rollout: dict[str, Any] = field(default_factory=dict)
    workload: Workload | None = WORKLOAD
    owners: dict[str, str] = field(default_factory=dict)
    evicted: frozenset[str] = frozenset()
    refused: dict[str, tuple[datetime, str]] = field(default_factory=dict)
    claims: dict[str, str] | None = None
    now: datetime = NOW

    def snapshot(self) -> Snapshot:
        pods = tuple(self.pods)
        states = [old(pod) for pod in pods] if self.states is None else self.states
        claims = {
            served.claim: f"claim-{pod.name}"
            for pod in pods
            for served in pod.served
            if served.claim is not None
        }
        workload = self.workload
        return Snapshot(
            now=self.now,
            storageformat=spec(**self.rollout),
            pods=pods,
            states={state.pod: state for state in states},
            workloads={workload.uid: workload} if workload is not None else {},
            claims=claims if self.claims is None else self.claims,
            owners=self.owners,
            evicted=self.evicted,
            refused=self.refused,
            all_pods=frozenset(pod.name for pod in pods if not pod.missing),
        )
