"""What one database needs, and whether it holds the gate. Pure; ``decide`` puts the judgements together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from format_operator.api.models import OnFailure, Phase
from format_operator.sidecar import permits
from format_operator.sidecar.observed import Disk, Failure, FailureKind, File, Observed
from format_operator.sidecar.wish import Wish

#: With ``onFailure: StartApp``: how often something that may pass by itself is tried before the app starts.
TRIES_BEFORE_START = 3
#: How often a permit that the volume did not take is written again.
STORE_AGAIN_SECONDS = 5.0
#: Why a gate may have been opened on the old format; worth repeating while the app runs on it.
_STARTED_ON_THE_OLD = frozenset(
    {"NoPermit", "PermitExpired", "PermitForAnotherTarget", "APIUnreachable", "APIForbidden"}
)


class Step(StrEnum):
    """What follows for the database, and for the gate: only nothing at all lets it open."""

    NOTHING = "nothing"
    CONVERT = "convert"
    HOLD = "hold"


@dataclass(frozen=True)
class Judged:
    """One database's step, and what is said of it. ``wake_in``: seconds until it is judged again.

    ``to``: the format to convert to, where that is not the target.
    """

    path: str
    step: Step
    phase: Phase
    reason: str
    message: str
    wake_in: float | None = None
    restart_required: bool = False
    to: str | None = None


def held(file: File) -> Judged | None:
    """Pending work, or two copies that need a person: nothing opens the gate before that is settled."""
    failure = file.failure
    if failure is not None and failure.kind is FailureKind.ATTENTION:
        return Judged(
            file.path,
            Step.HOLD,
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
        return Judged(file.path, Step.HOLD, phase, reason, message, wake_in)
    return None


def _settled(wish: Wish, file: File) -> Judged | None:
    if file.disk is Disk.ABSENT:
        return Judged(file.path, Step.NOTHING, Phase.IDLE, "NoDatabase", "there is no database yet")
    if (
        file.disk is Disk.MARKED
        and file.format is not None
        and file.format.same_bytes_as(wish.target)
    ):
        message = f"the database is in {wish.target_name}"
        return Judged(file.path, Step.NOTHING, Phase.CONVERTED, "InTargetFormat", message)
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


def at_gate(observed: Observed, wish: Wish, file: File) -> Judged:
    """The app does not run: what may be converted is, and the rest opens the gate or holds it."""
    judged = held(file) or _following(observed, wish, file) or _settled(wish, file)
    if judged is not None:
        if judged.phase is Phase.CONVERTED and not _is_readable(observed, wish, file):
            # Such as after `kubectl rollout undo`: this app must not meet bytes that it cannot read.
            return _unconverted(observed, wish, file, Phase.REFUSED, "SkewBlocked", judged.message)
        return judged
    ruled_out = _ruled_out(observed, wish)
    if ruled_out is not None:
        return _unconverted(observed, wish, file, *ruled_out)
    failure = file.failure
    if failure is not None:
        phase, message = _phase_of(failure), failure.message
        if wish.on_failure is OnFailure.START_APP and _given_up(failure):
            judged = _unconverted(observed, wish, file, phase, failure.reason, message)
            if judged.step is Step.NOTHING:
                return judged
            # The app cannot start without the conversion: it is tried again as under Block.
            message = judged.message
        if failure.retry_in > 0:
            return Judged(file.path, Step.HOLD, phase, failure.reason, message, failure.retry_in)
    allowed = permits.missing(observed, wish, file)
    if allowed is None:
        message = f"converting to {wish.target_name}"
        return Judged(file.path, Step.CONVERT, Phase.CONVERTING, "Converting", message)
    reason, message, wake_in = allowed
    if failure is not None and _is_final(failure) and wish.on_failure is OnFailure.BLOCK:
        # Block means: not without the conversion. A permit that ran out meanwhile does not change that.
        text = f"{failure.message} (next attempt: {message})"
        return Judged(file.path, Step.HOLD, _phase_of(failure), failure.reason, text, wake_in)
    if wake_in is not None:
        return Judged(file.path, Step.HOLD, Phase.WAITING, reason, message, wake_in)
    return _unconverted(
        observed, wish, file, Phase.RESTART_REQUIRED, reason, message, restart_required=True
    )


def _following(observed: Observed, wish: Wish, file: File) -> Judged | None:
    """The database follows its app's rollback, where the StorageFormat allows it.

    No permit is asked for: the pod cannot start otherwise, and whatever rolls the app back sets the pace.
    """
    back = _way_back(observed, wish, file)
    if back is None:
        return None
    failure = file.failure
    if failure is not None and failure.retry_in > 0:
        phase, text = _phase_of(failure), f"{failure.message} (on the way back to {back})"
        return Judged(file.path, Step.HOLD, phase, failure.reason, text, failure.retry_in)
    text = (
        f"converting back to {back}: the app reads {_list(observed.reads or ())}, "
        f"the database is in {_describe(wish, file)}"
    )
    return Judged(file.path, Step.CONVERT, Phase.CONVERTING, "ConvertingBack", text, to=back)


def _way_back(observed: Observed, wish: Wish, file: File) -> str | None:
    """The format that an app gets its database in which reads neither that nor the target; None: it stays."""
    reads = observed.reads
    if not wish.converts_back or wish.suspended or reads is None or wish.target_name in reads:
        return None
    if file.disk is not Disk.MARKED or _is_readable(observed, wish, file):
        return None
    known = [name for name in wish.writable if name in reads]
    before = wish.names_of(file.previous) if file.previous is not None else frozenset()
    return next((name for name in known if name in before), known[-1] if known else None)


def while_running(observed: Observed, wish: Wish, file: File) -> Judged:
    """Only words: while the app may be running, nothing is touched."""
    judged = held(file) or _settled(wish, file)
    if judged is not None:
        return judged
    ruled_out = _ruled_out(observed, wish)
    if ruled_out is not None:
        return Judged(file.path, Step.NOTHING, *ruled_out)
    failure = file.failure
    if failure is not None:
        return Judged(
            file.path,
            Step.NOTHING,
            _phase_of(failure),
            failure.reason,
            failure.message,
            restart_required=True,
        )
    permit = permits.in_force(observed, wish)
    if permit is not None:
        return Judged(
            file.path,
            Step.NOTHING,
            Phase.ARMED,
            "Permitted",
            f"converts to {wish.target_name} at the next start",
            (permit.expires - observed.now).total_seconds(),
            restart_required=True,
        )
    unstorable = permits.unstorable(observed, wish)
    if unstorable is not None:
        return Judged(
            file.path,
            Step.NOTHING,
            Phase.FAILED,
            *unstorable,
            STORE_AGAIN_SECONDS,
            restart_required=True,
        )
    if observed.opened_because is not None and observed.opened_because[0] in _STARTED_ON_THE_OLD:
        return Judged(
            file.path,
            Step.NOTHING,
            Phase.RESTART_REQUIRED,
            *observed.opened_because,
            restart_required=True,
        )
    return Judged(
        file.path,
        Step.NOTHING,
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
) -> Judged:
    """The database stays as it is: the app starts if it can read that."""
    if _is_readable(observed, wish, file):
        text = f"{message}; the app starts on {_describe(wish, file)}"
        return Judged(file.path, Step.NOTHING, phase, reason, text, None, restart_required)
    text = (
        f"{message}; the app reads {_list(observed.reads or frozenset())}, "
        f"the database is in {_describe(wish, file)}, so the gate stays closed"
    )
    if phase in {Phase.RESTART_REQUIRED, Phase.IDLE}:
        phase, reason = Phase.WAITING, f"{reason}AndUnreadable"
    return Judged(file.path, Step.HOLD, phase, reason, text)


def _is_readable(observed: Observed, wish: Wish, file: File) -> bool:
    """Whether this pod's app can read the file as it lies; without the annotation it is taken to."""
    if observed.reads is None or file.disk in {Disk.ABSENT, Disk.EMPTY}:
        return True
    if file.format is not None:
        return bool(wish.names_of(file.format) & observed.reads)
    if file.disk is Disk.UNMARKED:
        return all(wish.names_of(one) & observed.reads for one in wish.taken_for)
    return False


def _describe(wish: Wish, file: File) -> str:
    if file.disk is Disk.EMPTY:
        return "an empty database"
    if file.format is not None:
        return wish.name_of(file.format)
    if file.disk is Disk.UNMARKED:
        return " or ".join(wish.name_of(one) for one in wish.taken_for)
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


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
