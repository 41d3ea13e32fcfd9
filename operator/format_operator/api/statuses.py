"""What the sidecar and the controller report, down to the last key.

Times are RFC 3339 texts in UTC, sizes are bytes. A key that is not declared here would be dropped
by the API server without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from format_operator.api.formats import MAX_FORMATS
from format_operator.api.schema import (
    DATE_TIME_TEXT,
    Boolean,
    Choice,
    Integer,
    List,
    Number,
    Object,
    String,
    dump,
    parse,
    prop,
)

MAX_FAILURES: Final = 10
#: Reasons of a FormatState that only a person can settle: the kinds of the store's NeedsAttention.
NEEDS_PERSON: Final = frozenset(
    {
        "NeedsAttention",
        "PrimaryUnsound",
        "PreimageLost",
        "StrayWrites",
        "OutcomeUnknown",
        "UnreadableManifest",
    }
)
MAX_MESSAGE: Final = 4096

_REASON: Final = String(128)
_MESSAGE: Final = String(MAX_MESSAGE)
_ID: Final = String(64)
_HASH: Final = String(64)
_PATH: Final = String(1024)
_COUNT: Final = Integer()
_BYTES: Final = Integer(format="int64")
_ROWS: Final = Integer(format="int64")


class Phase(StrEnum):
    """Where a pod's database stands."""

    IDLE = "Idle"
    WAITING = "Waiting"
    ARMED = "Armed"
    RECOVERING = "Recovering"
    CONVERTING = "Converting"
    CONVERTED = "Converted"
    RESTART_REQUIRED = "RestartRequired"
    FAILED = "Failed"
    REFUSED = "Refused"
    CONFLICT = "Conflict"
    PATH_NOT_SERVED = "PathNotServed"


class Gate(StrEnum):
    """Whether the app of this pod may start."""

    OPEN = "Open"
    CLOSED = "Closed"


@dataclass(frozen=True)
class Condition:
    """``metav1.Condition``."""

    type: str = prop(String(316, min_length=1), "What this is about, in CamelCase.")
    status: str = prop(Choice(("True", "False", "Unknown")), "Whether it is so.")
    last_transition_time: str = prop(DATE_TIME_TEXT, "When status last changed.")
    reason: str = prop(String(1024, min_length=1), "Why, in one CamelCase word.")
    message: str = prop(String(32768), "Why, for people.", default="", filled=False)
    observed_generation: int | None = prop(
        Integer(format="int64"), "The metadata.generation this was concluded from.", default=None
    )


_CONDITIONS: Final = List(Object(Condition), max_items=16, key="type")


@dataclass(frozen=True)
class Progress:
    """How far the running conversion is."""

    percent: int = prop(Integer(0, 100), "Of the current phase, 0 to 100.")
    done: int = prop(_ROWS, "Rows done in the current phase.")
    total: int = prop(_ROWS, "Rows to do in the current phase.")
    phase: str = prop(String(32), "The store's phase, such as building or verifying.")


@dataclass(frozen=True)
class DatabaseFailure:
    """One database that was not converted, and why."""

    database: str = prop(_PATH, "Path of the database.")
    reason: str = prop(_REASON, "Why, in one CamelCase word.")
    message: str = prop(_MESSAGE, "Why, and what to do.", default="", filled=False)


@dataclass(frozen=True)
class DatabasesStatus:
    """The databases that the path (a glob) matches, counted."""

    total: int = prop(_COUNT, "How many the path matches.")
    converted: int = prop(_COUNT, "How many are in the target format.")
    pending: int = prop(_COUNT, "How many still have to be converted.")
    failed: int = prop(_COUNT, "How many failed or were refused.")
    first_failures: tuple[DatabaseFailure, ...] = prop(
        List(Object(DatabaseFailure), MAX_FAILURES),
        f"At most {MAX_FAILURES} of those that failed or were refused.",
        default=(),
    )


@dataclass(frozen=True)
class BackupStatus:
    """The old database beside the new one."""

    present: bool = prop(Boolean(), "Whether there is one now.")
    conversion_id: str | None = prop(
        _ID, "The conversion it is from.", default=None, name="conversionID"
    )
    size: int | None = prop(_BYTES, "Its size in bytes.", default=None)
    created_at: str | None = prop(DATE_TIME_TEXT, "When it was taken.", default=None)
    retain_until: str | None = prop(DATE_TIME_TEXT, "When it will be deleted.", default=None)
    pinned: bool | None = prop(Boolean(), "Whether it is kept regardless.", default=None)
    count: int | None = prop(_COUNT, "How many there are; size is that of all.", default=None)


@dataclass(frozen=True)
class RecoveryStatus:
    """What the last start found of an interrupted conversion, and what it did."""

    at: str = prop(DATE_TIME_TEXT, "When.")
    outcome: str = prop(
        Choice(("discarded", "completed", "restored", "cleaned", "failed")),
        "discarded: the old database was never replaced. completed: the new one was in place and "
        "is good. restored: the old one was put back. cleaned: only leftovers had to go. failed: "
        "a person must look.",
    )
    conversion_id: str | None = prop(
        _ID, "The interrupted conversion.", default=None, name="conversionID"
    )
    detail: str = prop(_MESSAGE, "What was found.", default="", filled=False)


@dataclass(frozen=True)
class ConversionStatus:
    """The last conversion that ended, however it ended."""

    at: str = prop(DATE_TIME_TEXT, "When it ended.")
    result: str = prop(Choice(("succeeded", "failed", "refused", "aborted")), "How it ended.")
    from_format: str | None = prop(String(256), "The format before.", default=None, name="from")
    to_format: str | None = prop(String(256), "The format asked for.", default=None, name="to")
    rows: int | None = prop(_ROWS, "Rows converted.", default=None)
    bytes_before: int | None = prop(_BYTES, "Size of the database before.", default=None)
    bytes_after: int | None = prop(_BYTES, "Size of the database after.", default=None)
    duration_seconds: float | None = prop(Number(), "How long it took.", default=None)
    conversion_id: str | None = prop(_ID, "Its id.", default=None, name="conversionID")


@dataclass(frozen=True)
class FormatStateStatus:
    """The sidecar's report. Every field is optional: it says what it knows."""

    pod_name: str | None = prop(String(253), "The pod that reports.", default=None)
    pod_uid: str | None = prop(_ID, "The pod's UID.", default=None, name="podUID")
    node_name: str | None = prop(String(253), "The node the pod is on.", default=None)
    path: str | None = prop(_PATH, "The path the sidecar was started for.", default=None)
    observed_generation: int | None = prop(
        Integer(format="int64"),
        "The generation of the StorageFormat that this report is about.",
        default=None,
    )
    target_hash: str | None = prop(
        _HASH, "The target this report is about; permits name it too.", default=None
    )
    target_format: str | None = prop(String(256), "The name of the format asked for.", default=None)
    current_format: str | None = prop(
        String(256), "The format on disk, by its name where it has one.", default=None
    )
    phase: Phase | None = prop(Choice(Phase), "Where the database stands.", default=None)
    reason: str | None = prop(_REASON, "Why, in one CamelCase word.", default=None)
    message: str | None = prop(_MESSAGE, "Why, and what to do.", default=None)
    progress: Progress | None = prop(
        Object(Progress), "How far the running conversion is.", default=None
    )
    databases: DatabasesStatus | None = prop(
        Object(DatabasesStatus), "The databases that the path matches, counted.", default=None
    )
    backup: BackupStatus | None = prop(
        Object(BackupStatus), "The old database beside the new one.", default=None
    )
    last_recovery: RecoveryStatus | None = prop(
        Object(RecoveryStatus), "What the last recovery found and did.", default=None
    )
    last_conversion: ConversionStatus | None = prop(
        Object(ConversionStatus), "The last conversion that ended.", default=None
    )
    armed_for: str | None = prop(
        _HASH, "The target hash whose permit the sidecar has stored on the volume.", default=None
    )
    gate: Gate | None = prop(Choice(Gate), "Whether the app may start.", default=None)
    restart_required: bool | None = prop(
        Boolean(), "Whether a conversion waits for the pod to restart.", default=None
    )
    sidecar_version: str | None = prop(String(64), "The release that the sidecar is.", default=None)
    api_version: str | None = prop(
        String(32),
        "The version of the protocol between sidecar and controller that the sidecar speaks.",
        default=None,
    )
    updated_at: str | None = prop(
        DATE_TIME_TEXT, "When the sidecar last had something new to say.", default=None
    )
    conditions: tuple[Condition, ...] = prop(
        _CONDITIONS, "The same as conditions, for tools that look for those.", default=()
    )

    @classmethod
    def from_dict(cls, status: Mapping[str, Any]) -> FormatStateStatus:
        """From the API's form. Raises InvalidObject."""
        parsed: FormatStateStatus = parse(cls, status, "status")
        return parsed

    def to_dict(self) -> dict[str, Any]:
        """The API's form, without what is not known."""
        return dump(self)

    def to_merge_patch(self) -> dict[str, Any]:
        """The API's form with nulls, so that a merge patch also removes what is no longer so."""
        return dump(self, nulls=True)


@dataclass(frozen=True)
class PersistedFormat:
    """How many volumes hold a database in this format."""

    name: str = prop(String(256), "The format.")
    count: int = prop(_COUNT, "How many volumes.")


@dataclass(frozen=True)
class RolloutStatus:
    """What the rollout is doing."""

    phase: str = prop(String(64), "In one CamelCase word.")
    message: str = prop(_MESSAGE, "For people.", default="", filled=False)


@dataclass(frozen=True)
class StorageFormatStatus:
    """The controller's report on all pods of a StorageFormat."""

    observed_generation: int | None = prop(
        Integer(format="int64"), "The generation this report is about.", default=None
    )
    target_hash: str | None = prop(_HASH, "The target this report is about.", default=None)
    conditions: tuple[Condition, ...] = prop(
        _CONDITIONS, "Ready, Progressing, Degraded, SafeToDropOldFormat.", default=()
    )
    pods: int | None = prop(_COUNT, "Pods that carry the sidecar.", default=None)
    converted: int | None = prop(_COUNT, "Pods whose database is in the target.", default=None)
    pending: int | None = prop(_COUNT, "Pods that still have to convert.", default=None)
    failed: int | None = prop(_COUNT, "Pods whose conversion failed.", default=None)
    blocked: int | None = prop(_COUNT, "Pods whose gate is held closed.", default=None)
    backups: int | None = prop(_COUNT, "Volumes that hold a backup.", default=None)
    persisted_formats: tuple[PersistedFormat, ...] = prop(
        List(Object(PersistedFormat), MAX_FORMATS, key="name"),
        "Which formats are still on a volume, and on how many.",
        default=(),
    )
    rollout: RolloutStatus | None = prop(
        Object(RolloutStatus), "What the rollout is doing.", default=None
    )

    @classmethod
    def from_dict(cls, status: Mapping[str, Any]) -> StorageFormatStatus:
        """From the API's form. Raises InvalidObject."""
        parsed: StorageFormatStatus = parse(cls, status, "status")
        return parsed

    def to_dict(self) -> dict[str, Any]:
        """The API's form, without what is not known."""
        return dump(self)
