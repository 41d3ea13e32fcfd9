"""Which Kubernetes events tell the story of a rollout: what changed between two statuses. Pure.

Reasons are part of the API; docs/rollout.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from format_operator.api import conditions
from format_operator.api.conditions import ConditionType
from format_operator.api.models import Phase, StorageFormatStatus
from format_operator.api.statuses import NEEDS_PERSON
from format_operator.controller.facts import Ended, State

_LONGEST_MESSAGE = 1024
NORMAL: Final = "Normal"
WARNING: Final = "Warning"
#: Of a pod: why an event is told about it and about its StorageFormat.
SUCCEEDED: Final = "ConversionSucceeded"
ABORTED: Final = "ConversionAborted"
RECOVERED: Final = "ConversionRecovered"
FAILED: Final = "ConversionFailed"
REFUSED: Final = "ConversionRefused"
PERSON: Final = "NeedsPerson"
OF_PODS: Final = (SUCCEEDED, ABORTED, RECOVERED, FAILED, REFUSED, PERSON)
_ON_THE_WAY: Final = frozenset({Phase.CONVERTING, Phase.RECOVERING, Phase.WAITING})


@dataclass(frozen=True)
class Event:
    """``kind`` is Normal or Warning; ``reason`` one CamelCase word."""

    kind: str
    reason: str
    message: str


@dataclass(frozen=True)
class Seen:
    """What was told of one FormatState so far."""

    conversion: Ended | None = None
    recovery: Ended | None = None
    failing: tuple[str, str, str] | None = None
    """Event, reason and target of a failure that goes on: an attempt that fails alike is no news."""


def of_state(seen: Seen | None, state: State, since: str) -> tuple[Seen, list[Event]]:
    """What is new in a pod's report. ``since``: what happened before is another instance's to tell.

    ``seen`` is None for a FormatState that was not looked at before.
    """
    failing = _failing(state)
    if failing is None and seen is not None and state.phase in _ON_THE_WAY:
        failing = seen.failing  # it tries again
    now = Seen(state.conversion, state.recovery, failing)
    before = seen or Seen()
    events: list[Event] = []
    if _is_news(before.recovery, state.recovery, seen, since):
        events += _of_recovery(state.recovery)
    if _is_news(before.conversion, state.conversion, seen, since):
        events += _of_conversion(state.conversion)
    is_new = seen is not None or state.updated_at >= since
    if failing is not None and failing != before.failing and is_new:
        message = f"{state.reason}: {state.message}"[:_LONGEST_MESSAGE]
        events.append(Event(WARNING, failing[0], message))
    return now, events


def _is_news(before: Ended | None, after: Ended | None, seen: Seen | None, since: str) -> bool:
    if after is None or after == before:
        return False
    return seen is not None or after.at >= since


def _failing(state: State) -> tuple[str, str, str] | None:
    if state.phase not in {Phase.FAILED, Phase.REFUSED}:
        return None
    if state.reason in NEEDS_PERSON:
        kind = PERSON
    else:
        kind = FAILED if state.phase is Phase.FAILED else REFUSED
    return kind, state.reason, state.target_hash or ""


def _of_recovery(ended: Ended | None) -> Iterator[Event]:
    # One that failed needs a person, and that is told as such.
    if ended is not None and ended.result != "failed":
        message = f"{ended.result}: {ended.detail} ({ended.conversion_id})"
        yield Event(WARNING, RECOVERED, message[:_LONGEST_MESSAGE])


def _of_conversion(ended: Ended | None) -> Iterator[Event]:
    # Failures and refusals are told by the phase, with their reason.
    if ended is not None and ended.result in {"succeeded", "aborted"}:
        reason = SUCCEEDED if ended.result == "succeeded" else ABORTED
        yield Event(NORMAL, reason, f"{ended.detail} ({ended.conversion_id})"[:_LONGEST_MESSAGE])


def of_change(before: StorageFormatStatus, after: StorageFormatStatus) -> Iterator[Event]:
    """What happened to a StorageFormat, for ``kubectl describe``."""
    if (
        before.target_hash != after.target_hash
        and after.target_hash is not None
        and before.target_hash
    ):
        yield Event(NORMAL, "TargetChanged", "the target or the path's formats changed")
    if (before.converted or 0) < (after.converted or 0) and after.target_hash == before.target_hash:
        message = f"{after.converted} of {after.pods} pods are in the target format"
        yield Event(NORMAL, "PodConverted", message)
    for kind, good, bad in (
        (ConditionType.READY, NORMAL, ""),
        (ConditionType.DEGRADED, "", WARNING),
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
            yield Event(NORMAL, "Recovered", f"no longer {old.reason}")
