"""The real controllers of Kubernetes beside the admission policy: nothing hangs because of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from controlplane import Client, ControlPlane
from controlplane.client import wait_until
from format_operator.api.names import API_VERSION, KIND_FORMATSTATE, KIND_STORAGEFORMAT
from tests.support.objects import storageformat


@pytest.fixture(scope="module")
def controllers(
    control_plane: ControlPlane, build: Callable[[str], None]
) -> Iterator[ControlPlane]:
    """The shared control plane while garbage collector and namespace controller run."""
    build("kube-controller-manager")
    control_plane.start_controller_manager()
    yield control_plane
    assert control_plane.alive("kube-controller-manager"), control_plane.log(
        "kube-controller-manager"
    )
    control_plane.stop_controller_manager()


@pytest.fixture
def place(controllers: ControlPlane) -> str:
    """A namespace with a StorageFormat and the FormatState that a pod made for it; its path."""
    namespace = controllers.create_namespace(f"gc-{uuid.uuid4().hex[:10]}")
    path = f"/apis/{API_VERSION}/namespaces/{namespace}"
    owner = controllers.admin.create(f"{path}/storageformats", storageformat())
    controllers.create_service_account(namespace, "orders")
    pod = controllers.create_pod(namespace, "orders-0", service_account="orders")
    sidecar = controllers.client(controllers.token(namespace, "orders", pod=pod))
    reference = {
        "apiVersion": API_VERSION,
        "kind": KIND_STORAGEFORMAT,
        "name": "orders",
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": False,
    }
    sidecar.create(
        f"{path}/formatstates",
        {
            "apiVersion": API_VERSION,
            "kind": KIND_FORMATSTATE,
            "metadata": {"name": "orders.orders-0", "ownerReferences": [reference]},
        },
    )
    return path


def test_formatstates_go_with_their_storageformat(admin: Client, place: str) -> None:
    """The garbage collector deletes the FormatStates of a deleted StorageFormat."""
    admin.delete(f"{place}/storageformats/orders", propagationPolicy="Background")
    wait_until(
        lambda: not admin.exists(f"{place}/formatstates/orders.orders-0"),
        timeout=60,
        what="the FormatState is gone",
    )


def test_foreground_deletion_ends(admin: Client, place: str) -> None:
    """Deleting with foreground propagation ends, FormatStates first."""
    admin.delete(f"{place}/storageformats/orders", propagationPolicy="Foreground")
    wait_until(
        lambda: not admin.exists(f"{place}/storageformats/orders"),
        timeout=60,
        what="the StorageFormat is gone",
    )
    assert not admin.exists(f"{place}/formatstates/orders.orders-0")


def test_formatstates_can_be_orphaned(admin: Client, place: str) -> None:
    """Deleting with orphaning ends: the garbage collector may take the owner reference off."""
    admin.delete(f"{place}/storageformats/orders", propagationPolicy="Orphan")
    wait_until(
        lambda: not admin.exists(f"{place}/storageformats/orders"),
        timeout=60,
        what="the StorageFormat is gone",
    )
    orphan = admin.get(f"{place}/formatstates/orders.orders-0")
    assert not orphan["metadata"].get("ownerReferences")


def test_a_namespace_ends(admin: Client, place: str) -> None:
    """Deleting a namespace that holds all of this ends."""
    namespace = f"/api/v1/namespaces/{place.rsplit('/', 1)[-1]}"
    # No kubelet confirms that the pod has ended, which has nothing to do with what is tested.
    admin.delete(f"{namespace}/pods/orders-0", gracePeriodSeconds=0)
    admin.delete(namespace)
    wait_until(lambda: not admin.exists(namespace), timeout=90, what="the namespace is gone")
