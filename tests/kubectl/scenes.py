"""What an API server has of one StorageFormat and its pods, for tests of what the plugin makes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from format_operator.api.names import API_VERSION, KIND_FORMATSTATE
from format_operator.kubectl.overview import Overview, overview
from tests.support.objects import storageformat

Object = dict[str, Any]

NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HASH: Final = "0123456789abcdef"


def body(*, status: Object | None = None, **changes: Any) -> Object:
    made = storageformat(**changes)
    made["metadata"] |= {"namespace": "shop", "uid": "u", "generation": 2, "resourceVersion": "7"}
    made["status"] = status or {}
    return made


def rollout(phase: str, message: str, **more: Any) -> Object:
    """A StorageFormat's status."""
    return {"observedGeneration": 2, "rollout": {"phase": phase, "message": message}, **more}


def condition(kind: str, status: str, reason: str, message: str = "") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def pod(
    name: str, *, sidecar: bool = True, reads: str = "", path: str = "/data/orders.db"
) -> Object:
    """A pod that is ready."""
    ours = [
        {
            "name": "storageformat",
            "image": "i",
            "restartPolicy": "Always",
            "args": ["sidecar", "--database", f"orders={path}"],
        },
        {"name": "storageformat-gate", "image": "i", "args": ["gate"]},
    ]
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "labels": {"app": "orders"},
            "annotations": {"storageformat.dev/reads": reads} if reads else {},
        },
        "spec": {"initContainers": ours if sidecar else [], "containers": [{"name": "app"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": [
                {"name": "storageformat", "state": {"running": {}}, "restartCount": 0},
                {"name": "storageformat-gate", "state": {"terminated": {"exitCode": 0}}},
            ]
            if sidecar
            else [],
        },
    }


def state(name: str, phase: str, **status: Any) -> Object:
    """What the sidecar of that pod reports."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND_FORMATSTATE,
        "metadata": {"name": f"orders.{name}", "namespace": "shop"},
        "status": {
            "podUID": f"uid-{name}",
            "phase": phase,
            "currentFormat": "v2" if phase == "Converted" else "v1",
            "gate": "Open",
        }
        | status,
    }


def converted(name: str, **status: Any) -> Object:
    """A volume that was converted from v1."""
    last = {"at": "2026-03-01T11:00:00Z", "result": "succeeded", "from": "v1", "to": "v2"}
    return state(name, "Converted", reason="InTargetFormat", lastConversion=last, **status)


def midway() -> Overview:
    """A rollout with something of everything."""
    status = rollout(
        "Converting",
        "pod orders-1 is converting",
        conditions=[
            condition(
                "Ready", "False", "SidecarMissing", "orders-3: no sidecar for this StorageFormat"
            ),
            condition("Degraded", "False", "AsExpected"),
            condition(
                "SafeToDropOldFormat", "False", "OldFormatOnVolumes", "volumes still hold: v1 on 3"
            ),
        ],
    )
    backup = {"present": True, "size": 31_571_968, "count": 2, "createdAt": "2026-03-01T11:58:00Z"}
    states = [
        state(
            "orders-0",
            "RestartRequired",
            reason="AppRunning",
            message="v2 needs a restart and a permit",
        ),
        state(
            "orders-1",
            "Converting",
            reason="Converting",
            message="converting to v2",
            gate="Closed",
            progress={"percent": 48, "done": 48, "total": 100, "phase": "building"},
        ),
        converted("orders-2", backup=backup | {"pinned": True}),
        state("orders-5", "Converted"),
    ]
    pods = [pod(f"orders-{n}", sidecar=n != 3) for n in range(4)]
    return overview(body(status=status), states, pods)
