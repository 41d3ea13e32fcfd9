"""ClusterRole and admission policy, asked with the tokens that real pods have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from controlplane import ApiError, Client, ControlPlane
from format_operator.api.names import API_VERSION, GROUP, KIND_FORMATSTATE
from tests.support.objects import storageformat

STATUS = {"status": {"phase": "Idle", "podName": "orders-0"}}
PERMIT = {"permit": {"targetHash": "0123456789abcdef", "expires": "2126-01-31T12:00:00Z"}}


def formatstate(name: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND_FORMATSTATE,
        "metadata": {"name": name},
        **more,
    }


@dataclass(frozen=True)
class Scene:
    """A namespace with a StorageFormat, and pods ``orders-0`` and ``orders-1`` of one account."""

    plane: ControlPlane
    namespace: str
    pod: Client
    """What the sidecar in orders-0 can do."""
    neighbour: Client
    """What the sidecar in orders-1 can do."""

    def path(self, plural: str, *rest: str, namespace: str = "") -> str:
        parts = ["apis", API_VERSION, "namespaces", namespace or self.namespace, plural, *rest]
        return "/" + "/".join(parts)


@pytest.fixture
def scene(control_plane: ControlPlane, namespace: str) -> Scene:
    control_plane.create_service_account(namespace, "orders")
    clients = []
    for name in ("orders-0", "orders-1"):
        pod = control_plane.create_pod(namespace, name, service_account="orders")
        clients.append(control_plane.client(control_plane.token(namespace, "orders", pod=pod)))
    scene = Scene(control_plane, namespace, *clients)
    control_plane.admin.create(scene.path("storageformats"), storageformat())
    return scene


def forbidden(call: Callable[[], object], *says: str) -> None:
    """The call is refused with 403, for the reason that is expected."""
    with pytest.raises(ApiError) as refused:
        call()
    assert refused.value.status == 403
    for text in says:
        assert text in refused.value.message


POLICY = "formatstate-of-own-pod"
RBAC = "cannot"


def test_a_sidecar_can_do_its_work(scene: Scene) -> None:
    """With its own token a sidecar reads both kinds, makes its FormatState and reports in it."""
    assert scene.pod.get(scene.path("storageformats", "orders"))["spec"]["target"] == "v2"
    assert len(scene.pod.list(scene.path("storageformats"))) == 1
    scene.pod.create(scene.path("formatstates"), formatstate("orders.orders-0"))
    own = scene.path("formatstates", "orders.orders-0")
    assert scene.pod.patch(f"{own}/status", STATUS)["status"] == STATUS["status"]
    assert scene.pod.get(own)["status"] == STATUS["status"]
    assert len(scene.pod.list(scene.path("formatstates"))) == 1


def test_an_owner_reference_can_be_set(scene: Scene) -> None:
    """The sidecar may name the StorageFormat as the owner of its FormatState."""
    owner = scene.pod.get(scene.path("storageformats", "orders"))
    body = formatstate("orders.orders-0")
    body["metadata"]["ownerReferences"] = [
        {
            "apiVersion": API_VERSION,
            "kind": "StorageFormat",
            "name": "orders",
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": False,
        }
    ]
    created = scene.pod.create(scene.path("formatstates"), body)
    assert created["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]


def test_a_pod_name_with_dots_is_matched_whole(scene: Scene) -> None:
    """The first dot separates; a pod's own dots belong to its name."""
    pod = scene.plane.create_pod(scene.namespace, "web.blue.0", service_account="orders")
    client = scene.plane.client(scene.plane.token(scene.namespace, "orders", pod=pod))
    states = scene.path("formatstates")
    client.create(states, formatstate("orders.web.blue.0"))
    forbidden(lambda: client.create(states, formatstate("orders.blue.0")), POLICY)
    forbidden(lambda: client.create(states, formatstate("orders.web.0")), POLICY)


@pytest.mark.parametrize(
    "name", ["orders.orders-1", "orders-0", "orders.orders-0.x", "x.orders.orders-0", "orders.0"]
)
def test_a_forged_name_is_denied(scene: Scene, name: str) -> None:
    """A pod makes no FormatState that is called after another pod, or after none."""
    says = (POLICY, "pod orders-0 writes FormatStates called <storageformat>.orders-0 only", name)
    forbidden(lambda: scene.pod.create(scene.path("formatstates"), formatstate(name)), *says)


def test_another_ones_status_is_denied(scene: Scene) -> None:
    """A pod writes no status but its own, though both pods have one ServiceAccount."""
    scene.neighbour.create(scene.path("formatstates"), formatstate("orders.orders-1"))
    path = scene.path("formatstates", "orders.orders-1", "status")
    forbidden(lambda: scene.pod.patch(path, STATUS), POLICY, "orders.orders-1")
    assert scene.neighbour.patch(path, STATUS)["status"] == STATUS["status"]


def test_a_smuggled_permit_is_denied(scene: Scene) -> None:
    """A pod cannot give itself a permit while it makes its FormatState, nor afterwards."""
    states = scene.path("formatstates")
    smuggled = formatstate("orders.orders-0", spec=PERMIT)
    forbidden(lambda: scene.pod.create(states, smuggled), POLICY, "by the controller alone")
    empty = formatstate("orders.orders-0", spec={})
    forbidden(lambda: scene.pod.create(states, empty), POLICY, "by the controller alone")
    scene.pod.create(states, formatstate("orders.orders-0"))
    own = scene.path("formatstates", "orders.orders-0")
    forbidden(lambda: scene.pod.patch(own, {"spec": PERMIT}), RBAC)
    scene.pod.patch(f"{own}/status", {"spec": PERMIT, **STATUS})
    assert "spec" not in scene.pod.get(own)


def test_a_status_can_be_written_beside_a_permit(scene: Scene) -> None:
    """The controller's permit does not keep the sidecar from reporting."""
    scene.pod.create(scene.path("formatstates"), formatstate("orders.orders-0"))
    own = scene.path("formatstates", "orders.orders-0")
    scene.plane.admin.patch(own, {"spec": PERMIT})
    patched = scene.pod.patch(f"{own}/status", STATUS)
    assert patched["status"] == STATUS["status"]
    assert patched["spec"] == PERMIT


def test_another_namespace_is_denied(scene: Scene) -> None:
    """A pod writes in its own namespace only, even where another pod has the same name."""
    other = scene.plane.create_namespace(f"{scene.namespace}-other")
    states = scene.path("formatstates", namespace=other)
    says = (POLICY, "bound to a pod of the same namespace")
    forbidden(lambda: scene.pod.create(states, formatstate("orders.orders-0")), *says)
    scene.plane.admin.create(states, formatstate("orders.orders-0"))
    path = scene.path("formatstates", "orders.orders-0", "status", namespace=other)
    forbidden(lambda: scene.pod.patch(path, STATUS), *says)


def test_an_unbound_token_is_denied(scene: Scene) -> None:
    """A ServiceAccount's token that belongs to no pod reads, but writes nothing."""
    unbound = scene.plane.client(scene.plane.token(scene.namespace, "orders"))
    assert unbound.list(scene.path("storageformats"))
    body = formatstate("orders.orders-0")
    says = (POLICY, "bound to a pod of the same namespace")
    forbidden(lambda: unbound.create(scene.path("formatstates"), body), *says)
    scene.pod.create(scene.path("formatstates"), body)
    path = scene.path("formatstates", "orders.orders-0", "status")
    forbidden(lambda: unbound.patch(path, STATUS), *says)


@pytest.mark.parametrize(
    ("method", "plural", "rest", "body"),
    [
        ("PATCH", "storageformats", ("orders",), {"spec": {"target": "v1"}}),
        ("PATCH", "storageformats", ("orders", "status"), {"status": {"pods": 1}}),
        ("DELETE", "storageformats", ("orders",), None),
        ("POST", "storageformats", (), storageformat("more")),
        ("PATCH", "formatstates", ("orders.orders-0",), {"metadata": {"labels": {"a": "b"}}}),
        ("PUT", "formatstates", ("orders.orders-0", "status"), formatstate("orders.orders-0")),
        ("DELETE", "formatstates", ("orders.orders-0",), None),
        ("DELETE", "formatstates", (), None),
    ],
)
def test_nothing_more_is_given(
    scene: Scene, method: str, plural: str, rest: tuple[str, ...], body: dict[str, Any] | None
) -> None:
    """What a sidecar has no use for, RBAC does not allow."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    path = scene.path(plural, *rest)
    forbidden(lambda: scene.pod.request(method, path, body, content_type=kind), RBAC)


def test_the_controllers_verb_lifts_the_policy(scene: Scene) -> None:
    """A ServiceAccount with `manage` on formatstates, the controller's, writes any spec."""
    admin = scene.plane.admin
    scene.plane.create_service_account(scene.namespace, "controller")
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{scene.namespace}"
    rules = [{"apiGroups": [GROUP], "resources": ["formatstates"], "verbs": ["manage", "patch"]}]
    admin.create(f"{rbac}/roles", {"metadata": {"name": "controller"}, "rules": rules})
    account = {"kind": "ServiceAccount", "name": "controller", "namespace": scene.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "controller"}
    binding = {"metadata": {"name": "controller"}, "subjects": [account], "roleRef": role}
    admin.create(f"{rbac}/rolebindings", binding)
    pod = scene.plane.create_pod(scene.namespace, "controller-0", service_account="controller")
    token = scene.plane.token(scene.namespace, "controller", pod=pod)
    scene.pod.create(scene.path("formatstates"), formatstate("orders.orders-0"))
    own = scene.path("formatstates", "orders.orders-0")
    assert scene.plane.client(token).patch(own, {"spec": PERMIT})["spec"] == PERMIT


def test_the_version_in_the_policy_is_any(scene: Scene) -> None:
    """The policy speaks of every version of the group, so that a later one is covered too."""
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/" + POLICY
    rules = scene.plane.admin.get(path)["spec"]["matchConstraints"]["resourceRules"]
    assert [rule["apiVersions"] for rule in rules] == [["*"]]
