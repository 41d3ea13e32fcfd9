"""The controller against the real API server: its role, its preconditions, and its own death at any step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import ControlPlane
from format_operator.api.names import API_VERSION
from tests.apiserver.conftest import DEPLOY
from tests.apiserver.controllers import Controllers, Rollout, eventually


@pytest.fixture
def controllers(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Controllers]:
    made = Controllers(control_plane, tmp_path)
    yield made
    made.close()


@pytest.fixture
def rollout(control_plane: ControlPlane, namespace: str) -> Rollout:
    return Rollout(control_plane, namespace)


def test_converts_one_pod_after_the_other(controllers: Controllers, rollout: Rollout) -> None:
    """Highest ordinal first, one permit at a time; `kubectl wait` returns when the last one is done."""
    rollout.make()
    controllers.start(namespace=rollout.namespace)
    for ordinal in range(3):
        rollout.report(ordinal, "RestartRequired", reason="AppRunning")
    for ordinal in (2, 1, 0):
        uid = rollout.uid(ordinal)
        rollout.arm(ordinal)
        rollout.gone(ordinal, uid)
        # Those that are done may keep theirs: it allows nothing any more.
        assert [one for one in rollout.permitted() if one < ordinal] == []
        rollout.convert(ordinal)
    waited = rollout.plane.kubectl(
        *("wait", "--for=condition=Ready", "sf/orders", "--timeout=40s"),
        *("-n", rollout.namespace),
    )
    assert "condition met" in waited.stdout
    eventually(lambda: rollout.status().get("converted") == 3)
    status = rollout.status()
    assert (status["pods"], status["pending"], status["failed"]) == (3, 0, 0)
    assert status["persistedFormats"] == [{"name": "v2", "count": 3}]
    assert rollout.condition("SafeToDropOldFormat")["status"] == "True"
    assert rollout.condition("Degraded")["reason"] == "AsExpected"
    told = rollout.plane.kubectl("get", "events", "-n", rollout.namespace, "-o", "name").stdout
    assert told.count("event/orders.") >= 4  # three evictions, and Converted
    claim = f"/api/v1/namespaces/{rollout.namespace}/persistentvolumeclaims/data-orders-1"
    assert rollout.state(1)["spec"]["claimUID"] == rollout.plane.admin.get(claim)["metadata"]["uid"]


def test_the_columns_tell_the_story(controllers: Controllers, rollout: Rollout) -> None:
    """`kubectl get sf` and `fs` show target, counts, readiness and phase at a glance."""
    rollout.make()
    controllers.start(namespace=rollout.namespace)
    rollout.report(2, "RestartRequired", reason="AppRunning")
    rollout.arm(2)
    eventually(lambda: rollout.status().get("pods") == 3)
    shown = rollout.plane.kubectl("get", "sf", "-n", rollout.namespace).stdout.splitlines()
    assert shown[0].split() == [
        *("NAME", "TARGET", "PODS", "CONVERTED", "FAILED", "READY", "ROLLOUT", "AGE")
    ]
    assert shown[1].split()[:6] == ["orders", "v2", "3", "0", "0", "False"]
    shown = rollout.plane.kubectl("get", "fs", "-n", rollout.namespace).stdout.splitlines()
    assert "Armed" in shown[1]


def test_a_budget_makes_evictions_wait(controllers: Controllers, rollout: Rollout) -> None:
    """429: said with the budget's words, tried again, and done when the budget allows it."""
    rollout.make()
    admin, ns = rollout.plane.admin, rollout.namespace
    path = f"/apis/policy/v1/namespaces/{ns}/poddisruptionbudgets"
    labels = {"matchLabels": {"app": "orders"}}
    budget = {"metadata": {"name": "orders"}, "spec": {"minAvailable": 3, "selector": labels}}
    admin.create(path, budget)

    def allow(pods: int) -> None:
        status = {
            "disruptionsAllowed": pods,
            "currentHealthy": 3,
            "desiredHealthy": 3 - pods,
            "expectedPods": 3,
            "observedGeneration": 1,
        }
        admin.patch(f"{path}/orders/status", {"status": status})

    allow(0)
    controllers.start(namespace=ns)
    for ordinal in range(3):
        rollout.report(ordinal, "RestartRequired", reason="AppRunning")
    uid = rollout.uid(2)
    rollout.arm(2)
    eventually(lambda: rollout.phase() == "WaitingForDisruptionBudget", "it waits for the budget")
    assert rollout.is_there(2, uid)
    assert "disruption budget orders" in rollout.status()["rollout"]["message"]
    allow(1)
    rollout.gone(2, uid)


def test_killed_at_each_step(controllers: Controllers, rollout: Rollout) -> None:
    """SIGKILL after each thing that happens; the next instance goes on from the objects alone."""
    rollout.make()
    for ordinal in range(3):
        rollout.report(ordinal, "RestartRequired", reason="AppRunning")

    def replace() -> None:
        for process in controllers.processes:
            if process.is_running:
                process.send(signal.SIGKILL)
                process.ends()
        controllers.start(namespace=rollout.namespace)

    replace()
    for ordinal in (2, 1, 0):
        uid = rollout.uid(ordinal)
        eventually(lambda ordinal=ordinal: ordinal in rollout.permitted())
        replace()
        rollout.arm(ordinal)
        replace()
        rollout.gone(ordinal, uid)
        replace()
        rollout.pod(ordinal, ready=False)
        rollout.report(ordinal, "Converting", gate="Closed")
        replace()
        rollout.report(ordinal, "Converted", gate="Open", armedFor=None)
        rollout.ready(ordinal)
    eventually(lambda: rollout.condition("Ready").get("status") == "True", "Ready")


def test_another_takes_over(controllers: Controllers, rollout: Rollout) -> None:
    """Two instances, one acts. The active one is killed: the other goes on. A third takes over at SIGTERM at once."""
    rollout.make()
    for ordinal in range(3):
        rollout.report(ordinal, "RestartRequired", reason="AppRunning")
    first = controllers.start(lease=rollout.namespace)
    first.says("leading")
    second = controllers.start(lease=rollout.namespace)
    second.says("synced")
    eventually(lambda: 2 in rollout.permitted())
    assert controllers.metrics(first)["storageformat_controller_leading"] == 1
    assert controllers.metrics(second)["storageformat_controller_leading"] == 0
    assert "permit given" not in second.text()
    first.send(signal.SIGKILL)
    first.ends()
    uid = rollout.uid(2)
    rollout.arm(2)
    rollout.gone(2, uid)
    second.says(r"pod evicted .*pod=orders-2")
    rollout.convert(2)
    third = controllers.start(lease=rollout.namespace)
    third.says("synced")
    second.send(signal.SIGTERM)
    assert second.ends() == 0
    third.says("leading")
    uid = rollout.uid(1)
    rollout.arm(1)
    rollout.gone(1, uid)
    third.says(r"pod evicted .*pod=orders-1")


def test_a_claim_that_goes_takes_its_state_along(
    controllers: Controllers, rollout: Rollout
) -> None:
    """Scaled down: the volume is still counted. Its claim deleted: the FormatState goes, too."""
    rollout.make()
    controllers.start(namespace=rollout.namespace)
    rollout.report(0, "Converted")
    rollout.report(1, "Converted")
    rollout.report(2, "RestartRequired", reason="AppRunning")
    eventually(lambda: (rollout.state(2).get("spec") or {}).get("claimUID"))
    admin, ns = rollout.plane.admin, rollout.namespace
    admin.patch(f"/apis/apps/v1/namespaces/{ns}/statefulsets/orders", {"spec": {"replicas": 2}})
    rollout.replicas = 2
    rollout.settle()
    admin.delete(f"/api/v1/namespaces/{ns}/pods/orders-2", gracePeriodSeconds=0)
    eventually(lambda: rollout.condition("Ready").get("status") == "True", "Ready without it")
    assert {"name": "v1", "count": 1} in rollout.status()["persistedFormats"]
    safe = rollout.condition("SafeToDropOldFormat")
    assert (safe["status"], safe["reason"]) == ("False", "OldFormatOnVolumes")
    claim = f"/api/v1/namespaces/{ns}/persistentvolumeclaims/data-orders-2"
    # Without its protecting controller nobody takes the finalizer off.
    admin.patch(claim, {"metadata": {"finalizers": None}})
    admin.delete(claim)
    state = f"/apis/{API_VERSION}/namespaces/{ns}/formatstates/orders.orders-2"
    eventually(lambda: not admin.exists(state), "the FormatState is deleted")
    eventually(lambda: rollout.condition("SafeToDropOldFormat").get("status") == "True")


def test_may_do_only_what_it_needs(control_plane: ControlPlane, namespace: str) -> None:
    """The role's limits, asked of the API server: no pod is deleted, no spec and no workload changed."""
    who = "--as=system:serviceaccount:storageformat-system:storageformat-controller"

    def may(verb: str, resource: str) -> bool:
        name, _, part = resource.partition("/")
        words = [verb, name, *([f"--subresource={part}"] if part else []), who, "-n", namespace]
        asked = control_plane.kubectl("auth", "can-i", *words, check=False)
        return asked.stdout.strip() == "yes"

    assert may("create", "pods/eviction")
    assert may("patch", "storageformats.storageformat.dev/status")
    for verb, resource in (
        ("delete", "pods"),
        ("patch", "pods"),
        ("patch", "storageformats.storageformat.dev"),
        ("patch", "statefulsets.apps"),
        ("get", "secrets"),
        ("delete", "persistentvolumeclaims"),
    ):
        assert not may(verb, resource), f"{verb} {resource}"


def test_goes_on_after_an_outage_in_which_things_were_deleted(
    bare_control_plane: ControlPlane, tmp_path: Path
) -> None:
    """CRDs that come late are noticed; what was deleted while the watch was cut is noticed, too."""
    plane = bare_control_plane
    plane.create_namespace("storageformat-system")
    plane.kubectl("apply", "-f", str(DEPLOY / "controller-rbac.yaml"))
    controllers = Controllers(plane, tmp_path)
    try:
        process = controllers.start()
        process.says("the kind is not installed")
        plane.install(DEPLOY)
        process.says("synced")
        rollout = Rollout(plane, plane.create_namespace("shop"))
        rollout.make()
        for ordinal in range(3):
            rollout.report(ordinal, "Converted")
        eventually(lambda: rollout.condition("Ready").get("status") == "True", "Ready")
        plane.stop_apiserver(hard=True)
        process.says("watch ended|cannot|Unavailable|again", within=60)
        plane.start_apiserver()
        # Perhaps before the watch is back, perhaps after: either way it has to be seen.
        plane.admin.delete("/api/v1/namespaces/shop/pods/orders-1", gracePeriodSeconds=0)
        eventually(lambda: rollout.condition("Ready").get("status") == "False", "not Ready")
        assert rollout.condition("Ready")["reason"] == "Converting"
    finally:
        controllers.close()
