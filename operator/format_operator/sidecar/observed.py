"""What a decision depends on: plain values, made by the reconciler, judged by ``decide``.

Nothing here does anything, and nothing here comes from a status.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from format_operator.api.models import OnFailure, Permit
from format_operator.sidecar.wish import Stored, Wish
from format_store import Format

T = TypeVar("T")


class Asked(StrEnum):
    """How the question for an object was answered last."""

    PENDING = "pending"
    FOUND = "found"
    ABSENT = "absent"
    UNSERVED = "unserved"
    INVALID = "invalid"
    UNREACHABLE = "unreachable"
    FORBIDDEN = "forbidden"


_NO_ANSWER = frozenset({Asked.PENDING, Asked.UNREACHABLE, Asked.FORBIDDEN})


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What the API said of an object. ``on_failure`` and ``detail`` are for an INVALID one, and for errors."""

    asked: Asked = Asked.PENDING
    value: T | None = None
    detail: str = ""
    on_failure: OnFailure = OnFailure.BLOCK

    @property
    def is_known(self) -> bool:
        return self.asked not in _NO_ANSWER

    @property
    def silence(self) -> tuple[str, str]:
        """Reason and message where nothing is known."""
        reason = "APIForbidden" if self.asked is Asked.FORBIDDEN else "APIUnreachable"
        return reason, self.detail or "the API server did not answer in time"


class Rival(StrEnum):
    """Whether another StorageFormat of this pod claims the same path."""

    NONE = "none"
    UNDECIDED = "undecided"
    OLDER = "older"


class Disk(StrEnum):
    """What lies at a path, in the words of ``format_store.inspect``; unknown: it could not be looked at."""

    ABSENT = "absent"
    EMPTY = "empty"
    UNMARKED = "unmarked"
    MARKED = "marked"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


class FailureKind(StrEnum):
    """What a failure promises about the database (the tree of ``format_store.errors``)."""

    TRY_AGAIN = "try-again"
    REFUSED = "refused"
    FAILED = "failed"
    ATTENTION = "attention"


@dataclass(frozen=True)
class Failure:
    """Why the last attempt ended. ``retry_in`` is in seconds from now; 0 or less: due."""

    kind: FailureKind
    reason: str
    message: str
    attempts: int = 1
    retry_in: float = 0.0


@dataclass(frozen=True)
class File:
    """One database as last looked at. ``previous``: the format before its last conversion, where its marker tells."""

    path: str
    disk: Disk
    format: Format | None = None
    pending: bool = False
    failure: Failure | None = None
    previous: Format | None = None


@dataclass(frozen=True)
class Observed:
    """Everything a decision depends on. ``gate_seconds`` counts from when the gate connected."""

    now: datetime
    argument: str
    at_gate: bool
    gate_seconds: float
    permit_wait: float
    api_wait: float
    reads: frozenset[str] | None
    storageformat: Answer[Wish]
    permit: Answer[Permit]
    stored: Stored | None
    files: tuple[File, ...]
    rival: Rival = Rival.NONE
    rival_name: str = ""
    opened_because: tuple[str, str] | None = None  # reason and message of when the gate was opened
    unstored: tuple[str, str] | None = None  # why the API's word could not be put on the volume
