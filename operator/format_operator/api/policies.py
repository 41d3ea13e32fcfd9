"""How a StorageFormat's conversion goes on: its backup, its pace, and what follows a failure or an app's rollback."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from format_operator.api.schema import Boolean, Choice, Duration, Integer, Object, prop


class OnFailure(StrEnum):
    """What the gate does after a conversion that failed; the old database is intact either way."""

    BLOCK = "Block"
    START_APP = "StartApp"


class OnAppRollback(StrEnum):
    """What the gate does when the app's release can no longer read what is on the volume."""

    BLOCK = "Block"
    CONVERT_BACK = "ConvertBack"


class Strategy(StrEnum):
    """Who decides when a pod converts: the controller, or whatever restarts the pod."""

    ROLLING_RESTART = "RollingRestart"
    ON_RESTART = "OnRestart"


@dataclass(frozen=True)
class BackupPolicy:
    """How long the database as it was is kept after a conversion."""

    retain_for: float = prop(
        Duration(),
        "How long the old database stays beside the new one. 0s: until the result is verified.",
        default=0.0,
    )
    pinned: bool = prop(
        Boolean(), "Keep it until somebody deletes it, whatever retainFor says.", default=False
    )


@dataclass(frozen=True)
class Canary:
    """The pods that go first, and how long they are watched."""

    pods: int = prop(Integer(minimum=1), "How many pods go first.", default=1)
    soak_for: float = prop(
        Duration(), "How long they must stay ready before the others follow.", default=600.0
    )


@dataclass(frozen=True)
class Rollout:
    """In which order and at which pace the pods convert."""

    strategy: Strategy = prop(
        Choice(Strategy),
        "RollingRestart: the controller restarts one pod after the other. OnRestart: a pod "
        "converts when something else restarts it; no permit is needed.",
        default=Strategy.ROLLING_RESTART,
    )
    max_unavailable: int = prop(
        Integer(minimum=1), "How many pods may be converting or restarting at a time.", default=1
    )
    partition: int = prop(
        Integer(minimum=0), "Pods with a lower ordinal than this are left as they are.", default=0
    )
    canary: Canary | None = prop(
        Object(Canary), "Pods that go first and are watched before the others follow.", default=None
    )
    failure_budget: int = prop(
        Integer(minimum=0), "How many pods may fail before the rollout stops.", default=0
    )
    suspended: bool = prop(
        Boolean(), "Permit and restart nothing until this is false again.", default=False
    )
