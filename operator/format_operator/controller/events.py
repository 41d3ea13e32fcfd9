"""Which Kubernetes events tell the story of a rollout: what changed between two statuses. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from format_operator.api import conditions
from format_operator.api.conditions import ConditionType
from format_operator.api.models import StorageFormatStatus

_LONGEST_MESSAGE = 1024


@dataclass(frozen=True)
class Event:
    """``kind`` is Normal or Warning; ``reason`` one CamelCase word."""

    kind: str
    reason: str
    message: str


def of_change(before: StorageFormatStatus, after: StorageFormatStatus) -> Iterator[Event]:
    """What happened to a StorageFormat, for ``kubectl describe``."""
    if (
        before.target_hash != after.target_hash
        and after.target_hash is not None
        and before.target_hash
    ):
        yield Event("Normal", "TargetChanged", "the target or the path's formats changed")
    if (before.converted or 0) < (after.converted or 0) and after.target_hash == before.target_hash:
        message = f"{after.converted} of {after.pods} pods are in the target format"
        yield Event("Normal", "PodConverted", message)
    for kind, good, bad in (
        (ConditionType.READY, "Normal", ""),
        (ConditionType.DEGRADED, "", "Warning"),
    ):
        old, new = conditions.find(before.conditions, kind), conditions.find(after.conditions, kind)
        if new is None or (
            old is not None and (old.status, old.reason) == (new.status, new.reason)
        ):
            continue
        level = {conditions.TRUE: good or bad}.get(new.status, "")
        if level:
            yield Event(level, new.reason, new.message[:_LONGEST_MESSAGE])
        elif kind is ConditionType.DEGRADED and old is not None and old.status == conditions.TRUE:
            yield Event("Normal", "Recovered", f"no longer {old.reason}")
