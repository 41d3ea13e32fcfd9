"""What a StorageFormat's status says, made of the snapshot and the decision. Pure.

Conditions follow the Kubernetes API conventions: their reasons are part of the API and do not change; what people
read is in the messages.

    Ready                 True   Converted
                          False  NoPods Converting SidecarMissing PartitionHeld Suspended Failed Blocked
    Progressing           True   while something is being done or waited for; the reason is the rollout's phase
                          False  Complete Suspended Stopped Blocked Partitioned NoPods
    Degraded              True   FailureBudgetSpent SkewBlocked UnsupportedStrategy UnsupportedReplicas
                                 PathNotServed Conflict UnknownProtocol InvalidStorageFormat
                          False  AsExpected WithinFailureBudget
    SafeToDropOldFormat   True   NoOldFormatLeft
                          False  OldFormatOnVolumes    Unknown  NotAllReported
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from format_operator.api import conditions
from format_operator.api.conditions import ConditionType
from format_operator.api.formats import MAX_FORMATS
from format_operator.api.models import (
    Condition,
    Gate,
    PersistedFormat,
    RolloutStatus,
    StorageFormat,
    StorageFormatStatus,
)
from format_operator.api.statuses import MAX_MESSAGE
from format_operator.controller.decide import Decision
from format_operator.controller.facts import Snapshot, State
from format_operator.controller.plan import RolloutPhase
from format_operator.controller.standing import Placed, Standing

_STANDS_STILL: Final = frozenset(
    {
        RolloutPhase.COMPLETE,
        RolloutPhase.SUSPENDED,
        RolloutPhase.STOPPED,
        RolloutPhase.BLOCKED,
        RolloutPhase.PARTITIONED,
        RolloutPhase.NO_PODS,
    }
)
#: Standings outside the rollout that somebody has to mend; a missing sidecar may just not be there yet.
_AMISS: Final = frozenset({"PathNotServed", "Conflict", "UnknownProtocol"})


def status(
    snapshot: Snapshot, decision: Decision, before: Sequence[Condition]
) -> StorageFormatStatus:
    """The status. ``before`` are the conditions so far: their transition times are kept."""
    storageformat = snapshot.storageformat
    placed = decision.placed
    ours = [
        one for one in placed if one.served is not None and one.standing is not Standing.UNSERVED
    ]
    return StorageFormatStatus(
        observed_generation=storageformat.generation,
        target_hash=storageformat.spec.target_hash(),
        conditions=conditions.merge(before, _conditions(snapshot, decision)),
        pods=len([one for one in ours if not one.pod.missing]),
        converted=_count(ours, Standing.CONVERTED),
        pending=sum(one.needs_conversion for one in ours),
        failed=len(decision.failures),
        blocked=sum(_is_blocked(one) for one in ours),
        backups=sum(state.backup_present for state in volumes(snapshot)),
        persisted_formats=tuple(
            PersistedFormat(name, count) for name, count in persisted(snapshot)[:MAX_FORMATS]
        ),
        rollout=RolloutStatus(str(decision.phase), decision.message[:MAX_MESSAGE]),
    )


def invalid(
    problem: str, generation: int, before: Sequence[Condition], now: datetime
) -> StorageFormatStatus:
    """The status of a StorageFormat that this release cannot understand: nothing is done for it."""
    message = f"no pod was touched: {problem}; correct the StorageFormat, or upgrade the controller"
    found = [
        conditions.condition(
            str(kind), holds, "InvalidStorageFormat", message, now=now, generation=generation
        )
        for kind, holds in (
            (ConditionType.READY, False),
            (ConditionType.PROGRESSING, False),
            (ConditionType.DEGRADED, True),
            (ConditionType.SAFE_TO_DROP_OLD_FORMAT, None),
        )
    ]
    return StorageFormatStatus(
        observed_generation=generation,
        conditions=conditions.merge(before, found),
        rollout=RolloutStatus(str(RolloutPhase.BLOCKED), message),
    )


def volumes(snapshot: Snapshot) -> list[State]:
    """One FormatState per volume: the newest report, whether its pod still is there or not."""
    newest: dict[str, State] = {}
    for state in snapshot.states.values():
        key = state.claim_uid or f"pod {state.pod}"
        known = newest.get(key)
        if known is None or state.updated_at > known.updated_at:
            newest[key] = state
    return list(newest.values())


def persisted(snapshot: Snapshot) -> list[tuple[str, int]]:
    """Which formats lie on how many volumes, the most frequent first; scaled-down ordinals included."""
    counts = Counter(
        state.current_format for state in volumes(snapshot) if state.current_format is not None
    )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


# --- conditions ---------------------------------------------------------------------------------------------


def _conditions(snapshot: Snapshot, decision: Decision) -> list[Condition]:
    storageformat = snapshot.storageformat
    return [
        _condition(snapshot, kind, *found)
        for kind, found in (
            (ConditionType.READY, _ready(storageformat, decision)),
            (ConditionType.PROGRESSING, _progressing(decision)),
            (ConditionType.DEGRADED, _degraded(decision)),
            (ConditionType.SAFE_TO_DROP_OLD_FORMAT, _safe_to_drop(snapshot, decision)),
        )
    ]


def _condition(
    snapshot: Snapshot, kind: ConditionType, holds: bool | None, reason: str, message: str
) -> Condition:
    return conditions.condition(
        str(kind),
        holds,
        reason,
        message[:MAX_MESSAGE],
        now=snapshot.now,
        generation=snapshot.storageformat.generation,
    )


def _ready(storageformat: StorageFormat, decision: Decision) -> tuple[bool, str, str]:
    target = storageformat.spec.target
    phase = decision.phase
    if phase is RolloutPhase.COMPLETE:
        return True, "Converted", f"every pod's database is in {target}"
    reason = {
        RolloutPhase.NO_PODS: "NoPods",
        RolloutPhase.PARTITIONED: "PartitionHeld",
        RolloutPhase.SUSPENDED: "Suspended",
        RolloutPhase.STOPPED: "Failed",
        RolloutPhase.BLOCKED: "Blocked",
    }.get(phase, "Converting")
    lacking = [one for one in decision.placed if one.reason == "SidecarMissing"]
    if lacking and reason in {"Converting", "Blocked"}:
        asking = [one for one in lacking if storageformat.name in one.pod.asks]
        what = "no sidecar for this StorageFormat"
        if asking:
            what += ", though they ask for injection: there was no webhook when they were made, so restart them"
        return False, "SidecarMissing", _these(asking or lacking, what)
    return False, reason, decision.message


def _progressing(decision: Decision) -> tuple[bool, str, str]:
    return decision.phase not in _STANDS_STILL, str(decision.phase), decision.message


def _degraded(decision: Decision) -> tuple[bool, str, str]:
    if decision.budget_spent:
        first = decision.failures[0]
        count = len(decision.failures)
        more = f" (and {count - 1} more)" if count > 1 else ""
        message = f"pod {first.pod.name}{more}: {first.reason}: {first.why}"
        return True, "FailureBudgetSpent", message
    if decision.blocked is not None and decision.phase is RolloutPhase.BLOCKED:
        return True, *decision.blocked
    for one in decision.placed:
        if one.standing is Standing.SKEWED and (one.workload is None or one.workload.settled):
            # While the workload rolls out, its old pods are on their way out.
            return True, "SkewBlocked", f"pod {one.pod.name}: {one.why}"
        if one.reason in _AMISS:
            return True, one.reason, f"pod {one.pod.name}: {one.why}"
    if decision.failures:
        first = decision.failures[0]
        message = f"pod {first.pod.name}: {first.reason}: {first.why}"
        return False, "WithinFailureBudget", message
    return False, "AsExpected", ""


def _safe_to_drop(snapshot: Snapshot, decision: Decision) -> tuple[bool | None, str, str]:
    target = snapshot.storageformat.spec.target
    old = [(name, count) for name, count in persisted(snapshot) if name != target]
    if old:
        text = ", ".join(f"{name} on {count}" for name, count in old)
        return False, "OldFormatOnVolumes", f"volumes still hold: {text}"
    silent = [one for one in decision.placed if one.report is None]
    if silent or not snapshot.states:
        return (
            None,
            "NotAllReported",
            _these(silent, "no report yet") if silent else "no report yet",
        )
    return True, "NoOldFormatLeft", f"every volume that is known holds {target}"


def _these(placed: Sequence[Placed], what: str) -> str:
    names = ", ".join(one.pod.name for one in placed[:3])
    more = f" and {len(placed) - 3} more" if len(placed) > 3 else ""
    return f"{names}{more}: {what}"


def _count(placed: Sequence[Placed], standing: Standing) -> int:
    return sum(one.standing is standing for one in placed)


def _is_blocked(one: Placed) -> bool:
    """Held at its gate, and not because it converts."""
    held = one.pod.gate_held and one.report is not None and one.report.gate is Gate.CLOSED
    return held and one.standing not in {Standing.CONVERTING, Standing.CONVERTED}
