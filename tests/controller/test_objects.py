"""Facts from objects as the API server has them: pods, FormatStates and workloads, complete, bare, and odd."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from format_operator.api.injection import INJECT
from format_operator.api.models import (
    FormatStateStatus,
    Gate,
    LabelSelector,
    Phase,
    StorageFormat,
)
from format_operator.api.names import READS_ANNOTATION
from format_operator.api.selection import matches
from format_operator.controller import objects
from format_operator.controller.cache import Cache
from format_operator.controller.decide import decide
from format_operator.controller.facts import Kind, Owner, Served
from format_operator.controller.plan import RolloutPhase
from format_operator.controller.report import status as status_of
from format_operator.controller.standing import Standing
from tests.support.objects import complete, storageformat

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SIDECAR: dict[str, Any] = {
    "name": "storageformat",
    "image": "storageformat:1",
    "restartPolicy": "Always",
    "args": ["sidecar", "--database", "orders=/data/orders.db"],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}
GATE: dict[str, Any] = {"name": "storageformat-gate", "image": "storageformat:1", "args": ["gate"]}
CLAIM = {"name": "data", "persistentVolumeClaim": {"claimName": "data-orders-1"}}
ENDED = {"terminated": {"exitCode": 0, "reason": "Completed"}}
RUNNING = {"running": {"startedAt": "2026-11-25T11:00:00Z"}}


def pod_body(**changes: Any) -> dict[str, Any]:
    """A pod of StatefulSet ``orders`` that is ready; ``changes`` replace parts of spec, metadata or status."""
    body: dict[str, Any] = {
        "metadata": {
            "namespace": "shop",
            "name": "orders-1",
            "uid": "pod-uid",
            "resourceVersion": "5",
            "labels": {"app": "orders", "controller-revision-hash": "orders-abc"},
            "annotations": {READS_ANNOTATION: "v1, v2"},
            "ownerReferences": [
                {"kind": "Gadget", "name": "other", "uid": "other-uid"},
                {
                    "apiVersion": "apps/v1",
                    "kind": "StatefulSet",
                    "name": "orders",
                    "uid": "set-uid",
                    "controller": True,
                },
            ],
        },
        "spec": {"initContainers": [SIDECAR, GATE], "containers": [], "volumes": [CLAIM]},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-25T11:59:00Z"},
            ],
            "initContainerStatuses": [
                {"name": "storageformat", "state": RUNNING},
                {"name": "storageformat-gate", "state": ENDED},
            ],
        },
    }
    for part, values in changes.items():
        body[part] = {**body[part], **values}
    return body


def sidecar(**changes: Any) -> dict[str, Any]:
    return {"initContainers": [{**SIDECAR, **changes}, GATE]}


# --- pods ---------------------------------------------------------------------------------------------------


def test_ready_pod() -> None:
    """All that decisions need of a pod that runs."""
    pod = objects.pod(pod_body())
    assert (pod.namespace, pod.name, pod.uid) == ("shop", "orders-1", "pod-uid")
    assert pod.owner == Owner("StatefulSet", "orders", "set-uid")
    assert pod.revision == "orders-abc"
    assert pod.ready
    assert pod.ready_since == datetime(2026, 11, 25, 11, 59, tzinfo=UTC)
    assert not pod.gate_held
    assert not pod.deleting
    assert not pod.finished
    assert pod.reads == frozenset({"v1", "v2"})
    assert pod.ordinal == 1
    assert pod.served == (Served("orders", "/data/orders.db", "data-orders-1"),)


def test_pod_that_was_just_made() -> None:
    """Without a status, annotations, labels or an owner it is not ready, and held if it has a gate."""
    pod = objects.pod(
        {
            "metadata": {"namespace": "shop", "name": "orders-1", "uid": "u"},
            "spec": {"initContainers": [SIDECAR, GATE], "volumes": [CLAIM]},
        }
    )
    assert not pod.ready
    assert pod.ready_since is None
    assert pod.gate_held
    assert pod.owner is None
    assert pod.ordinal == -1
    assert pod.reads is None
    assert pod.revision is None


@pytest.mark.parametrize(
    "args",
    [
        ["sidecar", "--database", "orders=/data/orders.db"],
        ["sidecar", "--database=orders=/data/orders.db"],
        ["sidecar", "--permit-wait", "5s", "--database=orders=/data/orders.db", "--log=json"],
    ],
)
def test_both_forms_of_the_argument(args: list[str]) -> None:
    """``--database NAME=PATH`` and ``--database=NAME=PATH``."""
    pod = objects.pod(pod_body(spec=sidecar(args=args)))
    assert pod.serves("orders") == Served("orders", "/data/orders.db", "data-orders-1")


def test_argument_in_the_command() -> None:
    """Some write everything into ``command``."""
    words = ["storageformat", "sidecar", "--database", "orders=/data/orders.db"]
    pod = objects.pod(pod_body(spec=sidecar(command=words, args=None)))
    assert pod.serves("orders") is not None


def test_several_databases() -> None:
    """Each argument is a database of its own."""
    args = ["sidecar", "--database", "orders=/data/orders.db", "--database=bills=/data/b=1.db"]
    pod = objects.pod(pod_body(spec=sidecar(args=args)))
    assert [(one.storageformat, one.path) for one in pod.served] == [
        ("orders", "/data/orders.db"),
        ("bills", "/data/b=1.db"),
    ]
    assert pod.serves("stocks") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"restartPolicy": None},
        {"args": ["convert", "--database", "orders=/data/orders.db"]},
        {"args": ["sidecar", "--database"]},
        {"args": ["sidecar", "--database", "orders"]},
        {"args": None},
    ],
)
def test_not_our_sidecar(changes: dict[str, Any]) -> None:
    """Only a native sidecar that says ``sidecar`` and names a database is one."""
    assert objects.pod(pod_body(spec=sidecar(**changes))).served == ()


@pytest.mark.parametrize(
    ("mounts", "volumes", "claim"),
    [
        ([("data", "/data", "sub")], [CLAIM], "data-orders-1"),
        ([("data", "/")], [CLAIM], "data-orders-1"),
        ([("data", "/dat")], [CLAIM], None),
        ([], [CLAIM], None),
        ([("scratch", "/data"), ("data", "/")], [{"name": "scratch", "emptyDir": {}}, CLAIM], None),
        (
            [("scratch", "/"), ("data", "/data")],
            [{"name": "scratch", "emptyDir": {}}, CLAIM],
            "data-orders-1",
        ),
        ([("data", "/data")], [{"name": "data", "hostPath": {"path": "/srv"}}], None),
        ([("data", "/data")], [{"name": "data", "ephemeral": {"volumeClaimTemplate": {}}}], None),
        ([("data", "/data")], [], None),
    ],
    ids=[
        "subPath",
        "root",
        "another directory of a similar name",
        "not mounted",
        "emptyDir inside the claim",
        "claim inside an emptyDir",
        "hostPath",
        "ephemeral",
        "no such volume",
    ],
)
def test_claim(
    mounts: list[tuple[str, ...]], volumes: list[dict[str, Any]], claim: str | None
) -> None:
    """The innermost mount counts, and only a claim that outlives the pod is one."""
    volume_mounts = [
        {"name": one[0], "mountPath": one[1], **({"subPath": one[2]} if len(one) > 2 else {})}
        for one in mounts
    ]
    body = pod_body(spec={**sidecar(volumeMounts=volume_mounts), "volumes": volumes})
    assert [one.claim for one in objects.pod(body).served] == [claim]


@pytest.mark.parametrize(
    ("state", "held"),
    [
        (ENDED, False),
        (RUNNING, True),
        ({"waiting": {"reason": "PodInitializing"}}, True),
        ({"terminated": {"exitCode": 143}}, True),
        ({}, True),
        (None, True),
    ],
)
def test_gate(state: dict[str, Any] | None, held: bool) -> None:
    """The gate is held until its container has ended well; it runs again in a new sandbox, and is held again."""
    statuses = [
        {"name": "storageformat", "state": RUNNING},
        {
            "name": "storageformat-gate",
            "state": state,
            "lastState": ENDED,
            "restartCount": 1,
            "ready": True,
        },
    ]
    body = pod_body()
    body["status"]["initContainerStatuses"] = statuses
    assert objects.pod(body).gate_held is held


def test_no_gate() -> None:
    """A pod without a gate is never held."""
    assert not objects.pod(pod_body(spec={"initContainers": [SIDECAR]}, status={})).gate_held
    assert not objects.pod(pod_body(spec={"initContainers": None, "volumes": None})).gate_held


@pytest.mark.parametrize(
    ("name", "kind", "ordinal"),
    [
        ("orders-0", "StatefulSet", 0),
        ("orders-db-12", "StatefulSet", 12),
        ("orders-12", "ReplicaSet", -1),
        ("orders-5d9f-abcde", "ReplicaSet", -1),
        ("orders", "StatefulSet", -1),
    ],
)
def test_ordinal(name: str, kind: str, ordinal: int) -> None:
    """Only a StatefulSet's pods have one."""
    body = pod_body()
    body["metadata"]["name"] = name
    body["metadata"]["ownerReferences"][1]["kind"] = kind
    assert objects.pod(body).ordinal == ordinal


@pytest.mark.parametrize(
    ("annotation", "reads"),
    [("v1", {"v1"}), (" v1 ,v2,", {"v1", "v2"}), ("", None), (" , ", None), (None, None)],
)
def test_reads(annotation: str | None, reads: set[str] | None) -> None:
    """What the app reads; nothing said means no guard."""
    body = pod_body()
    body["metadata"]["annotations"] = {} if annotation is None else {READS_ANNOTATION: annotation}
    assert objects.pod(body).reads == reads


def test_pod_on_its_way_out() -> None:
    """Deleting and finished are told apart."""
    body = pod_body()
    body["metadata"]["deletionTimestamp"] = "2026-11-25T12:00:00Z"
    assert objects.pod(body).deleting
    assert objects.pod(pod_body(status={"phase": "Failed", "reason": "Evicted"})).finished
    assert objects.pod(pod_body(status={"phase": "Succeeded"})).finished


def test_deployments_revision() -> None:
    """Pods of a Deployment carry their revision under another name."""
    body = pod_body()
    body["metadata"]["labels"] = {"app": "orders", "pod-template-hash": "5d9f"}
    assert objects.pod(body).revision == "5d9f"


# --- FormatStates -------------------------------------------------------------------------------------------


def state_body(status: dict[str, Any] | None, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "metadata": {
            "namespace": "shop",
            "name": "orders.orders-1",
            "uid": "state-uid",
            "resourceVersion": "9",
        }
    }
    if status is not None:
        body["status"] = status
    if spec is not None:
        body["spec"] = spec
    return body


def test_complete_state() -> None:
    """Every field that a sidecar of this release can write is understood."""
    permit = {"targetHash": "abc", "expires": "2026-11-25T13:00:00Z"}
    status = complete(FormatStateStatus)
    state = objects.state(state_body(status, {"permit": permit, "claimUID": "claim-uid"}))
    assert (state.storageformat, state.pod) == ("orders", "orders-1")
    assert state.permit is not None
    assert state.permit.allows("abc", NOW)
    assert state.claim_uid == "claim-uid"
    assert state.pod_uid == status["podUID"]
    assert state.target_hash == status["targetHash"]
    assert state.armed_for == status["armedFor"]
    assert state.current_format == status["currentFormat"]
    assert state.phase == Phase(status["phase"])
    assert state.gate is Gate.CLOSED
    assert state.backup_present
    assert state.protocol == status["apiVersion"]
    assert state.updated_at == status["updatedAt"]
    assert state.conversion_at == status["lastConversion"]["at"]
    assert state.databases == (42, 42, 42, 42)


@pytest.mark.parametrize("status", [None, {}])
def test_bare_state(status: dict[str, Any] | None) -> None:
    """A state that its sidecar made and has not filled in says nothing."""
    state = objects.state(state_body(status))
    assert state.permit is None
    assert state.claim_uid is None
    assert state.pod_uid is None
    assert state.phase is None
    assert state.gate is None
    assert state.protocol is None
    assert state.databases is None
    assert not state.backup_present


def test_pod_with_a_dot() -> None:
    """The first dot separates: a pod's name may have more."""
    body = state_body({})
    body["metadata"]["name"] = "orders.web.example-1"
    state = objects.state(body)
    assert (state.storageformat, state.pod) == ("orders", "web.example-1")


def test_state_of_an_older_sidecar() -> None:
    """One minor version back: no protocol, no reason, no arming, no counts."""
    state = objects.state(
        state_body({"podUID": "u", "targetHash": "abc", "phase": "RestartRequired"})
    )
    assert state.phase is Phase.RESTART_REQUIRED
    assert (state.reason, state.message, state.armed_for) == ("", "", None)


def test_state_of_a_newer_sidecar() -> None:
    """A phase, a gate and fields of a later release are passed over."""
    state = objects.state(
        state_body(
            {
                "phase": "Pondering",
                "gate": "Ajar",
                "apiVersion": "2",
                "mood": {"good": True},
                "databases": {"total": 3, "skipped": 1},
                "backup": {"present": True, "kept": "remotely"},
            }
        )
    )
    assert state.phase is None
    assert state.gate is None
    assert state.protocol == "2"
    assert state.databases == (3, 0, 0, 0)
    assert state.backup_present


@pytest.mark.parametrize(
    "permit",
    [None, "yes", {}, {"targetHash": "abc"}, {"targetHash": "abc", "expires": "tomorrow"}],
)
def test_unreadable_permit(permit: object) -> None:
    """A permit that says nothing is none."""
    assert objects.state(state_body({}, {"permit": permit})).permit is None


# --- workloads ----------------------------------------------------------------------------------------------


def workload_body(spec: dict[str, Any], status: dict[str, Any] | None) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"app": "orders"}, "annotations": {READS_ANNOTATION: "v1"}},
        "spec": {"initContainers": [SIDECAR, GATE]},
    }
    body: dict[str, Any] = {
        "metadata": {"namespace": "shop", "name": "orders", "uid": "set-uid", "generation": 4},
        "spec": {"template": template, **spec},
    }
    if status is not None:
        body["status"] = {"observedGeneration": 4, **status}
    return body


SET_SPEC: dict[str, Any] = {
    "replicas": 3,
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
    "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
}
OLD_AND_NEW = {"currentRevision": "a", "updateRevision": "b"}


def test_stateful_set() -> None:
    """Template, strategy and claims of a StatefulSet."""
    workload = objects.stateful_set(workload_body(SET_SPEC, {**OLD_AND_NEW, "updatedReplicas": 1}))
    assert workload.kind is Kind.STATEFUL_SET
    assert (workload.desired, workload.partition, workload.first) == (3, 1, 0)
    assert workload.update_revision == "b"
    assert workload.reads == frozenset({"v1"})
    assert workload.labels == {"app": "orders"}
    assert workload.served == (Served("orders", "/data/orders.db", "data"),)
    assert not workload.settled
    assert not workload.deleting


@pytest.mark.parametrize(
    ("status", "settled"),
    [
        ({**OLD_AND_NEW, "updatedReplicas": 2}, True),
        ({**OLD_AND_NEW, "updatedReplicas": 1}, False),
        ({"currentRevision": "b", "updateRevision": "b"}, True),
        ({"currentRevision": "b", "updateRevision": "b", "observedGeneration": 3}, False),
        (OLD_AND_NEW, False),
        (None, False),
    ],
    ids=["all above the partition", "one is left", "none", "not seen yet", "bare", "no status"],
)
def test_stateful_set_settles(status: dict[str, Any] | None, settled: bool) -> None:
    """Its own rollout is over once all pods above its partition are of the update revision."""
    assert objects.stateful_set(workload_body(SET_SPEC, status)).settled is settled


def test_bare_stateful_set() -> None:
    """What the API server fills in may be missing in what others write: one replica, RollingUpdate."""
    workload = objects.stateful_set(workload_body({"ordinals": {"start": 5}}, {}))
    assert (workload.desired, workload.strategy, workload.first) == (1, "RollingUpdate", 5)


def test_missing_pod_has_the_claim_of_its_ordinal() -> None:
    """As far as the claim is from a template: one that all pods share keeps its name."""
    workload = objects.stateful_set(workload_body(SET_SPEC, {}))
    missing = objects.missing_pod(workload, 2)
    assert missing.missing
    assert (missing.name, missing.ordinal) == ("orders-2", 2)
    assert missing.served == (Served("orders", "/data/orders.db", "data-orders-2"),)
    shared = workload_body({"replicas": 3}, {})
    shared["spec"]["template"]["spec"]["volumes"] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}
    ]
    (served,) = objects.missing_pod(objects.stateful_set(shared), 2).served
    assert served.claim == "shared"


def test_a_pod_that_the_webhook_has_missed() -> None:
    """It asks for a sidecar and has none: it is told that a restart gives it one."""
    body = pod_body(spec={"initContainers": []})
    for annotation, told in (("orders", True), ("users", False), ("", False)):
        body["metadata"]["annotations"] = {INJECT: annotation}
        snapshot = cache_of(pods=[body]).snapshot(asked(), NOW)
        (ready,) = (
            one
            for one in status_of(snapshot, decide(snapshot), ()).conditions
            if one.type == "Ready"
        )
        assert ready.reason == "SidecarMissing"
        assert ("no webhook when they were made, so restart them" in ready.message) is told


def asking(annotation: str) -> dict[str, Any]:
    """The StatefulSet with nothing but an annotation for the webhook in its template."""
    body = workload_body(SET_SPEC, {"updateRevision": "b", "currentRevision": "b"})
    template = body["spec"]["template"]
    template["metadata"]["annotations"] = {INJECT: annotation}
    app = {"name": "app", "volumeMounts": SIDECAR["volumeMounts"]}
    template["spec"] = {**template["spec"], "initContainers": [], "containers": [app]}
    return body


@pytest.mark.parametrize(
    ("annotation", "served"),
    [
        ("orders", [Served("orders", "", None)]),
        ("orders=/data/orders.db", [Served("orders", "/data/orders.db", "data-orders-2")]),
        ("a, b=/other/b.db", [Served("a", "", None), Served("b", "/other/b.db", None)]),
        ("not a name", []),
    ],
)
def test_a_template_that_leaves_the_sidecar_to_the_webhook(
    annotation: str, served: list[Served]
) -> None:
    """Its pods are served as if the sidecar were written in it; what the webhook refuses is not."""
    missing = objects.missing_pod(objects.stateful_set(asking(annotation)), 2)
    assert list(missing.served) == served


def test_a_sidecar_by_hand_goes_before_the_annotation() -> None:
    """The webhook leaves it as it is."""
    body = asking("orders=/data/other.db")
    body["spec"]["template"]["spec"]["initContainers"] = [SIDECAR, GATE]
    (served,) = objects.stateful_set(body).served
    assert served.path == "/data/orders.db"


@pytest.mark.parametrize("annotation", ["orders", "orders=/data/orders.db"])
def test_a_missing_pod_that_will_be_injected_keeps_its_turn(annotation: str) -> None:
    """Between its eviction and its successor it is pending and out, as one with a sidecar in its template."""
    (snapshot, by_hand) = (
        cache_of(statefulsets=[body]).snapshot(asked(), NOW)
        for body in (asking(annotation), workload_body(SET_SPEC, {}))
    )
    for one in (snapshot, by_hand):
        assert {(placed.standing, placed.out) for placed in decide(one).placed} == {
            (Standing.UNREPORTED, True)
        }
    pending = [status_of(one, decide(one), ()).pending for one in (snapshot, by_hand)]
    assert pending == [3, 3]


@pytest.mark.parametrize(
    ("status", "settled"),
    [
        ({"replicas": 1, "updatedReplicas": 1}, True),
        ({"replicas": 2, "updatedReplicas": 1}, False),
        ({"replicas": 1}, False),
        ({"replicas": 1, "updatedReplicas": 1, "observedGeneration": 3}, False),
    ],
)
def test_deployment(status: dict[str, Any], settled: bool) -> None:
    """A Deployment is settled when only new pods are left."""
    workload = objects.deployment(
        workload_body({"replicas": 1, "strategy": {"type": "Recreate"}}, status)
    )
    assert (workload.kind, workload.strategy) == (Kind.DEPLOYMENT, "Recreate")
    assert workload.settled is settled
    assert objects.deployment(workload_body({}, status)).strategy == "RollingUpdate"


def test_daemon_set() -> None:
    """A DaemonSet wants as many pods as there are nodes for it."""
    status = {"desiredNumberScheduled": 4, "updatedNumberScheduled": 3}
    workload = objects.daemon_set(workload_body({"updateStrategy": {"type": "OnDelete"}}, status))
    assert (workload.desired, workload.strategy, workload.settled) == (4, "OnDelete", False)
    assert objects.daemon_set(workload_body({}, {**status, "updatedNumberScheduled": 4})).settled


# --- all together -------------------------------------------------------------------------------------------


def cache_of(**bodies: list[dict[str, Any]]) -> Cache:
    cache = Cache(lambda _: None)
    for kind, found in bodies.items():
        for body in found:
            cache.put(kind, body)
    return cache


def asked() -> StorageFormat:
    return StorageFormat.from_object(storageformat("orders", metadata__namespace="shop"))


def test_snapshot_of_real_bodies() -> None:
    """From bodies to a decision: the missing pods are waited for, the one that runs is permitted in its turn."""
    claim = {"metadata": {"namespace": "shop", "name": "data-orders-1", "uid": "claim-uid"}}
    status = {
        "podUID": "pod-uid",
        "targetHash": asked().spec.target_hash(),
        "phase": "RestartRequired",
    }
    cache = cache_of(
        pods=[pod_body()],
        statefulsets=[workload_body(SET_SPEC, {"updateRevision": "b", "currentRevision": "b"})],
        formatstates=[state_body(status)],
        persistentvolumeclaims=[claim],
    )
    snapshot = cache.snapshot(asked(), NOW)
    assert sorted(pod.name for pod in snapshot.pods if pod.missing) == ["orders-0", "orders-2"]
    assert snapshot.claims == {"data-orders-1": "claim-uid"}
    decision = decide(snapshot)
    assert decision.phase is RolloutPhase.BLOCKED  # the template reads v1 only
    (change,) = decision.changes
    assert (change.permit, change.claim_uid) == (None, "claim-uid")


def test_finished_pod_of_a_stateful_set_is_as_good_as_missing() -> None:
    """A pod that the node evicted is made again; until then it is out, and keeps its turn."""
    failed = pod_body(status={"phase": "Failed"})
    body = workload_body({**SET_SPEC, "replicas": 1, "ordinals": {"start": 1}}, {})
    snapshot = cache_of(pods=[failed], statefulsets=[body]).snapshot(asked(), NOW)
    assert [pod.name for pod in snapshot.pods if pod.missing] == ["orders-1"]
    assert [one.out for one in decide(snapshot).placed] == [True]


def test_pod_on_its_way_out_counts_once() -> None:
    """A DaemonSet makes the next pod when the last is gone: one of them is out, not two."""
    body = pod_body()
    body["metadata"]["deletionTimestamp"] = "2026-11-25T12:00:00Z"
    body["metadata"]["ownerReferences"][1]["kind"] = "DaemonSet"
    daemons = workload_body({}, {"desiredNumberScheduled": 1})
    snapshot = cache_of(pods=[body], daemonsets=[daemons]).snapshot(asked(), NOW)
    assert [one.out for one in decide(snapshot).placed] == [True]


def test_an_odd_object_blinds_nobody() -> None:
    """One that cannot be parsed is noted and left out; mended, it is seen."""
    odd = pod_body()
    odd["metadata"]["ownerReferences"][1].pop("uid")
    cache = cache_of(pods=[odd])
    assert ("pods", "shop", "orders-1") in cache.unreadable
    assert cache.snapshot(asked(), NOW).pods == ()
    cache.put("pods", pod_body())
    assert cache.unreadable == {}
    assert len(cache.snapshot(asked(), NOW).pods) == 1


def test_a_late_watch_brings_nothing_back() -> None:
    """An older version of an object does not replace a newer one."""
    cache = cache_of(formatstates=[state_body({"phase": "Armed"})])
    late = state_body({"phase": "Waiting"})
    late["metadata"]["resourceVersion"] = "8"
    cache.put("formatstates", late)
    assert cache.snapshot(asked(), NOW).states["orders-1"].phase is Phase.ARMED


def test_evicted_pods_are_remembered_for_a_minute() -> None:
    """As long as a watch may still show them as they were."""
    cache = cache_of(pods=[pod_body()])
    (pod,) = cache.snapshot(asked(), NOW).pods
    cache.refused(pod, NOW, "pdb")
    cache.evicted(pod, NOW)
    snapshot = cache.snapshot(asked(), NOW)
    assert snapshot.evicted == frozenset({pod.uid})
    assert not snapshot.refused
    assert cache.snapshot(asked(), NOW.replace(minute=2)).evicted == frozenset()


@pytest.mark.parametrize(
    ("operator", "values", "holds"),
    [
        ("In", ["orders"], True),
        ("In", ["bills"], False),
        ("NotIn", ["bills"], True),
        ("NotIn", ["orders"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_selector(operator: str, values: list[str], holds: bool) -> None:
    """As ``metav1.LabelSelector`` has it, and the other way round for a label that is not there."""
    body = storageformat(
        spec__selector={
            "matchExpressions": [{"key": "app", "operator": operator, "values": values}]
        }
    )
    selector: LabelSelector = StorageFormat.from_object(body).spec.selector
    assert matches(selector, {"app": "orders"}) is holds
    absent = {"In": False, "NotIn": True, "Exists": False, "DoesNotExist": True}
    assert matches(selector, {}) is absent[operator]
