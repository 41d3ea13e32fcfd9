"""The CRDs on a real API server: what they accept, fill in, refuse, and never drop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane import ApiError, Client, ControlPlane
from format_operator.api.models import (
    FormatState,
    FormatStateStatus,
    StorageFormat,
    StorageFormatStatus,
)
from format_operator.api.names import API_VERSION, KIND_FORMATSTATE
from tests.support.objects import (
    ABSENT,
    INVALID,
    Invalid,
    complete,
    migrations,
    put,
    storageformat,
)


@pytest.fixture
def storageformats(namespace: str) -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/storageformats"


@pytest.fixture
def formatstates(namespace: str) -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/formatstates"


def kubectl_apply(control_plane: ControlPlane, namespace: str, body: dict[str, Any]) -> str:
    """As people do with an object that is too large for the annotation of `kubectl apply`."""
    arguments = ("apply", "--server-side", "-n", namespace, "-f", "-")
    return control_plane.kubectl(*arguments, stdin=json.dumps(body)).stdout


def test_defaults_are_filled_in(admin: Client, storageformats: str) -> None:
    """What is left out of a StorageFormat is filled in by the server, nested objects too."""
    created = admin.create(storageformats, storageformat())
    spec = created["spec"]
    assert spec["backup"] == {"retainFor": "0s", "pinned": False}
    assert spec["onFailure"] == "Block"
    assert spec["rollout"] == {
        "strategy": "RollingRestart",
        "maxUnavailable": 1,
        "partition": 0,
        "failureBudget": 0,
        "suspended": False,
    }
    assert spec["database"] == {"path": "/data/orders.db", "openersUnchecked": False}
    assert spec["formats"][0]["sqlitedict"] == {
        "keyEncoding": "natural",
        "valueCodec": "pickle",
        "compression": "none",
        "sharedReferences": "refuse",
    }


def test_server_and_parser_fill_in_the_same(admin: Client, storageformats: str) -> None:
    """What Python reads from a bare file equals what it reads from the server's completed object."""
    bare = storageformat(spec__rollout={"canary": {}})
    completed = admin.create(storageformats, bare)
    from_file = StorageFormat.from_object(bare, strict=True)
    from_server = StorageFormat.from_object(completed)
    assert from_server.spec == from_file.spec
    assert from_server.spec.target_hash() == from_file.spec.target_hash()
    assert from_server.uid == completed["metadata"]["uid"]
    assert from_server.generation == 1
    assert from_server.creation_timestamp is not None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.database.path", "/data/tenants/*.db"),
        ("spec.database.path", "/data/.hidden/..orders.db"),
        ("spec.database.path", "/orders.db"),
        ("spec.database.path", "/data/Bestellungen für alle.db"),
        ("spec.selector", {"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
        ("spec.formats.0.sqlitedict.tables", ["unnamed", "other table"]),
        ("spec.formats.1.sqlite", {}),
        ("spec.formats.1.sqlite", {"pageSize": 512, "autoVacuum": "none", "journalMode": "delete"}),
        ("spec.formats.1.sqlite", {"pageSize": 65536, "autoVacuum": "full", "journalMode": "wal"}),
        ("spec.formats.1.sqlite", {"migrations": migrations(1, 2, 20260131120000)}),
        (
            "spec.formats.1.sqlite",
            {"migrations": migrations(7, name="add-it", checks=["SELECT 1"])},
        ),
        ("spec.formats.1.sqlite", {"migrationsFrom": {"folder": "/migrations"}}),
        ("spec.formats.1.sqlite", {"migrationsFrom": {"folder": "/migrations", "upTo": 0}}),
        ("spec.formats.1", {"name": "v2", "sqlite": {"migrations": migrations(1, down="--")}}),
        ("spec.backup", {"retainFor": "1h30m0.5s", "pinned": True}),
        ("spec.backup", {"retainFor": "250ms"}),
        ("spec.rollout", {"canary": {"pods": 2, "soakFor": "10m"}, "partition": 3}),
        ("spec.onFailure", "StartApp"),
    ],
)
def test_valid_is_accepted(admin: Client, storageformats: str, path: str, value: Any) -> None:
    """Everything that makes sense is accepted, by the server and by the parser."""
    body = storageformat()
    put(body, path, value)
    created = admin.create(storageformats, body)
    assert StorageFormat.from_object(created).spec == StorageFormat.from_object(body).spec


def test_many_large_migrations_are_applied(
    control_plane: ControlPlane, admin: Client, namespace: str, storageformats: str
) -> None:
    """Two formats of 64 migrations, 4 KB each with its way back: applied server-side, and read back equal."""
    text = "-- " + "x" * 4093 + "\n"
    many = migrations(*range(1, 65), sql=text, down="SELECT 1;", checks=["SELECT 1"])
    formats = [
        {"name": "v1", "sqlite": {"migrations": many[:63]}},
        {"name": "v2", "sqlite": {"migrations": many}},
    ]
    body = storageformat(spec__formats=formats, spec__unmarked=ABSENT)
    applied = kubectl_apply(control_plane, namespace, body)
    assert applied.startswith("storageformat.storageformat.dev/orders serverside-applied")
    stored = StorageFormat.from_object(admin.get(f"{storageformats}/orders"))
    assert stored.spec == StorageFormat.from_object(body, strict=True).spec


def test_migrations_are_merged_in_order(
    control_plane: ControlPlane, admin: Client, namespace: str, storageformats: str
) -> None:
    """A file with more migrations, between those there are or after them, is applied over the one before."""

    def applied(*numbers: int) -> list[int]:
        part = {"migrations": migrations(*numbers)}
        formats = [{"name": "v2", "sqlite": part}]
        body = storageformat(spec__formats=formats, spec__unmarked=ABSENT)
        kubectl_apply(control_plane, namespace, body)
        stored = admin.get(f"{storageformats}/orders")["spec"]["formats"][0]["sqlite"]
        return [one["number"] for one in stored["migrations"]]

    assert applied(2, 4) == [2, 4]
    assert applied(1, 2, 3, 4, 5) == [1, 2, 3, 4, 5]
    assert applied(1, 3) == [1, 3]


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("sqlite", "Any SQLite file: its layout, and the migrations of its schema."),
        ("sqlite.pageSize", "a power of two from 512 to 65536"),
        ("sqlite.migrations", "in ascending order"),
        ("sqlite.migrations.down", "there is no way back past this migration"),
        ("sqlite.migrationsFrom.folder", "mount an immutable ConfigMap per release"),
    ],
)
def test_kubectl_explains(control_plane: ControlPlane, field: str, says: str) -> None:
    """`kubectl explain` says what a field is for."""
    told = control_plane.kubectl("explain", f"storageformats.spec.formats.{field}").stdout
    assert says in " ".join(told.split())


@pytest.mark.parametrize("invalid", INVALID, ids=lambda one: one.id)
def test_invalid_is_refused(admin: Client, storageformats: str, invalid: Invalid) -> None:
    """Every mistake is refused at the field it is in, with a message that says what to write."""
    with pytest.raises(ApiError) as refused:
        admin.create(storageformats, invalid.body)
    assert refused.value.status == 422
    assert invalid.field in refused.value.message
    assert invalid.says in refused.value.message


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("spec.selector.matchLabels.app", "others", "selector cannot change"),
        ("spec.database.path", "/data/others.db", "database.path cannot change"),
    ],
)
def test_identity_cannot_change(
    admin: Client, storageformats: str, path: str, value: str, says: str
) -> None:
    """Which pods and which file is decided once; the message says to make another object."""
    created = admin.create(storageformats, storageformat())
    put(created, path, value)
    with pytest.raises(ApiError) as refused:
        admin.replace(f"{storageformats}/orders", created)
    assert refused.value.status == 422
    assert says in refused.value.message
    assert "make one beside this" in refused.value.message


def test_everything_else_can_change(admin: Client, storageformats: str) -> None:
    """Target, retention, rollout and the permission to convert without leases may change."""
    created = admin.create(storageformats, storageformat())
    put(created, "spec.target", "v1")
    put(created, "spec.backup.retainFor", "24h")
    put(created, "spec.rollout.suspended", value=True)
    put(created, "spec.database.openersUnchecked", value=True)
    changed = admin.replace(f"{storageformats}/orders", created)
    assert changed["metadata"]["generation"] == 2
    assert changed["spec"]["target"] == "v1"


def test_no_key_of_a_formatstate_is_dropped(admin: Client, formatstates: str) -> None:
    """Every key that the models know, of spec and status, comes back as it was written."""
    status = complete(FormatStateStatus)
    spec = {
        "permit": {"targetHash": "0123456789abcdef", "expires": "2026-01-31T12:00:00Z"},
        "claimUID": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    }
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND_FORMATSTATE,
        "metadata": {"name": "orders.orders-0"},
        "spec": spec,
    }
    admin.create(formatstates, body)
    admin.patch(f"{formatstates}/orders.orders-0/status", {"status": status})
    stored = admin.get(f"{formatstates}/orders.orders-0")
    assert stored["status"] == status
    assert stored["spec"] == spec
    assert FormatStateStatus.from_dict(stored["status"]).to_dict() == status
    state = FormatState.from_object(stored)
    assert state.permit is not None
    assert state.permit.target_hash == "0123456789abcdef"
    assert state.claim_uid == spec["claimUID"]


def test_no_key_of_a_storageformat_status_is_dropped(admin: Client, storageformats: str) -> None:
    """Every key of the controller's report comes back as it was written."""
    status = complete(StorageFormatStatus)
    admin.create(storageformats, storageformat())
    admin.patch(f"{storageformats}/orders/status", {"status": status})
    assert admin.get(f"{storageformats}/orders")["status"] == status


def test_merge_patch_removes_what_is_no_longer_so(admin: Client, formatstates: str) -> None:
    """A status written as a merge patch replaces the one before it completely."""
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND_FORMATSTATE,
        "metadata": {"name": "orders.orders-0"},
    }
    admin.create(formatstates, body)
    path = f"{formatstates}/orders.orders-0"
    admin.patch(f"{path}/status", {"status": complete(FormatStateStatus)})
    fresh = FormatStateStatus.from_dict({"phase": "Idle", "backup": {"present": False}})
    admin.patch(f"{path}/status", {"status": fresh.to_merge_patch()})
    assert admin.get(path)["status"] == fresh.to_dict()


def test_status_is_a_subresource(admin: Client, storageformats: str) -> None:
    """A status in a written object changes nothing, and writing a status starts no generation."""
    body = storageformat()
    body["status"] = {"pods": 3}
    created = admin.create(storageformats, body)
    assert "status" not in created
    patched = admin.patch(f"{storageformats}/orders/status", {"status": {"pods": 3}})
    assert patched["status"] == {"pods": 3}
    assert patched["metadata"]["generation"] == 1


def test_kubectl_tells_the_story(
    control_plane: ControlPlane,
    admin: Client,
    namespace: str,
    formatstates: str,
    storageformats: str,
) -> None:
    """`kubectl get sf` and `kubectl get fs` work and show where things stand."""
    admin.create(storageformats, storageformat())
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND_FORMATSTATE,
        "metadata": {"name": "orders.orders-0"},
    }
    admin.create(formatstates, body)
    status = {"phase": "Converting", "currentFormat": "v1", "targetFormat": "v2", "gate": "Closed"}
    admin.patch(f"{formatstates}/orders.orders-0/status", {"status": status})
    sf = control_plane.kubectl("get", "sf", "-n", namespace).stdout.splitlines()
    assert sf[0].split() == [
        *("NAME", "TARGET", "PODS", "CONVERTED", "FAILED", "READY", "ROLLOUT", "AGE")
    ]
    assert sf[1].split()[:2] == ["orders", "v2"]
    fs = control_plane.kubectl("get", "fs", "-n", namespace).stdout.splitlines()
    assert fs[0].split() == [
        *("NAME", "PHASE", "FORMAT", "TARGET", "DONE", "GATE", "BACKUP", "REASON", "AGE")
    ]
    assert fs[1].split()[:4] == ["orders.orders-0", "Converting", "v1", "v2"]
