"""Conditions: their times move only when their status does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from format_operator.api.conditions import ConditionType, condition, find, merge

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def test_the_time_stays_while_the_status_does() -> None:
    """A new reason with the same status is not a transition; another status is."""
    first = merge((), [condition(ConditionType.READY, status=False, reason="Waiting", now=NOON)])
    same = merge(first, [condition(ConditionType.READY, status=False, reason="Slow", now=LATER)])
    ready = find(same, "Ready")
    assert ready is not None
    assert (ready.reason, ready.last_transition_time) == ("Slow", "2026-01-31T12:00:00Z")
    other = merge(same, [condition(ConditionType.READY, status=True, reason="Done", now=LATER)])
    ready = find(other, "Ready")
    assert ready is not None
    assert (ready.status, ready.last_transition_time) == ("True", "2026-01-31T12:05:00Z")


def test_other_conditions_stay() -> None:
    """Conditions that are not spoken of stay, and equal facts give an equal list."""
    ready = condition(ConditionType.READY, status=None, reason="Unknown", now=NOON)
    degraded = condition(ConditionType.DEGRADED, status=False, reason="AsExpected", now=NOON)
    assert merge([ready], [degraded]) == merge([degraded], [ready]) == (degraded, ready)
    assert ready.status == "Unknown"
    assert find([ready], "Degraded") is None


def test_times_are_utc() -> None:
    """Whatever zone a time is in, it is written in UTC."""
    local = NOON.astimezone(timezone(timedelta(hours=5)))
    assert condition("Ready", status=True, reason="Done", now=local).last_transition_time == (
        "2026-01-31T12:00:00Z"
    )
