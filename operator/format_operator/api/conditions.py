"""Kubernetes conditions (``metav1.Condition``): what is true of an object, since when, and why.

A condition's ``lastTransitionTime`` moves only when its status does; that is the one rule that is
easy to get wrong, so it stands here once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum

from format_operator.api.statuses import Condition

TRUE = "True"
FALSE = "False"
UNKNOWN = "Unknown"


class ConditionType(StrEnum):
    """The conditions of a StorageFormat and of a FormatState."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SAFE_TO_DROP_OLD_FORMAT = "SafeToDropOldFormat"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(
    kind: str,
    status: bool | None,
    reason: str,
    message: str = "",
    *,
    now: datetime,
    generation: int | None = None,
) -> Condition:
    """A condition as of ``now``; a ``status`` of None means Unknown."""
    text = UNKNOWN if status is None else TRUE if status else FALSE
    return Condition(
        type=str(kind),
        status=text,
        reason=reason,
        message=message,
        last_transition_time=timestamp(now),
        observed_generation=generation,
    )


def merge(existing: Iterable[Condition], fresh: Iterable[Condition]) -> tuple[Condition, ...]:
    """``existing`` with ``fresh`` put in, keeping transition times where the status is the same.

    Conditions of a type that ``fresh`` does not name stay as they are. Ordered by type, so that
    equal facts give an equal list and no write.
    """
    by_type = {old.type: old for old in existing}
    for new in fresh:
        old = by_type.get(new.type)
        same = old is not None and old.status == new.status
        since = old.last_transition_time if old and same else new.last_transition_time
        by_type[new.type] = replace(new, last_transition_time=since)
    return tuple(by_type[kind] for kind in sorted(by_type))


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((one for one in conditions if one.type == kind), None)
