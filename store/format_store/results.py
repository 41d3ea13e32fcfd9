"""What a run returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from format_store import clock
from format_store.formats import Format
from format_store.observer import Backup, Recovery
from format_store.run import Run


class Outcome(StrEnum):
    """How a run ended. ``absent``: there is no file, and there is nothing to do."""

    CONVERTED = "converted"
    UNCHANGED = "unchanged"
    ABSENT = "absent"
    RECOVERED = "recovered"
    RESTORED = "restored"


@dataclass(frozen=True)
class Result:
    """A finished run. Sizes in bytes; ``source`` is the format that was found."""

    path: str
    outcome: Outcome
    source: Format | None
    target: Format | None
    conversion_id: str | None
    rows: int
    bytes_before: int
    bytes_after: int
    seconds: float
    recoveries: tuple[Recovery, ...]
    backup: Backup | None

    @classmethod
    def of(
        cls,
        run: Run,
        outcome: Outcome,
        started: float,
        recoveries: tuple[Recovery, ...],
        *,
        source: Format | None = None,
        target: Format | None = None,
        conversion_id: str | None = None,
        rows: int = 0,
        bytes_before: int | None = None,
        backup: Backup | None = None,
    ) -> Result:
        try:
            size = os.stat(run.primary).st_size
        except OSError:
            size = 0  # a size is for people: what has been done is not to be told as failed for its sake
        return cls(
            os.fspath(run.primary),
            outcome,
            source,
            target,
            conversion_id,
            rows,
            size if bytes_before is None else bytes_before,
            size,
            max(0.0, clock.seconds() - started),
            recoveries,
            backup,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "outcome": str(self.outcome),
            "source": self.source.to_spec() if self.source else None,
            "target": self.target.to_spec() if self.target else None,
            "conversionID": self.conversion_id,
            "rows": self.rows,
            "bytesBefore": self.bytes_before,
            "bytesAfter": self.bytes_after,
            "seconds": round(self.seconds, 3),
            "recoveries": [recovery.to_dict() for recovery in self.recoveries],
            "backup": self.backup.to_dict() if self.backup else None,
        }
