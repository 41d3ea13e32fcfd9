"""What the store tells while it works: phases, progress, recoveries and backups.

CLI progress bars, metrics and status are observers. Methods are called from the converting thread; an
observer that raises would abort a conversion, so implementations must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from format_store.formats import Format


class Phase(StrEnum):
    """Where a run stands, in the order of the protocol."""

    IDLE = "idle"
    LOCKING = "locking"
    RECOVERING = "recovering"
    CHECKING = "checking"
    SETTLING = "settling"
    BUILDING = "building"
    SYNCING = "syncing"
    VERIFYING = "verifying"
    SWAPPING = "swapping"
    CLEANING = "cleaning"


class RecoveryOutcome(StrEnum):
    """How pending work of an earlier run ended; the fifth way is ``NeedsAttention``, an error."""

    DISCARDED = "discarded"
    COMPLETED = "completed"
    RESTORED = "restored"
    CLEANED = "cleaned"


@dataclass(frozen=True)
class Recovery:
    """One recovery: what was found pending, and how it ended. ``at`` is RFC 3339 in UTC."""

    conversion_id: str
    outcome: RecoveryOutcome
    at: str
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "conversionID": self.conversion_id,
            "outcome": str(self.outcome),
            "at": self.at,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Backup:
    """A pre-image: the old file under its second name. Sizes in bytes, times RFC 3339 in UTC.

    ``source_format`` is what it is in, ``target_format`` what the database became when this was kept; each is
    None where nobody knows (no marker, a damaged file). ``rows``: records, where they were counted.
    ``sound``: whether it still is, byte for byte, what its manifest says; None where nobody has asked.
    """

    conversion_id: str
    path: str
    size: int
    created_at: str
    retain_until: str | None = None
    pinned: bool = False
    source_format: Format | None = None
    target_format: Format | None = None
    rows: int | None = None
    note: str = ""
    sound: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "conversionID": self.conversion_id,
            "path": self.path,
            "size": self.size,
            "createdAt": self.created_at,
            "retainUntil": self.retain_until,
            "pinned": self.pinned,
            "sourceFormat": self.source_format.to_spec() if self.source_format else None,
            "targetFormat": self.target_format.to_spec() if self.target_format else None,
            "rows": self.rows,
            "note": self.note,
            "sound": self.sound,
        }


class Observer:
    """Base class: every method does nothing."""

    def phase(self, phase: Phase) -> None: ...

    def progress(self, done: int, total: int) -> None:
        """Rows done of rows in all, within the current phase."""

    def recovered(self, recovery: Recovery) -> None: ...

    def backup_created(self, backup: Backup) -> None: ...

    def backup_deleted(self, backup: Backup) -> None: ...
