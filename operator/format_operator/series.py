"""The facts about one ``--database`` argument that a scrape tells, and those that are one number each.

Whoever knows something new replaces an attribute; a scrape reads them as they are.
"""

from __future__ import annotations

import calendar
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol


@dataclass(frozen=True)
class FormatInfo:
    """One format on disk and how many databases are in it."""

    name: str
    engine: str
    key_encoding: str
    value_codec: str
    compression: str


class BackupLike(Protocol):
    """What is read of a backup: bytes, and an RFC 3339 time in UTC."""

    @property
    def size(self) -> int: ...

    @property
    def created_at(self) -> str: ...

    @property
    def retain_until(self) -> str | None: ...

    @property
    def pinned(self) -> bool: ...


@dataclass
class DatabaseSeries:
    """The facts about one argument. Attributes are replaced, never changed in place: scrapes read meanwhile."""

    storageformat: str
    database: str
    paths: tuple[str, ...] = ()
    backups: Mapping[str, BackupLike] = field(default_factory=dict)
    totals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    refused: int = 0
    last_recovery_at: str | None = None
    last_success_at: str | None = None
    progress: float = 0.0
    phase: str = "idle"
    formats: Mapping[FormatInfo, int] = field(default_factory=dict)
    gate_open: bool = False
    restart_required: bool = False
    state: tuple[str, str] | None = None
    """Phase and reason."""
    failing: Mapping[str, int] = field(default_factory=dict)
    """How many databases, by FAILURE_KINDS."""
    answered: Callable[[], float | None] = lambda: None
    """When the API server last answered, by the monotonic clock."""
    watches: Callable[[], int] = lambda: 0
    """How often the watch was begun."""

    @property
    def labels(self) -> tuple[str, str]:
        return self.storageformat, self.database

    def total(self, key: str) -> int:
        """Over all databases of the argument, those included that are gone: a total never falls."""
        return sum(totals.get(key, 0) for totals in self.totals.values())

    def size_bytes(self) -> int:
        return sum(_size(path) for path in self.paths)

    def volume_bytes(self) -> float | None:
        """Of the filesystem that the databases are on; None while it cannot be asked."""
        found = _filesystem(self.database)
        return float(found.f_frsize * found.f_blocks) if found is not None else None

    def free_bytes(self) -> float | None:
        """What anybody but root may still write there."""
        found = _filesystem(self.database)
        return float(found.f_frsize * found.f_bavail) if found is not None else None

    def retained_until(self) -> float | None:
        """When the first of the backups that are not pinned is to be deleted."""
        moments = [timestamp(one.retain_until) for one in self.backups.values() if not one.pinned]
        return min((moment for moment in moments if moment is not None), default=None)

    def answered_at(self) -> float | None:
        """When the API server last answered, by this machine's clock."""
        moment = self.answered()
        return None if moment is None else time.time() - (time.monotonic() - moment)


def timestamp(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 text; None where it is none."""
    if text is None:
        return None
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def _filesystem(database: str) -> os.statvfs_result | None:
    try:
        return os.statvfs(os.path.dirname(database))
    except OSError:
        return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


Gauge = tuple[str, str, Callable[[DatabaseSeries], float | None]]
#: Name, text and value of what there is one of for each argument; None leaves the series out.
GAUGES: Final[tuple[Gauge, ...]] = (
    (
        "backup_present",
        "Whether the volume holds a backup (1) or not (0).",
        lambda one: bool(one.backups),
    ),
    (
        "backup_size_bytes",
        "Size of the backups on the volume.",
        lambda one: sum(backup.size for backup in one.backups.values()),
    ),
    (
        "backup_created_timestamp_seconds",
        "When the oldest backup on the volume was made; absent without one.",
        lambda one: min(
            (timestamp(backup.created_at) or 0.0 for backup in one.backups.values()),
            default=None,
        ),
    ),
    (
        "last_recovery_timestamp_seconds",
        "When an interrupted conversion was last recovered; absent if never.",
        lambda one: timestamp(one.last_recovery_at),
    ),
    (
        "last_success_timestamp_seconds",
        "When a conversion last succeeded; absent if never.",
        lambda one: timestamp(one.last_success_at),
    ),
    (
        "conversion_progress_ratio",
        "How far the running conversion is within its phase, 0 to 1.",
        lambda one: one.progress,
    ),
    ("database_size_bytes", "Size of the database files.", DatabaseSeries.size_bytes),
    (
        "gate_open",
        "Whether the app may run (1) or is held back by the gate (0).",
        lambda one: one.gate_open,
    ),
    (
        "restart_required",
        "Whether a conversion waits for a restart of the pod (1).",
        lambda one: one.restart_required,
    ),
    (
        "backup_retain_until_timestamp_seconds",
        "When the next backup is to be deleted; absent without one that is not pinned.",
        DatabaseSeries.retained_until,
    ),
    (
        "volume_free_bytes",
        "What is free on the filesystem of the databases, for anybody but root.",
        DatabaseSeries.free_bytes,
    ),
    (
        "volume_size_bytes",
        "Size of the filesystem of the databases.",
        DatabaseSeries.volume_bytes,
    ),
    (
        "api_last_answer_timestamp_seconds",
        "When the API server last answered about the StorageFormat or FormatState; absent if never.",
        DatabaseSeries.answered_at,
    ),
)
