"""Where a database lies in a pod: the app's very mount of it, and who the app runs as. Pure.

The mount is copied as it is, whole or a sub-path, because SQLite's side files can name paths, and the state directory
has to lie beside the database. What is left out: ``readOnly``, for an app that only reads still wants its database
converted; and mount propagation, which is about mounts and not about files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from format_operator.admission.refusal import Refused
from format_operator.api.injection import CONTAINER, INJECT, RUN_AS_USER, Asked

Object = Mapping[str, Any]

#: Kinds of volumes whose files outlive the pod. What is not known is refused: a converted file must not vanish.
LASTING: Final = frozenset(
    [
        "persistentVolumeClaim",
        "hostPath",
        "nfs",
        "iscsi",
        "fc",
        "rbd",
        "cephfs",
        "glusterfs",
        "azureFile",
        "azureDisk",
        "awsElasticBlockStore",
        "gcePersistentDisk",
        "cinder",
        "vsphereVolume",
        "portworxVolume",
        "quobyte",
        "scaleIO",
        "storageos",
        "flocker",
        "flexVolume",
    ]
)
_READ_ONLY: Final = frozenset(("configMap", "secret", "projected", "downwardAPI", "image"))
_REFERENCE: Final = re.compile(r"\$\$|\$\((?P<name>[^()]*)\)")


@dataclass(frozen=True)
class Place:
    """A database's mount, the variables that it names, and who its app runs as (None: nobody says)."""

    mount: Object
    env: tuple[Object, ...]
    user: int | None
    group: int | None


@dataclass(frozen=True)
class _Candidate:
    container: Object
    mount: Object

    @property
    def what(self) -> tuple[str, str, str, str]:
        """Equal where it is the same directory of the same volume at the same path."""
        mount = self.mount
        return (
            str(mount["name"]),
            str(mount.get("subPath") or ""),
            str(mount.get("subPathExpr") or ""),
            _at(mount),
        )


def place(spec: Object, asked: Asked, container: str | None, user: int | None = None) -> Place:
    """Where the database of ``asked`` (with its path) lies; ``user`` where that is known. Raises Refused."""
    path = asked.path or ""
    found = list(_candidates(spec, path, container))
    if not found:
        whose = f"the container {container}" if container else "any container"
        raise Refused(
            INJECT,
            f"{asked.name}={path}: no volumeMount of {whose} has it; mount the volume of the database in the app, or "
            "correct the path",
        )
    if len({one.what for one in found}) > 1:
        names = ", ".join(
            f"{one.container['name']} ({one.mount['name']} at {_at(one.mount)})" for one in found
        )
        raise Refused(
            INJECT,
            f"{asked.name}={path}: containers mean different places: {names}; say whose it is: {CONTAINER}: NAME",
        )
    first = _writers(found)[0]
    _check_volume(spec, asked, str(first.mount["name"]))
    who, group = _identity(spec, asked, _writers(found), user)
    name, sub_path, expression, at = first.what
    mount: dict[str, Any] = {"name": name, "mountPath": at}
    env: tuple[Object, ...] = ()
    if sub_path:
        mount["subPath"] = sub_path
    if expression:
        mount["subPathExpr"] = expression
        env = tuple(_variables(asked, first.container, expression))
    return Place(mount, env, who, group)


def _candidates(spec: Object, path: str, container: str | None) -> Iterator[_Candidate]:
    """Of each container the mount that a path lies on: the longest one, as in the pod."""
    containers: Sequence[Object] = spec.get("containers") or ()
    if container is not None:
        everything = [*containers, *(spec.get("initContainers") or ())]
        containers = [one for one in everything if one["name"] == container]
        if not containers:
            names = ", ".join(str(one["name"]) for one in everything)
            raise Refused(CONTAINER, f"there is no container {container}; there are {names}")
    for one in containers:
        mounts = [mount for mount in one.get("volumeMounts") or () if _holds(mount, path)]
        if mounts:
            mount = max(mounts, key=lambda mount: len(_at(mount)))
            if _at(mount) == path:
                raise Refused(
                    INJECT,
                    f"{path} itself is a mount of the container {one['name']}: a database is replaced by a rename "
                    "beside it, so mount its directory",
                )
            yield _Candidate(one, mount)


def _at(mount: Object) -> str:
    return os.path.normpath(str(mount["mountPath"]))


def _holds(mount: Object, path: str) -> bool:
    at = _at(mount)
    return path == at or path.startswith(at.rstrip("/") + "/")


def _writers(found: Sequence[_Candidate]) -> Sequence[_Candidate]:
    """Those that may write: an exporter beside the app has no say in who owns the file."""
    return [one for one in found if not one.mount.get("readOnly")] or found


def _check_volume(spec: Object, asked: Asked, name: str) -> None:
    where = f"{asked.name}={asked.path}: the volume {name}"
    volume = next((one for one in spec.get("volumes") or () if one["name"] == name), None)
    if volume is None:
        raise Refused(INJECT, f"{where} is not among the pod's volumes")
    kind = next((key for key, value in volume.items() if key != "name" and value is not None), "")
    if kind in _READ_ONLY:
        raise Refused(INJECT, f"{where} is a {kind}, which nobody can write to")
    if kind not in LASTING:
        raise Refused(
            INJECT,
            f"{where} is of the kind {kind or 'emptyDir'}, whose files end with the pod: there is nothing to convert at "
            "the next start; use a PersistentVolumeClaim, or take the annotation away",
        )
    if volume[kind].get("readOnly"):
        raise Refused(INJECT, f"{where} is read-only for the whole pod: take its readOnly away")


def _identity(
    spec: Object, asked: Asked, found: Sequence[_Candidate], known: int | None
) -> tuple[int | None, int | None]:
    """Whom the app runs as, as far as the pod says it."""
    pod = spec.get("securityContext") or {}

    def of(container: Object, key: str) -> int | None:
        own = (container.get("securityContext") or {}).get(key)
        value: int | None = own if own is not None else pod.get(key)
        return value

    users = {of(one.container, "runAsUser") for one in found} if known is None else {known}
    if len(users) > 1:
        names = ", ".join(str(one.container["name"]) for one in found)
        raise Refused(
            INJECT,
            f"{asked.name}={asked.path}: the containers {names} run as different users; say who owns the database: "
            f"{RUN_AS_USER}: UID",
        )
    return users.pop(), of(found[0].container, "runAsGroup")


def _variables(asked: Asked, container: Object, expression: str) -> Iterator[Object]:
    """The variables that a subPathExpr names, and those that these name, in the order of the container."""
    defined = {str(one["name"]): one for one in container.get("env") or ()}
    wanted: set[str] = set()
    waiting = [expression]
    while waiting:
        for match in _REFERENCE.finditer(waiting.pop()):
            name = match["name"]
            if name is None or name in wanted:
                continue
            one = defined.get(name)
            source = (one or {}).get("valueFrom")
            if one is None or (source is not None and not source.get("fieldRef")):
                raise Refused(
                    INJECT,
                    f"{asked.name}={asked.path}: the subPathExpr {expression!r} of the container {container['name']} "
                    f"needs {name}, which is neither written out there nor from the Downward API (fieldRef): the "
                    "sidecar cannot have it; use one that is",
                )
            wanted.add(name)
            waiting.append(str(one.get("value") or ""))
    for name, one in defined.items():
        if name in wanted:
            yield one
