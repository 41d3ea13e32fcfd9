"""What is to be done about one StorageFormat: ``decide(snapshot) -> Decision``, pure and idempotent.

Where each pod stands (``standing``), who may convert and who is restarted (``plan``), and what the FormatStates have
to say for that (``formatstates``), put together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from format_operator.controller import formatstates, standing
from format_operator.controller.facts import Pod, Snapshot, State
from format_operator.controller.formatstates import SpecChange
from format_operator.controller.plan import Eviction, Plan, RolloutPhase
from format_operator.controller.standing import Placed

PERMIT_SECONDS: Final = 3600.0
#: A permit must not run out between an eviction and the start of the pod after it. (Half of a short one's time.)
_ENOUGH_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Decision:
    """What to do, and what it means. ``wake_in``: seconds until it has to be decided again."""

    phase: RolloutPhase
    message: str
    changes: tuple[SpecChange, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    deletions: tuple[State, ...] = ()
    placed: tuple[Placed, ...] = ()
    failures: tuple[Placed, ...] = ()
    budget_spent: bool = False
    blocked: tuple[str, str] | None = None
    """Reason and message of what no pod is touched for."""
    wake_in: float | None = None


def decide(snapshot: Snapshot, *, permit_seconds: float = PERMIT_SECONDS) -> Decision:
    """The next step. ``permit_seconds`` is how long a permit holds; it is renewed at half of that."""
    placed = tuple(sorted((standing.place(snapshot, pod) for pod in _living(snapshot)), key=_order))
    plan = Plan(snapshot, placed, enough_seconds=min(_ENOUGH_SECONDS, permit_seconds / 2))
    holders = plan.holders()
    deletions = formatstates.deletions(snapshot)
    deleted = {one.name for one in deletions}
    kept = [one for one in snapshot.states.values() if one.name not in deleted]
    changes, renew_in = formatstates.changes(snapshot, kept, placed, holders, permit_seconds)
    evictions, phase, message = plan.evictions(holders)
    wakes = [one for one in (plan.wake_in, renew_in) if one is not None]
    return Decision(
        phase=phase,
        message=message,
        changes=changes,
        evictions=evictions,
        deletions=deletions,
        placed=placed,
        failures=plan.failures,
        budget_spent=plan.budget_spent,
        blocked=plan.blocked,
        wake_in=max(1.0, min(wakes)) if wakes else None,
    )


def _living(snapshot: Snapshot) -> list[Pod]:
    return [pod for pod in snapshot.pods if not pod.finished]


def _order(placed: Placed) -> tuple[int, str]:
    """Highest ordinal first, as StatefulSets update; what has no ordinal by name."""
    return (-placed.pod.ordinal, placed.pod.name)
