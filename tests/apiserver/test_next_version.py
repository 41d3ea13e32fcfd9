"""The way on for the API: what happens when a version comes after v1alpha1, tried on a real API server.

A later release adds the version to the CRDs with the same schema and without a conversion webhook. Sidecars of pods that
nobody has touched since go on asking for v1alpha1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import pytest

from controlplane import ApiError, Client, ControlPlane
from controlplane.client import wait_until
from format_operator.api.crds import formatstate_crd, storageformat_crd
from format_operator.api.models import FormatState, StorageFormat
from format_operator.api.names import GROUP, VERSION
from tests.support.controlplane import DEPLOY, wait_for_policy
from tests.support.objects import storageformat

NEXT: Final = "v1beta1"
_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STATUS: Final = {"status": {"phase": "Idle", "podName": "orders-0"}}


@dataclass(frozen=True)
class Later:
    """A cluster in which both versions are served and the later one is stored; the object is of the time before."""

    plane: ControlPlane
    namespace: str

    @property
    def admin(self) -> Client:
        return self.plane.admin

    def path(self, version: str, plural: str, *rest: str) -> str:
        parts = ["apis", GROUP, version, "namespaces", self.namespace, plural, *rest]
        return "/" + "/".join(parts)


def with_next_version(crd: dict[str, Any]) -> dict[str, Any]:
    """The CRD with a later version, which is the one that is stored from now on."""
    later = copy.deepcopy(crd)
    (version,) = later["spec"]["versions"]
    later["spec"]["versions"] = [
        version | {"storage": False},
        version | {"name": NEXT, "storage": True},
    ]
    return later


@pytest.fixture
def later(bare_control_plane: ControlPlane) -> Later:
    plane = bare_control_plane
    plane.install(DEPLOY)
    wait_for_policy(plane)
    found = Later(plane, plane.create_namespace("shop"))
    found.admin.create(found.path(VERSION, "storageformats"), storageformat())
    for crd in map(with_next_version, (storageformat_crd(), formatstate_crd())):
        found.admin.patch(f"{_CRDS}/{crd['metadata']['name']}", {"spec": crd["spec"]})

    def served() -> bool:
        try:
            return all(
                found.admin.exists(found.path(version, plural))
                for version in (VERSION, NEXT)
                for plural in ("storageformats", "formatstates")
            )
        except ApiError as error:
            if error.status == 429:  # its storage is being made anew
                return False
            raise

    wait_until(served, timeout=40, every=0.1, what=f"{NEXT} is served")
    return found


def without_version(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in {"apiVersion", "metadata"}}


def test_a_version_can_come_after_this_one(later: Later) -> None:
    """What was stored before is read in both versions; what is written in either is the same in the other, status too;
    a sidecar and a controller of this release understand both directions."""
    old = later.admin.get(later.path(VERSION, "storageformats", "orders"))
    new = later.admin.get(later.path(NEXT, "storageformats", "orders"))
    assert (old["apiVersion"], new["apiVersion"]) == (f"{GROUP}/{VERSION}", f"{GROUP}/{NEXT}")
    assert without_version(old) == without_version(new)
    later.admin.patch(later.path(NEXT, "storageformats", "orders"), {"spec": {"target": "v1"}})
    seen = StorageFormat.from_object(
        later.admin.get(later.path(VERSION, "storageformats", "orders"))
    )
    assert seen.spec.target == "v1"
    body = {"kind": "FormatState", "metadata": {"name": "orders.orders-0"}}
    states = later.path(VERSION, "formatstates")
    later.admin.create(states, {"apiVersion": f"{GROUP}/{VERSION}", **body})
    later.admin.patch(f"{states}/orders.orders-0/status", STATUS)
    permit = {"permit": {"targetHash": "0123456789abcdef", "expires": "2126-01-31T12:00:00Z"}}
    later.admin.patch(later.path(NEXT, "formatstates", "orders.orders-0"), {"spec": permit})
    known = FormatState.from_object(later.admin.get(f"{states}/orders.orders-0"))
    assert known.permit is not None
    assert known.permit.target_hash == "0123456789abcdef"
    assert (
        later.admin.get(later.path(NEXT, "formatstates", "orders.orders-0"))["status"]
        == STATUS["status"]
    )


def test_the_rules_hold_in_a_later_version_too(later: Later) -> None:
    """The admission policy is about the kind, not the version: a pod writes its own FormatState by neither way only."""
    later.plane.create_service_account(later.namespace, "orders")
    pod = later.plane.create_pod(later.namespace, "orders-0", service_account="orders")
    sidecar = later.plane.client(later.plane.token(later.namespace, "orders", pod=pod))
    for version, name in ((VERSION, "orders.orders-1"), (NEXT, "orders.orders-2")):
        body = {
            "apiVersion": f"{GROUP}/{version}",
            "kind": "FormatState",
            "metadata": {"name": name},
        }
        with pytest.raises(ApiError, match="formatstate-of-own-pod") as refused:
            sidecar.create(later.path(version, "formatstates"), body)
        assert refused.value.status == 403
