"""What a StorageFormat's status says: counts, volumes, and conditions whose reasons can be relied on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from format_operator.api import conditions
from format_operator.api.models import StorageFormat, StorageFormatStatus
from format_operator.controller import events, report
from format_operator.controller.cache import Cache
from format_operator.controller.decide import decide
from format_operator.controller.facts import Snapshot
from tests.apiserver.controllers import pod_spec
from tests.support.objects import storageformat

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def snapshot(*phases: str | dict[str, Any], gone: tuple[int, ...] = (), **changes: Any) -> Snapshot:
    """Three-pod StatefulSets and the like: one phase (or status) per ordinal; pods in ``gone`` are scaled away."""
    cache = Cache(lambda _: None)
    body = storageformat(metadata__namespace="shop", metadata__generation=7, **changes)
    parsed = StorageFormat.from_object(body)
    replicas = len(phases) - len(gone)
    workload = {
        "metadata": _metadata("orders", generation=1),
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "orders"}}}},
        "status": {"observedGeneration": 1, "currentRevision": "r", "updateRevision": "r"},
    }
    cache.put("statefulsets", workload)
    for ordinal, phase in enumerate(phases):
        name = f"orders-{ordinal}"
        said = phase if isinstance(phase, dict) else {"phase": phase}
        cache.put("persistentvolumeclaims", {"metadata": _metadata(f"data-{name}")})
        if ordinal not in gone:
            cache.put("pods", _pod(name))
        if said.get("phase") == "silent":
            continue
        done = said["phase"] == "Converted"
        status = {
            "podUID": f"uid-{name}",
            "targetHash": parsed.spec.target_hash(),
            "currentFormat": "v2" if done else "v1",
            "updatedAt": "2026-11-25T11:00:00Z",
            **said,
        }
        spec = {"claimUID": f"uid-data-{name}"}
        state = {"metadata": _metadata(f"orders.{name}"), "spec": spec, "status": status}
        cache.put("formatstates", state)
    return cache.snapshot(parsed, NOW)


def _metadata(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "shop",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        **more,
    }


def _pod(name: str) -> dict[str, Any]:
    owner = {"kind": "StatefulSet", "name": "orders", "uid": "uid-orders", "controller": True}
    labels = {"app": "orders", "controller-revision-hash": "r"}
    spec = pod_spec()
    spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{name}"}}]
    gate = {"name": "storageformat-gate", "state": {"terminated": {"exitCode": 0}}}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-25T10:00:00Z"}
    return {
        "metadata": _metadata(name, labels=labels, ownerReferences=[owner]),
        "spec": spec,
        "status": {"conditions": [ready], "initContainerStatuses": [gate]},
    }


def status_of(seen: Snapshot) -> StorageFormatStatus:
    return report.status(seen, decide(seen), ())


def reasons(status: StorageFormatStatus) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.reason) for one in status.conditions}


FAILED = {
    "phase": "Failed",
    "reason": "NoSpace",
    "message": "needs 2 GB, 1 GB is free",
    "gate": "Closed",
}


@pytest.mark.parametrize(
    ("seen", "ready", "progressing", "degraded", "safe"),
    [
        pytest.param(
            snapshot("Converted", "Converted"),
            ("True", "Converted"),
            ("False", "Complete"),
            ("False", "AsExpected"),
            ("True", "NoOldFormatLeft"),
            id="all-done",
        ),
        pytest.param(
            snapshot("RestartRequired", "Converted"),
            ("False", "Converting"),
            ("True", "Arming"),
            ("False", "AsExpected"),
            ("False", "OldFormatOnVolumes"),
            id="one-to-go",
        ),
        pytest.param(
            snapshot(),
            ("False", "NoPods"),
            ("False", "NoPods"),
            ("False", "AsExpected"),
            ("Unknown", "NotAllReported"),
            id="no-pods",
        ),
        pytest.param(
            snapshot("RestartRequired", FAILED),
            ("False", "Failed"),
            ("False", "Stopped"),
            ("True", "FailureBudgetSpent"),
            ("False", "OldFormatOnVolumes"),
            id="budget-spent",
        ),
        pytest.param(
            snapshot("RestartRequired", FAILED, spec__rollout={"failureBudget": 1}),
            ("False", "Converting"),
            ("True", "Arming"),
            ("False", "WithinFailureBudget"),
            ("False", "OldFormatOnVolumes"),
            id="within-budget",
        ),
        pytest.param(
            snapshot("RestartRequired", "Converted", spec__rollout={"partition": 1}),
            ("False", "PartitionHeld"),
            ("False", "Partitioned"),
            ("False", "AsExpected"),
            ("False", "OldFormatOnVolumes"),
            id="partition",
        ),
        pytest.param(
            snapshot("RestartRequired", spec__rollout={"suspended": True}),
            ("False", "Suspended"),
            ("False", "Suspended"),
            ("False", "AsExpected"),
            ("False", "OldFormatOnVolumes"),
            id="suspended",
        ),
        pytest.param(
            snapshot("Converted", {"phase": "Conflict", "reason": "Conflict", "message": "older"}),
            ("False", "Blocked"),
            ("False", "Blocked"),
            ("True", "Conflict"),
            ("False", "OldFormatOnVolumes"),
            id="conflict",
        ),
        pytest.param(
            snapshot("silent", "Converted"),
            ("False", "Converting"),
            ("True", "Arming"),
            ("False", "AsExpected"),
            ("Unknown", "NotAllReported"),
            id="one-silent",
        ),
        pytest.param(
            snapshot("Converted", "RestartRequired", gone=(1,)),
            ("True", "Converted"),
            ("False", "Complete"),
            ("False", "AsExpected"),
            ("False", "OldFormatOnVolumes"),
            id="scaled-down",
        ),
    ],
)
def test_conditions(
    seen: Snapshot,
    ready: tuple[str, str],
    progressing: tuple[str, str],
    degraded: tuple[str, str],
    safe: tuple[str, str],
) -> None:
    """Each condition's status and reason in a situation; they carry the generation that they are about."""
    status = status_of(seen)
    assert reasons(status) == {
        "Ready": ready,
        "Progressing": progressing,
        "Degraded": degraded,
        "SafeToDropOldFormat": safe,
    }
    assert {one.observed_generation for one in status.conditions} == {7}
    assert status.observed_generation == 7


def test_a_failure_is_told_with_pod_reason_and_message() -> None:
    """What a person reads first says which pod, why, and what the sidecar said."""
    status = status_of(snapshot("RestartRequired", FAILED))
    degraded = conditions.find(status.conditions, "Degraded")
    assert degraded is not None
    assert degraded.message == "pod orders-1: NoSpace: needs 2 GB, 1 GB is free"
    assert status.failed == 1


def test_counts() -> None:
    """Pods, converted, pending, failed, blocked, backups."""
    seen = snapshot(
        "Converted",
        "RestartRequired",
        {"phase": "Converted", "backup": {"present": True}},
        FAILED,
        spec__rollout={"failureBudget": 1},
    )
    status = status_of(seen)
    counted = (status.pods, status.converted, status.pending, status.failed, status.backups)
    assert counted == (4, 2, 1, 1, 1)


def test_formats_are_counted_by_volume() -> None:
    """Two reports on one claim (a Deployment's old and new pod) are one volume; the newer one counts."""
    seen = snapshot("Converted", "RestartRequired")
    old = next(one for one in seen.states.values() if one.pod == "orders-1")
    later = replace(
        old,
        name="orders.orders-x",
        pod="orders-x",
        current_format="v2",
        updated_at="2026-11-25T11:30:00Z",
    )
    both = replace(seen, states={**seen.states, "orders-x": later})
    assert report.persisted(both) == [("v2", 2)]
    assert report.persisted(seen) == [("v1", 1), ("v2", 1)]


def test_a_transition_keeps_its_time() -> None:
    """lastTransitionTime moves only when the status does, not with the reason."""
    first = status_of(snapshot("RestartRequired", "RestartRequired"))
    later = replace(snapshot("RestartRequired", "Converted"), now=NOW + timedelta(minutes=5))
    second = report.status(later, decide(later), first.conditions)
    ready = conditions.find(second.conditions, "Ready")
    assert ready is not None
    assert ready.last_transition_time == "2026-11-25T12:00:00Z"


def test_the_status_is_one_that_the_api_keeps() -> None:
    """Read back, it is the same: no key is written that the schema does not declare."""
    status = status_of(snapshot("Converted", FAILED))
    assert StorageFormatStatus.from_dict(status.to_dict()) == status


def test_a_storageformat_of_another_release() -> None:
    """Nothing is done for what cannot be understood, and all conditions say so."""
    status = report.invalid("spec.formats[0]: a format has exactly one engine", 3, (), NOW)
    assert reasons(status)["Degraded"] == ("True", "InvalidStorageFormat")
    assert reasons(status)["Ready"] == ("False", "InvalidStorageFormat")
    ready = conditions.find(status.conditions, "Ready")
    assert ready is not None
    assert "no pod was touched" in ready.message
    assert "exactly one engine" in ready.message


def test_events_tell_what_changed() -> None:
    """One event when a pod is done, one when all are, a warning when it is degraded; none when nothing changed."""
    begun = status_of(snapshot("RestartRequired", "RestartRequired"))
    half = status_of(snapshot("RestartRequired", "Converted"))
    done = status_of(snapshot("Converted", "Converted"))
    bad = status_of(snapshot("RestartRequired", FAILED))

    def told(before: StorageFormatStatus, after: StorageFormatStatus) -> list[tuple[str, str]]:
        return [(one.kind, one.reason) for one in events.of_change(before, after)]

    assert told(begun, begun) == []
    assert told(begun, half) == [("Normal", "PodConverted")]
    assert told(half, done) == [("Normal", "PodConverted"), ("Normal", "Converted")]
    assert told(begun, bad) == [("Warning", "FailureBudgetSpent")]
    assert told(bad, half) == [("Normal", "PodConverted"), ("Normal", "Recovered")]
