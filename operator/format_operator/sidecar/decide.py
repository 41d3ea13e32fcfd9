"""What is to be done with one database argument: ``decide(observed) -> Action``, pure.

    gate connected, app not running                  no gate: the app may be running
    ────────────────────────────────────────         ─────────────────────────────────────────
    pending or NeedsAttention    → closed            nothing is ever touched;
    no StorageFormat, no file    → open              a stored, valid permit       → Armed
    file in the target           → open              another target than on disk  → RestartRequired
    may convert now              → convert           as asked for                 → Converted
    may convert later            → closed, waiting
    may not convert              → open if the app can read what is there, else closed

The API's word wins; when it stays away for ``api_wait``, the word stored on the volume stands in for it. The
API being away never keeps the gate closed by itself. A status is never an input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from format_operator.api.models import OnFailure, Permit, Phase
from format_operator.sidecar.wish import Stored, Wish
from format_store import Format

T = TypeVar("T")

#: With ``onFailure: StartApp``: how often something that may pass by itself is tried before the app starts.
TRIES_BEFORE_START = 3


class Asked(StrEnum):
    """How the question for an object was answered last."""

    PENDING = "pending"
    FOUND = "found"
    ABSENT = "absent"
    UNSERVED = "unserved"
    INVALID = "invalid"
    UNREACHABLE = "unreachable"
    FORBIDDEN = "forbidden"


#: Why a gate may have been opened on the old format; worth repeating while the app runs on it.
_STARTED_ON_THE_OLD = frozenset(
    {"NoPermit", "PermitExpired", "PermitForAnotherTarget", "APIUnreachable", "APIForbidden"}
)
_NO_ANSWER_YET = "the API server did not answer in time"
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
    """One database as last looked at."""

    path: str
    disk: Disk
    format: Format | None = None
    pending: bool = False
    failure: Failure | None = None


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


@dataclass(frozen=True)
class Action:
    """What to do, and what to say about it. ``wake_in``: seconds until it has to be decided again."""

    phase: Phase
    reason: str
    message: str
    gate_open: bool = False
    convert: tuple[str, ...] = ()
    wish: Wish | None = None
    wake_in: float | None = None
    restart_required: bool = False
    armed_for: str | None = None


def decide(observed: Observed) -> Action:
    """The next step for this database argument."""
    governed = _govern(observed)
    if isinstance(governed, _NoWish):
        return _without_wish(observed, governed)
    if observed.at_gate:
        return _combine(
            observed, governed, (_at_gate(observed, governed, one) for one in observed.files)
        )
    return _combine(
        observed, governed, (_running(observed, governed, one) for one in observed.files)
    )


def remember(observed: Observed) -> Stored | None:
    """What the volume should know: the API's last word, or what is stored where the API said nothing."""
    answer = observed.storageformat
    if not answer.is_known or answer.asked is Asked.INVALID:
        return observed.stored
    wish = answer.value
    if wish is None or wish.storageformat.deleting or wish.path != observed.argument:
        return None
    if observed.rival is not Rival.NONE:
        return observed.stored
    if observed.permit.is_known:
        permit = observed.permit.value
    else:
        permit = observed.stored.permit if observed.stored is not None else None
    # A permit that allows nothing is not worth a write to the volume.
    if permit is not None and not permit.allows(wish.target_hash, observed.now):
        permit = None
    return Stored(wish, permit)


# --- which StorageFormat, if any ------------------------------------------------------------------------


@dataclass(frozen=True)
class _NoWish:
    phase: Phase
    reason: str
    message: str
    gate_open: bool = True
    wake_in: float | None = None


def _govern(observed: Observed) -> Wish | _NoWish:
    answer = observed.storageformat
    if not answer.is_known:
        if (waiting := _api_may_answer(observed)) is not None:
            return waiting
        if observed.stored is None:
            return _NoWish(
                Phase.IDLE,
                _silence(answer),
                f"{answer.detail or _NO_ANSWER_YET}; no StorageFormat was seen before either",
            )
        wish = observed.stored.wish
    elif answer.asked is Asked.INVALID:
        return _NoWish(
            Phase.REFUSED,
            "InvalidStorageFormat",
            f"nothing was touched: {answer.detail}",
            gate_open=answer.on_failure is OnFailure.START_APP,
        )
    elif answer.value is None:
        return _NoWish(Phase.IDLE, "NoStorageFormat", answer.detail or "there is no StorageFormat")
    else:
        wish = answer.value
    return _applicable(observed, wish)


def _applicable(observed: Observed, wish: Wish) -> Wish | _NoWish:
    if wish.storageformat.deleting:
        return _NoWish(Phase.IDLE, "StorageFormatDeleted", "the StorageFormat is being deleted")
    if wish.path != observed.argument:
        return _NoWish(
            Phase.PATH_NOT_SERVED,
            "PathNotServed",
            f"the StorageFormat is about {wish.path}, this sidecar was started for {observed.argument}"
            ": correct the sidecar's --database, or make another StorageFormat",
        )
    if observed.rival is Rival.OLDER:
        return _NoWish(
            Phase.CONFLICT,
            "Conflict",
            f"the older StorageFormat {observed.rival_name} governs {observed.argument}; delete one of the two",
        )
    if observed.rival is Rival.UNDECIDED and (waiting := _api_may_answer(observed)) is not None:
        return waiting
    return wish


def _api_may_answer(observed: Observed) -> _NoWish | None:
    """While the API may still answer, the gate waits for it."""
    left = observed.api_wait - observed.gate_seconds
    if not observed.at_gate or left <= 0:
        return None
    detail = observed.storageformat.detail or "asking the API server"
    return _NoWish(Phase.WAITING, "AskingAPI", detail, gate_open=False, wake_in=left)


def _silence(answer: Answer[T]) -> str:
    return "APIForbidden" if answer.asked is Asked.FORBIDDEN else "APIUnreachable"


def _without_wish(observed: Observed, none: _NoWish) -> Action:
    """No StorageFormat applies (or not yet): nothing is converted, and only pending work holds the gate."""
    for file in observed.files:
        if (held := _held(file)) is not None:
            return Action(held.phase, held.reason, held.message, wake_in=held.wake_in)
    nothing_there = all(file.disk is Disk.ABSENT for file in observed.files)
    return Action(
        none.phase,
        none.reason,
        none.message,
        gate_open=none.gate_open or nothing_there,
        wake_in=none.wake_in,
    )


# --- one file ---------------------------------------------------------------------------------------------


class _Step(StrEnum):
    NOTHING = "nothing"
    CONVERT = "convert"
    HOLD = "hold"


@dataclass(frozen=True)
class _Judged:
    path: str
    step: _Step
    phase: Phase
    reason: str
    message: str
    wake_in: float | None = None
    restart_required: bool = False


def _held(file: File) -> _Judged | None:
    """Pending work, or two copies that need a person: nothing opens the gate before that is settled."""
    failure = file.failure
    if failure is not None and failure.kind is FailureKind.ATTENTION:
        return _Judged(
            file.path,
            _Step.HOLD,
            Phase.FAILED,
            failure.reason,
            failure.message,
            max(failure.retry_in, 0),
        )
    if file.pending:
        reason = failure.reason if failure is not None else "RecoveryPending"
        message = (
            failure.message
            if failure is not None
            else "an interrupted conversion is recovered when the pod's gate is connected"
        )
        wake_in = max(failure.retry_in, 0) if failure is not None else None
        phase = Phase.FAILED if _is_final(failure) else Phase.RECOVERING
        return _Judged(file.path, _Step.HOLD, phase, reason, message, wake_in)
    return None


def _settled(wish: Wish, file: File) -> _Judged | None:
    if file.disk is Disk.ABSENT:
        return _Judged(
            file.path, _Step.NOTHING, Phase.IDLE, "NoDatabase", "there is no database yet"
        )
    if (
        file.disk is Disk.MARKED
        and file.format is not None
        and file.format.same_bytes_as(wish.target)
    ):
        message = f"the database is in {wish.target_name}"
        return _Judged(file.path, _Step.NOTHING, Phase.CONVERTED, "InTargetFormat", message)
    return None


def _ruled_out(observed: Observed, wish: Wish) -> tuple[Phase, str, str] | None:
    """Why this target must not be converted to now, whoever permits it."""
    if wish.suspended:
        return Phase.IDLE, "Suspended", "spec.rollout.suspended is true"
    if observed.reads is not None and wish.target_name not in observed.reads:
        message = (
            f"this pod's app reads {_list(observed.reads)}, the target is {wish.target_name}: "
            "release an app that reads both first"
        )
        return Phase.REFUSED, "SkewBlocked", message
    return None


def _at_gate(observed: Observed, wish: Wish, file: File) -> _Judged:
    judged = _held(file) or _settled(wish, file)
    if judged is not None:
        return judged
    ruled_out = _ruled_out(observed, wish)
    if ruled_out is not None:
        return _unconverted(observed, wish, file, *ruled_out)
    failure = file.failure
    if failure is not None:
        if wish.on_failure is OnFailure.START_APP and _given_up(failure):
            return _unconverted(
                observed, wish, file, _phase_of(failure), failure.reason, failure.message
            )
        if failure.retry_in > 0:
            return _Judged(
                file.path,
                _Step.HOLD,
                _phase_of(failure),
                failure.reason,
                failure.message,
                failure.retry_in,
            )
    allowed = _permission(observed, wish, file)
    if allowed is None:
        message = f"converting to {wish.target_name}"
        return _Judged(file.path, _Step.CONVERT, Phase.CONVERTING, "Converting", message)
    reason, message, wake_in = allowed
    if failure is not None and _is_final(failure) and wish.on_failure is OnFailure.BLOCK:
        # Block means: not without the conversion. A permit that ran out meanwhile does not change that.
        text = f"{failure.message} (next attempt: {message})"
        return _Judged(file.path, _Step.HOLD, _phase_of(failure), failure.reason, text, wake_in)
    if wake_in is not None:
        return _Judged(file.path, _Step.HOLD, Phase.WAITING, reason, message, wake_in)
    return _unconverted(
        observed, wish, file, Phase.RESTART_REQUIRED, reason, message, restart_required=True
    )


def _running(observed: Observed, wish: Wish, file: File) -> _Judged:
    """Only words: while the app may be running, nothing is touched."""
    judged = _held(file) or _settled(wish, file)
    if judged is not None:
        return judged
    ruled_out = _ruled_out(observed, wish)
    if ruled_out is not None:
        return _Judged(file.path, _Step.NOTHING, *ruled_out)
    failure = file.failure
    if failure is not None:
        return _Judged(
            file.path,
            _Step.NOTHING,
            _phase_of(failure),
            failure.reason,
            failure.message,
            restart_required=True,
        )
    permit = _permit_in_force(observed, wish)
    if permit is not None:
        return _Judged(
            file.path,
            _Step.NOTHING,
            Phase.ARMED,
            "Permitted",
            f"converts to {wish.target_name} at the next start",
            (permit.expires - observed.now).total_seconds(),
            restart_required=True,
        )
    if observed.opened_because is not None and observed.opened_because[0] in _STARTED_ON_THE_OLD:
        return _Judged(
            file.path,
            _Step.NOTHING,
            Phase.RESTART_REQUIRED,
            *observed.opened_because,
            restart_required=True,
        )
    return _Judged(
        file.path,
        _Step.NOTHING,
        Phase.RESTART_REQUIRED,
        "AppRunning",
        f"the app runs on {_describe(wish, file)}; {wish.target_name} needs a restart"
        + (" and a permit" if wish.needs_permit else ""),
        restart_required=True,
    )


def _unconverted(
    observed: Observed,
    wish: Wish,
    file: File,
    phase: Phase,
    reason: str,
    message: str,
    *,
    restart_required: bool = False,
) -> _Judged:
    """The database stays as it is: the app starts if it can read that."""
    if _is_readable(observed, wish, file):
        text = f"{message}; the app starts on {_describe(wish, file)}"
        return _Judged(file.path, _Step.NOTHING, phase, reason, text, None, restart_required)
    text = (
        f"{message}; the app reads {_list(observed.reads or frozenset())}, "
        f"the database is in {_describe(wish, file)}, so the gate stays closed"
    )
    if phase in {Phase.RESTART_REQUIRED, Phase.IDLE}:
        phase, reason = Phase.WAITING, f"{reason}AndUnreadable"
    return _Judged(file.path, _Step.HOLD, phase, reason, text)


def _permission(observed: Observed, wish: Wish, file: File) -> tuple[str, str, float | None] | None:
    """None: may convert now. Otherwise why not, and how long that may still change (None: time is up)."""
    # An empty database holds nothing that could be lost: a new replica is marked at once.
    if not wish.needs_permit or file.disk is Disk.EMPTY:
        return None
    answer = observed.permit
    permit = answer.value
    if not answer.is_known:
        left = observed.api_wait - observed.gate_seconds
        if left > 0:
            return "AskingAPI", answer.detail or "asking the API server for a permit", left
        permit = observed.stored.permit if observed.stored is not None else None
    if permit is not None and permit.allows(wish.target_hash, observed.now):
        return None
    reason, message = _why_not(wish, permit)
    if not answer.is_known:
        detail = answer.detail or _NO_ANSWER_YET
        return _silence(answer), f"{detail}; on the volume: {message}", None
    if _governs_silently(observed):
        detail = observed.storageformat.detail or _NO_ANSWER_YET
        return _silence(observed.storageformat), f"{detail}; {message}", None
    left = observed.permit_wait - observed.gate_seconds
    return (reason, message, left) if left > 0 else (reason, f"{message} in time", None)


def _why_not(wish: Wish, permit: Permit | None) -> tuple[str, str]:
    if permit is None:
        return "NoPermit", "no permit from the controller"
    if permit.target_hash != wish.target_hash:
        return "PermitForAnotherTarget", (
            f"the permit is for target {permit.target_hash}, not for {wish.target_hash}"
        )
    return (
        "PermitExpired",
        f"the permit expired at {permit.expires:%Y-%m-%dT%H:%M:%SZ} and none came",
    )


def _governs_silently(observed: Observed) -> bool:
    return not observed.storageformat.is_known


def _permit_in_force(observed: Observed, wish: Wish) -> Permit | None:
    """The permit that a restart would find on the volume."""
    stored = observed.stored
    if not wish.needs_permit or stored is None or stored.permit is None:
        return None
    if observed.permit.is_known and observed.permit.value != stored.permit:
        return None
    return stored.permit if stored.permit.allows(wish.target_hash, observed.now) else None


def _is_readable(observed: Observed, wish: Wish, file: File) -> bool:
    """Whether this pod's app can read the file as it lies; without the annotation it is taken to."""
    if observed.reads is None or file.disk in {Disk.ABSENT, Disk.EMPTY}:
        return True
    if file.format is not None:
        return bool(wish.names_of(file.format) & observed.reads)
    if file.disk is Disk.UNMARKED:
        return all(wish.names_of(one) & observed.reads for one in wish.unmarked)
    return False


def _describe(wish: Wish, file: File) -> str:
    if file.disk is Disk.EMPTY:
        return "an empty database"
    if file.format is not None:
        return wish.name_of(file.format)
    if file.disk is Disk.UNMARKED:
        return " or ".join(wish.name_of(one) for one in wish.unmarked)
    return "an unknown format"


def _given_up(failure: Failure) -> bool:
    """Whether ``StartApp`` may let the app start. Never while another process converts the database."""
    if failure.kind is FailureKind.TRY_AGAIN:
        return failure.attempts >= TRIES_BEFORE_START and failure.reason != "Locked"
    return failure.kind is not FailureKind.ATTENTION


def _is_final(failure: Failure | None) -> bool:
    return failure is not None and failure.kind is not FailureKind.TRY_AGAIN


def _phase_of(failure: Failure) -> Phase:
    if failure.kind is FailureKind.REFUSED:
        return Phase.REFUSED
    return Phase.WAITING if failure.kind is FailureKind.TRY_AGAIN else Phase.FAILED


# --- all files of an argument -------------------------------------------------------------------------------

_RANK = (
    Phase.FAILED,
    Phase.REFUSED,
    Phase.RECOVERING,
    Phase.CONVERTING,
    Phase.WAITING,
    Phase.RESTART_REQUIRED,
    Phase.ARMED,
    Phase.CONVERTED,
    Phase.IDLE,
)


def _combine(observed: Observed, wish: Wish, judgements: Iterable[_Judged]) -> Action:
    judged = tuple(judgements)
    if not judged:
        return Action(
            Phase.IDLE, "NoDatabase", "there is no database yet", gate_open=True, wish=wish
        )
    worst = min(judged, key=lambda one: _RANK.index(one.phase))
    convert = tuple(one.path for one in judged if one.step is _Step.CONVERT)
    if convert:
        worst = next(one for one in judged if one.step is _Step.CONVERT)
    waits = [one.wake_in for one in judged if one.wake_in is not None]
    armed = None if observed.at_gate else _permit_in_force(observed, wish)
    return Action(
        worst.phase,
        worst.reason,
        worst.message,
        gate_open=observed.at_gate and all(one.step is _Step.NOTHING for one in judged),
        convert=convert if observed.at_gate else (),
        wish=wish,
        wake_in=min(waits) if waits else None,
        restart_required=any(one.restart_required for one in judged),
        armed_for=armed.target_hash if armed is not None else None,
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
