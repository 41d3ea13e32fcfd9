"""The controller's part of FormatStates: permits, claims, and which of them have outlived their volume. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from format_operator.api.models import Permit
from format_operator.controller.facts import Snapshot, State
from format_operator.controller.standing import Placed, Standing


@dataclass(frozen=True)
class SpecChange:
    """Write the controller's part of a FormatState: both fields as they shall be."""

    state: State
    permit: Permit | None
    claim_uid: str | None


def changes(
    snapshot: Snapshot,
    states: Sequence[State],
    placed: Sequence[Placed],
    holders: Sequence[Placed],
    permit_seconds: float,
) -> tuple[tuple[SpecChange, ...], float | None]:
    """What has to be written, and in how many seconds the next permit has to be renewed.

    A permit that is not to be held is withdrawn, one for a former target above all: were the target set back, it
    would hold again, for a pod whose turn it is not.
    """
    target_hash = snapshot.storageformat.spec.target_hash()
    now = snapshot.now
    fresh = Permit(target_hash, (now + timedelta(seconds=permit_seconds)).replace(microsecond=0))
    half = now + timedelta(seconds=permit_seconds / 2)
    holding = {one.pod.name for one in holders}
    pods = {one.pod.name: one for one in placed}
    found: list[SpecChange] = []
    renewals: list[float] = []
    for state in states:
        name, permit = state.pod, state.permit
        if name in holding:
            if permit is None or not permit.allows(target_hash, half):
                permit = fresh
            renewals.append((permit.expires - half).total_seconds())
        elif permit is not None and not _harmless(permit, target_hash, now, pods.get(name)):
            permit = None
        claim_uid = state.claim_uid
        if name in pods and (served := pods[name].served) is not None and served.claim is not None:
            claim_uid = snapshot.claims.get(served.claim, claim_uid)
        if permit != state.permit or claim_uid != state.claim_uid:
            found.append(SpecChange(state, permit, claim_uid))
    return tuple(found), min(renewals, default=None)


def _harmless(permit: Permit, target_hash: str, now: datetime, placed: Placed | None) -> bool:
    """Whether a permit that nobody needs may stay, because it allows nothing: saves a write per pod."""
    if now >= permit.expires:
        return True
    if placed is None or permit.target_hash != target_hash:
        return False
    return placed.standing is Standing.CONVERTED or placed.was_converted(target_hash)


def deletions(snapshot: Snapshot) -> tuple[State, ...]:
    """FormatStates that speak of a volume that is no more, or that another pod speaks of now."""
    claims = set(snapshot.claims.values())
    expected = {pod.name for pod in snapshot.pods}
    newest: dict[str, State] = {}
    for state in snapshot.states.values():
        if state.claim_uid is not None:
            known = newest.get(state.claim_uid)
            if known is None or _news(snapshot, state) > _news(snapshot, known):
                newest[state.claim_uid] = state

    def outlived(state: State) -> bool:
        if state.pod in snapshot.all_pods:
            return False
        if state.claim_uid is not None and state.claim_uid not in claims:
            return True
        # A pod that is about to be made again finds its permit.
        if state.pod in expected:
            return False
        return state.claim_uid is None or newest[state.claim_uid] is not state

    return tuple(state for state in snapshot.states.values() if outlived(state))


def _news(snapshot: Snapshot, state: State) -> tuple[bool, str, str]:
    return (state.pod in snapshot.all_pods, state.updated_at, state.name)
