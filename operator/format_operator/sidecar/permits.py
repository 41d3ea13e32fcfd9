"""Whether a permit allows the conversion: the API's word, or in its silence the one on the volume. Pure."""

from __future__ import annotations

from format_operator.api.models import Permit
from format_operator.sidecar.observed import Disk, File, Observed
from format_operator.sidecar.wish import Wish


def missing(observed: Observed, wish: Wish, file: File) -> tuple[str, str, float | None] | None:
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
        silence, detail = answer.silence
        return silence, f"{detail}; on the volume: {message}", None
    if not observed.storageformat.is_known:
        silence, detail = observed.storageformat.silence
        return silence, f"{detail}; {message}", None
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


def unstorable(observed: Observed, wish: Wish) -> tuple[str, str] | None:
    """Why a permit that the API holds is not in force: the volume does not take it. Reason and message."""
    permit = observed.permit.value
    if observed.unstored is None or not wish.needs_permit or permit is None:
        return None
    if not permit.allows(wish.target_hash, observed.now):
        return None
    reason, why = observed.unstored
    return reason, f"the permit to convert cannot be stored on the volume: {why}"


def in_force(observed: Observed, wish: Wish) -> Permit | None:
    """The permit that a restart would find on the volume."""
    stored = observed.stored
    if not wish.needs_permit or stored is None or stored.permit is None:
        return None
    if observed.permit.is_known and observed.permit.value != stored.permit:
        return None
    return stored.permit if stored.permit.allows(wish.target_hash, observed.now) else None
