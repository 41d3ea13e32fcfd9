"""What a pod that asks for it gets: sidecar and gate in front of everything, and their volumes. Pure.

In front, always: nothing may touch the volume before them, and a service mesh's own init container (istio-init,
linkerd-init) redirects all traffic to a proxy that does not run yet. In front of it, the init phase reaches the API
server as if there were no mesh. Where a later webhook has put something before them, they are moved.
A mesh that redirects before the first container runs (its CNI plugin) is told by annotation which address to leave out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from format_operator.admission import places
from format_operator.admission.refusal import Refusal, Refused
from format_operator.api import injection as keys
from format_operator.api.injection import Asked, parse_inject
from format_operator.api.names import GROUP
from format_operator.runtime import lines
from format_operator.settings import DEFAULT_METRICS_PORT
from format_operator.snippet import (
    DEFAULT_MIGRATIONS_PATH,
    DEFAULT_REQUESTS,
    GATE,
    MIGRATIONS_VOLUME,
    RUN_VOLUME,
    SIDECAR,
    TOKEN_VOLUME,
    InvalidSnippet,
    SnippetOptions,
    init_containers,
    volumes,
)

Object = Mapping[str, Any]
Operation = dict[str, Any]

#: Which addresses a mesh's redirection leaves out, by the mesh. On a pod it stands in for the mesh's own setting.
MESHES: Final[Mapping[str, str]] = {
    "istio": "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "linkerd": "config.linkerd.io/skip-subnets",
}
_MIRROR: Final = "kubernetes.io/config.mirror"
_PICKLED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_OPTION_OF: Final = {
    "metrics_port": keys.METRICS_PORT,
    "run_as_user": keys.RUN_AS_USER,
    "run_as_group": keys.RUN_AS_GROUP,
    "requests": keys.REQUESTS,
    "limits": keys.LIMITS,
    "migrations": keys.MIGRATIONS,
}


@dataclass(frozen=True)
class Defaults:
    """What the webhook decides itself, or where a pod says nothing.

    The image is not the pod's to choose: it has to fit the controller, is upgraded in one place, and is what a policy
    about images looks for. Who needs another one writes the containers by hand.
    """

    image: str
    image_pull_policy: str | None = None
    metrics_port: int = DEFAULT_METRICS_PORT
    requests: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_REQUESTS))
    limits: Mapping[str, str] = field(default_factory=dict)
    sidecar_args: tuple[str, ...] = ()
    log_format: str = lines.TEXT
    """The webhook's own: sidecar and gate write as it does."""
    meshes: tuple[str, ...] = ()
    api_addresses: tuple[str, ...] = ()
    """CIDRs of the API server as pods see it, for the meshes."""
    release: str = ""


@dataclass(frozen=True)
class Patch:
    """RFC 6902 operations; none where there is nothing to do. ``warnings`` are shown by kubectl."""

    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()


def asks(pod: Object) -> bool:
    """Whether this pod is our business. A mirror pod is what a kubelet shows: it runs already."""
    annotations = _annotations(pod)
    return keys.INJECT in annotations and _MIRROR not in annotations


def unknown_paths(pod: Object) -> tuple[str, ...]:
    """The StorageFormats that have to be looked up for ``inject``. What is wrong with a pod, ``inject`` says."""
    if not asks(pod) or _served(pod["spec"]):
        return ()
    try:
        asked = parse_inject(_annotations(pod)[keys.INJECT])
    except ValueError:
        return ()
    return tuple(one.name for one in asked if one.path is None)


def inject(
    pod: Object, paths: Mapping[str, str], defaults: Defaults, namespace: str = ""
) -> Patch | Refusal:
    """The patch for a pod; ``paths`` are those of the StorageFormats of its namespace that were found."""
    if not asks(pod):
        return Patch()
    try:
        return _inject(pod, paths, defaults)
    except Refused as refused:
        metadata = pod.get("metadata") or {}
        name = metadata.get("name") or f"{metadata.get('generateName') or ''}…"
        at = metadata.get("namespace") or namespace
        return Refusal(f"pod {at}/{name}, annotation {refused.annotation}: {refused.problem}")


def _inject(pod: Object, paths: Mapping[str, str], defaults: Defaults) -> Patch:
    annotations, spec = _annotations(pod), pod["spec"]
    try:
        asked = parse_inject(annotations[keys.INJECT])
    except ValueError as error:
        raise Refused(keys.INJECT, str(error)) from error
    warnings = tuple(_unknown(annotations))
    served = _served(spec)
    if served:
        _check_same(asked, served)
        return Patch(tuple(_to_the_front(annotations, spec)), warnings)
    _check_pod(spec)
    options = _options(annotations, spec, [_with_path(one, paths) for one in asked], defaults)
    operations = [
        *_added(spec, "initContainers", init_containers(options), front=True),
        *_added(spec, "volumes", volumes(options)),
        *_annotated(annotations, {keys.INJECTED: defaults.release or "unknown"}),
        *_annotated(annotations, dict(_mesh(annotations, defaults))),
    ]
    return Patch(tuple(operations), warnings)


def _with_path(asked: Asked, paths: Mapping[str, str]) -> Asked:
    if asked.path is not None:
        return asked
    if asked.name not in paths:
        raise Refused(
            keys.INJECT,
            f"there is no StorageFormat {asked.name} in this namespace; create it first, or say the path: "
            f"{asked.name}=/PATH/OF/THE/DATABASE",
        )
    return Asked(asked.name, paths[asked.name])


def _check_pod(spec: Object) -> None:
    system = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get(
        "kubernetes.io/os"
    )
    if system not in {None, "linux"}:
        raise Refused(keys.INJECT, f"the pod is for {system}; sidecar and store need Linux")
    ours = {SIDECAR, GATE}
    for kind in ("initContainers", "containers"):
        for one in spec.get(kind) or ():
            if one["name"] in ours:
                raise Refused(
                    keys.INJECT,
                    f"there is a container {one['name']} that is none of ours; call it something else",
                )
    for one in spec.get("volumes") or ():
        if one["name"] in {RUN_VOLUME, TOKEN_VOLUME, MIGRATIONS_VOLUME}:
            raise Refused(
                keys.INJECT,
                f"there is a volume {one['name']} that is none of ours; call it something else",
            )


def _check_same(asked: Sequence[Asked], served: Mapping[str, str]) -> None:
    """The pod carries a sidecar already: by hand, or because this is the second time that it is seen."""
    for one in asked:
        if one.name not in served:
            raise Refused(
                keys.INJECT,
                f"the pod has a sidecar already, which serves {', '.join(sorted(served))} and not {one.name}; add "
                f"--database {one.name}=… to it, or take it out and leave everything to this annotation",
            )
        if one.path not in {None, served[one.name]}:
            raise Refused(
                keys.INJECT,
                f"the pod has a sidecar already, which serves {one.name}={served[one.name]} and not {one.path}",
            )


# --- what it is made of ----------------------------------------------------------------------------------------


def _options(
    annotations: Mapping[str, str], spec: Object, asked: Sequence[Asked], defaults: Defaults
) -> SnippetOptions:
    user = _number(annotations, keys.RUN_AS_USER)
    group = _number(annotations, keys.RUN_AS_GROUP)
    container = annotations.get(keys.CONTAINER)
    found = [places.place(spec, one, container, user) for one in asked]
    user = _one_user(asked, found)
    group = found[0].group if group is None else group
    port = _number(annotations, keys.METRICS_PORT)
    port = defaults.metrics_port if port is None else port
    _check_port(spec, port)
    migrations, has_path, at = annotations.get(keys.MIGRATIONS, "").partition(":")
    try:
        return SnippetOptions(
            image=defaults.image,
            image_pull_policy=defaults.image_pull_policy,
            databases={one.name: one.path or "" for one in asked},
            run_as_user=user,
            run_as_group=group,
            mounts=tuple(_mounts(found)),
            env=tuple(_environment(found)),
            metrics_port=port,
            requests={**defaults.requests, **_quantities(annotations, keys.REQUESTS)},
            limits={**defaults.limits, **_quantities(annotations, keys.LIMITS)},
            sidecar_args=(*defaults.sidecar_args, *_pickles(annotations)),
            log_format=defaults.log_format,
            migrations=migrations if keys.MIGRATIONS in annotations else None,
            migrations_path=at if has_path else DEFAULT_MIGRATIONS_PATH,
        )
    except InvalidSnippet as error:
        raise Refused(_OPTION_OF.get(error.option, keys.INJECT), str(error)) from error


def _one_user(asked: Sequence[Asked], found: Sequence[places.Place]) -> int | None:
    if len({one.user for one in found}) > 1:
        which = ", ".join(
            f"{one.name} by {'nobody knows whom' if place.user is None else place.user}"
            for one, place in zip(asked, found, strict=True)
        )
        raise Refused(
            keys.RUN_AS_USER,
            f"one sidecar has one user, and the databases are used by different ones ({which}); say which: "
            f"{keys.RUN_AS_USER}: UID (0 may convert the files of all of them)",
        )
    return found[0].user


def _mounts(found: Iterable[places.Place]) -> Iterable[Object]:
    taken: dict[str, Object] = {}
    for one in found:
        at = str(one.mount["mountPath"])
        if taken.setdefault(at, one.mount) != one.mount:
            raise Refused(keys.INJECT, f"the databases lie on different volumes that are at {at}")
    return taken.values()


def _environment(found: Iterable[places.Place]) -> Iterable[Object]:
    """The variables of sub-paths; one that the sidecar has anyway has to mean the same."""
    base = SnippetOptions("none", {"none": "/none/none"})
    ours = {one["name"]: one for one in init_containers(base)[0]["env"]}
    more: dict[str, Object] = {}
    for one in (variable for place in found for variable in place.env):
        name = str(one["name"])
        known = ours.get(name) or more.get(name)
        if known is not None and _meaning(known) != _meaning(one):
            raise Refused(
                keys.INJECT,
                f"a subPathExpr names the variable {name}, which means something else in the sidecar; give it "
                "another name",
            )
        if known is None:
            more[name] = one
    return more.values()


def _meaning(variable: Object) -> tuple[str, str]:
    source = (variable.get("valueFrom") or {}).get("fieldRef") or {}
    return str(variable.get("value") or ""), str(source.get("fieldPath") or "")


def _check_port(spec: Object, port: int) -> None:
    for one in spec.get("containers") or ():
        for taken in one.get("ports") or ():
            if taken.get("containerPort") == port and taken.get("protocol", "TCP") == "TCP":
                raise Refused(
                    keys.METRICS_PORT,
                    f"the port {port} of the sidecar's metrics is taken by the container {one['name']}; name another "
                    f"one: {keys.METRICS_PORT}: NUMBER",
                )


def _pickles(annotations: Mapping[str, str]) -> Iterable[str]:
    for name in _listed(annotations, keys.PICKLE_ALLOW):
        if not _PICKLED.fullmatch(name):
            raise Refused(keys.PICKLE_ALLOW, f"{name!r} is no class; write MODULE.NAME")
        yield f"--pickle-allow={name}"


def _quantities(annotations: Mapping[str, str], key: str) -> dict[str, str]:
    found = {}
    for entry in _listed(annotations, key):
        resource, separator, quantity = (part.strip() for part in entry.partition("="))
        if resource not in {"cpu", "memory", "ephemeral-storage"} or not separator:
            raise Refused(key, f"{entry!r}: write cpu=QUANTITY,memory=QUANTITY")
        found[resource] = quantity
    return found


def _listed(annotations: Mapping[str, str], key: str) -> list[str]:
    return [part.strip() for part in annotations.get(key, "").split(",") if part.strip()]


def _number(annotations: Mapping[str, str], key: str) -> int | None:
    text = annotations.get(key)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text.strip()):
        raise Refused(key, f"{text!r} is no number")
    return int(text)


def _unknown(annotations: Mapping[str, str]) -> Iterable[str]:
    known = {*keys.OPTIONS, keys.INJECTED}
    for key in sorted(annotations):
        if key.startswith(f"{GROUP}/") and key not in known:
            options = ", ".join(one.removeprefix(f"{GROUP}/") for one in keys.OPTIONS)
            yield f"annotation {key} means nothing; there are {options}"


# --- pods as they are ------------------------------------------------------------------------------------------


def _annotations(pod: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = (pod.get("metadata") or {}).get("annotations") or {}
    return found


def _served(spec: Object) -> dict[str, str]:
    """What native sidecars of ours serve already, whoever wrote them."""
    found: dict[str, str] = {}
    for container in spec.get("initContainers") or ():
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        if container.get("restartPolicy") != "Always" or "sidecar" not in words:
            continue
        for before, word in zip(["", *words], words, strict=False):
            text = word if before == "--database" else word.removeprefix("--database=")
            name, separator, path = text.partition("=")
            if separator and (before == "--database" or text != word):
                found[name] = path.replace("$$(", "$(")
    return found


def _to_the_front(annotations: Mapping[str, str], spec: Object) -> Iterable[Operation]:
    """Where another webhook has put something before ours; what was written by hand stays where it is."""
    containers: Sequence[Object] = spec["initContainers"]
    ours = sorted(
        (one for one in containers if one["name"] in {SIDECAR, GATE}),
        key=lambda one: one["name"] == GATE,
    )
    if keys.INJECTED not in annotations or len(ours) < 2 or list(containers[:2]) == ours:
        return
    others = [one for one in containers if one["name"] not in {SIDECAR, GATE}]
    yield {"op": "replace", "path": "/spec/initContainers", "value": [*ours, *others]}


def _mesh(annotations: Mapping[str, str], defaults: Defaults) -> Iterable[tuple[str, str]]:
    for mesh in defaults.meshes:
        key = MESHES[mesh]
        there = _listed(annotations, key)
        more = [one for one in defaults.api_addresses if one not in there]
        if more and "*" not in there:
            yield key, ",".join([*there, *more])


def _annotated(annotations: Mapping[str, str], values: Mapping[str, str]) -> Iterable[Operation]:
    for key, value in values.items():
        if annotations.get(key) != value:
            escaped = key.replace("~", "~0").replace("/", "~1")
            yield {"op": "add", "path": f"/metadata/annotations/{escaped}", "value": value}


def _added(
    spec: Object, key: str, values: Sequence[Object], *, front: bool = False
) -> Iterable[Operation]:
    if not spec.get(key):
        yield {"op": "add", "path": f"/spec/{key}", "value": list(values)}
        return
    for index, value in enumerate(values):
        yield {"op": "add", "path": f"/spec/{key}/{index if front else '-'}", "value": value}
