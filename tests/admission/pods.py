"""Pods that ask for injection."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from format_operator.admission.inject import Defaults, Patch, inject
from format_operator.admission.refusal import Refusal
from format_operator.api.injection import INJECT
from tests.support.jsonpatch import applied
from tests.support.objects import put

Object = dict[str, Any]

DEFAULTS: Final = Defaults(image="registry/storageformat:1", release="1")
PATHS: Final = {"orders": "/data/orders.db", "users": "/data/users.db"}

_POD: Final[Object] = {
    "metadata": {"name": "orders-0", "namespace": "shop", "annotations": {INJECT: "orders"}},
    "spec": {
        "containers": [
            {
                "name": "app",
                "image": "app:1",
                "securityContext": {"runAsUser": 999, "runAsGroup": 998},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-orders-0"}},
        ],
    },
}


def pod(asked: str = "orders", *, options: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """A pod of a StatefulSet; ``options`` are annotations without their prefix, ``spec`` paths with ``__`` for dots."""
    body = copy.deepcopy(_POD)
    body["metadata"]["annotations"] = {INJECT: asked} | {
        f"storageformat.dev/{key}": value for key, value in (options or {}).items()
    }
    for path, value in spec.items():
        put(body, "spec." + path.replace("__", "."), value)
    return body


def mounted(*mounts: Object, name: str = "app", **more: Any) -> Object:
    """A container."""
    return {"name": name, "image": "app:1", "volumeMounts": list(mounts), **more}


def mount(at: str = "/data", name: str = "data", **more: Any) -> Object:
    return {"name": name, "mountPath": at, **more}


def claim(name: str) -> Object:
    return {"name": name, "persistentVolumeClaim": {"claimName": name}}


def injected(body: Object, defaults: Defaults = DEFAULTS) -> Object:
    """The pod as it becomes."""
    decided = inject(body, PATHS, defaults)
    assert isinstance(decided, Patch), decided
    return applied(body, decided.operations)


def refused(body: Object, paths: Mapping[str, str] = PATHS) -> str:
    """What the refusal says; nothing is patched."""
    decided = inject(body, paths, DEFAULTS, "shop")
    assert isinstance(decided, Refusal), decided
    assert decided.code == 403
    return decided.message


def sidecar(body: Object) -> Object:
    found: Object = body["spec"]["initContainers"][0]
    assert found["name"] == "storageformat"
    return found
