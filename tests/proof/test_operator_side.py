"""A sample of wrong answers of the API server to a sidecar and to the controller; ``operator_side`` says how."""

from __future__ import annotations

import uuid
from pathlib import Path

from controlplane import ControlPlane
from tests.apiserver.faulty import Fault
from tests.proof import operator_side
from tests.proof.operator_side import Case, ControllerStage, SidecarStage, sample


def name() -> str:
    return f"t-{uuid.uuid4().hex[:10]}"


def test_wrong_answers_to_a_sidecar(control_plane: ControlPlane, tmp_path: Path) -> None:
    """Whatever is answered once: the gate waits, the database is converted once, and the report is right in the end."""
    cases = operator_side.sidecar_cases()
    quick = [one for one in cases if one.times == 1 and one.fault is not Fault.DRIPS]
    found = [one for one in quick if not one.kind.startswith("list")]
    tried = [*sample(found, 3, seed=6, restart=False), *sample(found, 1, seed=1, restart=True)]
    with SidecarStage(control_plane, tmp_path / "pod", name(), api_wait=40) as stage:
        results = [stage.play(case) for case in tried]
    assert [one for one in results if one.lost or not one.met] == []


def test_a_gate_that_opened_too_early_would_be_found(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    """A sidecar that believes a load balancer's 404 starts the app on the old format: the proof says so."""
    case = Case("get storageformats", Fault.LOST_PAGE)
    stage = SidecarStage(
        control_plane, tmp_path / "pod", name(), api_wait=40, program="tests.proof.gullible"
    )
    with stage:
        found = stage.play(case)
    assert found.met
    assert "is in" in found.lost


def test_wrong_answers_to_the_controller(control_plane: ControlPlane, tmp_path: Path) -> None:
    """The rollout is finished in order, each pod evicted once, whatever was answered to it."""
    cases = list(operator_side.controller_cases())
    once = [one for one in cases if one.times == 1 and not one.kind.startswith("list")]
    tried = [
        Case("create pods/eviction", Fault.LOST),
        *sample(once, 2, seed=4, restart=False),
    ]
    with ControllerStage(control_plane, tmp_path / "controller", name()) as stage:
        results = [stage.play(case) for case in tried]
    assert [one for one in results if one.lost or not one.met] == []


def test_a_conflict_that_is_none(control_plane: ControlPlane, tmp_path: Path) -> None:
    """Where a write is refused for what is not so, or answered by whatever, nothing else would ever tell the controller: it looks,
    and tries again."""
    tried = [
        Case("patch formatstates", Fault.CONFLICT),
        Case("create pods/eviction", Fault.CONFLICT),
        Case("create pods/eviction", Fault.NOTHING),
        Case("patch storageformats/status", Fault.CONFLICT, times=None, seconds=2.5),
    ]
    with ControllerStage(control_plane, tmp_path / "controller", name()) as stage:
        results = [stage.play(case) for case in tried]
    assert [one for one in results if one.lost or not one.met] == []
