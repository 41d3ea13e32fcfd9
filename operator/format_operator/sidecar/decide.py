"""What is to be done with one database argument: ``decide(observed) -> Action``, pure.

    gate connected, app not running                  no gate: the app may be running
    ────────────────────────────────────────         ─────────────────────────────────────────
    pending or NeedsAttention    → closed            nothing is ever touched;
    no StorageFormat, no file    → open              a stored, valid permit       → Armed
    app rolled back (if allowed) → convert back
    file in the target           → open              another target than on disk  → RestartRequired
    may convert now              → convert           as asked for                 → Converted
    may convert later            → closed, waiting
    may not convert              → open if the app can read what is there, else closed

The API's word wins; when it stays away for ``api_wait``, the word stored on the volume stands in for it. The
API being away never keeps the gate closed by itself. A status is never an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from format_operator.api.models import OnFailure, Phase
from format_operator.sidecar import judgement, permits
from format_operator.sidecar.judgement import Judged, Step
from format_operator.sidecar.observed import Asked, Disk, Observed, Rival
from format_operator.sidecar.wish import Stored, Wish


@dataclass(frozen=True)
class Planned:
    """A database to convert, and the name of the format that it gets."""

    path: str
    to: str


@dataclass(frozen=True)
class Action:
    """What to do, and what to say about it. ``wake_in``: seconds until it has to be decided again."""

    phase: Phase
    reason: str
    message: str
    gate_open: bool = False
    convert: tuple[Planned, ...] = ()
    wish: Wish | None = None
    wake_in: float | None = None
    restart_required: bool = False
    armed_for: str | None = None


def decide(observed: Observed) -> Action:
    """The next step for this database argument."""
    governed = _govern(observed)
    if isinstance(governed, _NoWish):
        return _without_wish(observed, governed)
    judge = judgement.at_gate if observed.at_gate else judgement.while_running
    return _combine(observed, governed, [judge(observed, governed, one) for one in observed.files])


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
            reason, detail = answer.silence
            message = f"{detail}; no StorageFormat was seen before either"
            return _NoWish(Phase.IDLE, reason, message)
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


def _without_wish(observed: Observed, none: _NoWish) -> Action:
    """No StorageFormat applies (or not yet): nothing is converted, and only pending work holds the gate."""
    for file in observed.files:
        if (held := judgement.held(file)) is not None:
            return Action(held.phase, held.reason, held.message, wake_in=held.wake_in)
    nothing_there = all(file.disk is Disk.ABSENT for file in observed.files)
    return Action(
        none.phase,
        none.reason,
        none.message,
        gate_open=none.gate_open or nothing_there,
        wake_in=none.wake_in,
    )


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


def _combine(observed: Observed, wish: Wish, judged: Sequence[Judged]) -> Action:
    if not judged:
        return Action(
            Phase.IDLE, "NoDatabase", "there is no database yet", gate_open=True, wish=wish
        )
    worst = min(judged, key=lambda one: _RANK.index(one.phase))
    convert = tuple(
        Planned(one.path, one.to or wish.target_name) for one in judged if one.step is Step.CONVERT
    )
    if convert:
        worst = next(one for one in judged if one.step is Step.CONVERT)
    waits = [one.wake_in for one in judged if one.wake_in is not None]
    armed = None if observed.at_gate else permits.in_force(observed, wish)
    return Action(
        worst.phase,
        worst.reason,
        worst.message,
        gate_open=observed.at_gate and all(one.step is Step.NOTHING for one in judged),
        convert=convert if observed.at_gate else (),
        wish=wish,
        wake_in=min(waits) if waits else None,
        restart_required=any(one.restart_required for one in judged),
        armed_for=armed.target_hash if armed is not None else None,
    )
