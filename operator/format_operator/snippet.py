"""What goes into a pod template: sidecar, gate, and the volumes of the two. Pure.

The one source of it: ``storageformat render sidecar`` prints this, the webhook injects it, and the Helm library
chart ``charts/storageformat-sidecar`` is compared with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from format_operator.api.names import READS_ANNOTATION
from format_operator.gate_protocol import DEFAULT_SOCKET
from format_operator.runtime import lines
from format_operator.settings import DEFAULT_METRICS_PORT, DEFAULT_TOKEN_DIRECTORY

SIDECAR: Final = "storageformat"
GATE: Final = "storageformat-gate"
RUN_VOLUME: Final = "storageformat-run"
TOKEN_VOLUME: Final = "storageformat-token"  # noqa: S105 # a volume's name
MIGRATIONS_VOLUME: Final = "storageformat-migrations"
METRICS_PORT_NAME: Final = "sf-metrics"

#: What root needs to do for another uid's files what their owner may do.
ROOT_CAPABILITIES: Final = ("LEASE", "DAC_OVERRIDE", "FOWNER", "CHOWN")
#: Of the sidecar at rest, rounded up; converting takes what is free.
DEFAULT_REQUESTS: Final[Mapping[str, str]] = {"cpu": "10m", "memory": "100Mi"}
#: The gate is one small process that waits.
GATE_REQUESTS: Final[Mapping[str, str]] = {"cpu": "10m", "memory": "32Mi"}
#: Where a ConfigMap of migrations is mounted unless somewhere else is named.
DEFAULT_MIGRATIONS_PATH: Final = "/migrations"
#: Kinds whose pod template a patch can be made for, by the name that kubectl users type.
WORKLOADS: Final[Mapping[str, str]] = {
    "statefulset": "StatefulSet",
    "deployment": "Deployment",
    "daemonset": "DaemonSet",
}

_RUN_DIRECTORY: Final = str(PurePosixPath(DEFAULT_SOCKET).parent)
_IMAGE: Final = re.compile(r"[A-Za-z0-9][\w./:@-]*")
_CONFIGMAP: Final = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY: Final = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OUR_ENV: Final = ("POD_NAME", "POD_UID", "POD_NAMESPACE", "NODE_NAME", "STORAGEFORMAT_READS")
_MAX_ID: Final = 2**31 - 1
#: An hour and a little: from one hour on the API server may hand out longer ones, the kubelet renews either.
_TOKEN_SECONDS: Final = 3607


class InvalidSnippet(ValueError):
    """``option`` (as its field is called) makes no sense; the message says what to write instead."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True)
class SnippetOptions:
    """``databases``: the path, or glob, of each StorageFormat. Raises InvalidSnippet when made of nonsense.

    ``mount``: where the app mounts ``volume``; None: the directory of the first database. It has to be the app's
    very mount, because SQLite's side files can name paths.
    """

    image: str
    databases: Mapping[str, str]
    image_pull_policy: str | None = None
    run_as_user: int | None = None
    """The owner of the database; None: whatever pod or image say. 0 adds capabilities."""
    run_as_group: int | None = None
    """None: as ``run_as_user``."""
    volume: str = "data"
    mount: str | None = None
    sub_path: str | None = None
    mounts: tuple[Mapping[str, Any], ...] = ()
    """The app's volumeMounts themselves, of several volumes if need be; then the three above say nothing."""
    env: tuple[Mapping[str, Any], ...] = ()
    """More variables of the sidecar: those that a ``subPathExpr`` names."""
    metrics_port: int = DEFAULT_METRICS_PORT
    requests: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_REQUESTS))
    limits: Mapping[str, str] = field(default_factory=dict)
    log_format: str = lines.TEXT
    """Of both containers."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """More variables of the sidecar: where OpenTelemetry's collector is, for one."""
    sidecar_args: tuple[str, ...] = ()
    migrations: str | None = None
    """The ConfigMap that a format's ``migrationsFrom`` names the folder of."""
    migrations_path: str = DEFAULT_MIGRATIONS_PATH

    def __post_init__(self) -> None:
        _check(self)

    @property
    def mount_path(self) -> str:
        """Where the volume is mounted."""
        return self.mount or str(PurePosixPath(next(iter(self.databases.values()))).parent)

    @property
    def volume_mounts(self) -> tuple[Mapping[str, Any], ...]:
        """The mounts of the app's volumes."""
        if self.mounts:
            return self.mounts
        data = {"name": self.volume, "mountPath": self.mount_path}
        return ({**data, "subPath": self.sub_path} if self.sub_path else data,)


def snippet(options: SnippetOptions) -> dict[str, list[dict[str, Any]]]:
    """``initContainers`` and ``volumes`` of a pod's spec. They come before everything that touches the volume."""
    return {"initContainers": init_containers(options), "volumes": volumes(options)}


def init_containers(options: SnippetOptions) -> list[dict[str, Any]]:
    """The native sidecar and the plain init container, in this order."""
    return [_sidecar(options), _gate(options)]


def volumes(options: SnippetOptions) -> list[dict[str, Any]]:
    """The socket's directory, a token that does not depend on the pod's automount, and migrations if any."""
    sources: list[dict[str, Any]] = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
            }
        },
    ]
    # Not optional: a pod whose ConfigMap is missing waits, with an event that names it.
    migrations = {"name": MIGRATIONS_VOLUME, "configMap": {"name": options.migrations}}
    return [
        {"name": RUN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": TOKEN_VOLUME, "projected": {"sources": sources}},
        *([migrations] if options.migrations else []),
    ]


def prometheus_annotations(options: SnippetOptions) -> dict[str, str]:
    """For a Prometheus that goes by annotations of the pod."""
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(options.metrics_port),
        "prometheus.io/path": "/metrics",
    }


def pod_template(options: SnippetOptions, *, annotations: bool) -> dict[str, Any]:
    """A pod template with nothing but the snippet, and the annotations where wanted."""
    metadata = {"metadata": {"annotations": prometheus_annotations(options)}} if annotations else {}
    return {**metadata, "spec": snippet(options)}


def workload_patch(
    options: SnippetOptions, kind: str, name: str, *, annotations: bool = False
) -> dict[str, Any]:
    """A strategic merge patch that adds the snippet to a workload of apps/v1."""
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"template": pod_template(options, annotations=annotations)},
    }


def _sidecar(options: SnippetOptions) -> dict[str, Any]:
    arguments = ["sidecar"]
    for name, path in options.databases.items():
        arguments += ["--database", f"{name}={path}"]
    if options.metrics_port != DEFAULT_METRICS_PORT:
        arguments += ["--metrics-port", str(options.metrics_port)]
    arguments += [*_log_arguments(options), *options.sidecar_args]
    migrations = {
        "name": MIGRATIONS_VOLUME,
        "mountPath": options.migrations_path,
        "readOnly": True,
    }
    capabilities = {"drop": ["ALL"]}
    if options.run_as_user == 0:
        capabilities["add"] = list(ROOT_CAPABILITIES)
    return {
        **_start(options, SIDECAR),
        "restartPolicy": "Always",
        "args": [_literal(argument) for argument in arguments],
        "env": [
            _field("POD_NAME", "metadata.name"),
            _field("POD_UID", "metadata.uid"),
            _field("POD_NAMESPACE", "metadata.namespace"),
            _field("NODE_NAME", "spec.nodeName"),
            _field("STORAGEFORMAT_READS", f"metadata.annotations['{READS_ANNOTATION}']"),
            *(dict(variable) for variable in options.env),
            *(
                {"name": name, "value": _literal(value)}
                for name, value in options.variables.items()
            ),
        ],
        "ports": [
            {
                "name": METRICS_PORT_NAME,
                "containerPort": options.metrics_port,
                "protocol": "TCP",
            }
        ],
        **_resources(options.requests, options.limits),
        "securityContext": _security(options, capabilities),
        "volumeMounts": [
            *(dict(mount) for mount in options.volume_mounts),
            {"name": RUN_VOLUME, "mountPath": _RUN_DIRECTORY},
            {"name": TOKEN_VOLUME, "mountPath": DEFAULT_TOKEN_DIRECTORY, "readOnly": True},
            *([migrations] if options.migrations else []),
        ],
    }


def _gate(options: SnippetOptions) -> dict[str, Any]:
    return {
        **_start(options, GATE),
        "args": ["gate", *_log_arguments(options)],
        **_resources(GATE_REQUESTS, options.limits),
        "securityContext": _security(options, {"drop": ["ALL"]}),
        "volumeMounts": [{"name": RUN_VOLUME, "mountPath": _RUN_DIRECTORY}],
    }


def _log_arguments(options: SnippetOptions) -> list[str]:
    return [] if options.log_format == lines.TEXT else ["--log-format", options.log_format]


def _start(options: SnippetOptions, name: str) -> dict[str, Any]:
    container = {"name": name, "image": options.image}
    if options.image_pull_policy:
        container["imagePullPolicy"] = options.image_pull_policy
    return container


def _resources(requests: Mapping[str, str], limits: Mapping[str, str]) -> dict[str, Any]:
    named = {"requests": dict(requests), "limits": dict(limits)}
    kept = {key: value for key, value in named.items() if value}
    return {"resources": kept} if kept else {}


def _security(options: SnippetOptions, capabilities: Mapping[str, list[str]]) -> dict[str, Any]:
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": dict(capabilities),
        "readOnlyRootFilesystem": True,
        # Said for uid 0 as well: the pod's own context may ask for the opposite.
        "runAsNonRoot": options.run_as_user != 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    user = options.run_as_user
    group = options.run_as_group if options.run_as_group is not None else user
    if user is not None:
        context["runAsUser"] = user
    if group is not None:
        context["runAsGroup"] = group
    return context


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _literal(argument: str) -> str:
    """Kubernetes replaces ``$(NAME)`` in arguments; ``$$(NAME)`` is that text itself."""
    return argument.replace("$(", "$$(")


def _check(options: SnippetOptions) -> None:
    if not _IMAGE.fullmatch(options.image):
        raise InvalidSnippet("image", f"{options.image!r} is no image; write REPOSITORY:TAG")
    if not options.databases:
        raise InvalidSnippet("database", "write at least one NAME=PATH")
    for mount in options.volume_mounts:
        if not _LABEL.fullmatch(mount["name"]):
            raise InvalidSnippet("volume", f"{mount['name']!r} is no volume of a pod")
        if mount["name"] in {RUN_VOLUME, TOKEN_VOLUME, MIGRATIONS_VOLUME}:
            raise InvalidSnippet("volume", "this one is the snippet's own; name the app's volume")
    for option in ("run_as_user", "run_as_group"):
        number = getattr(options, option)
        if number is not None and not 0 <= number <= _MAX_ID:
            raise InvalidSnippet(option, f"{number} is no id; write a number from 0 to {_MAX_ID}")
    if not 1 <= options.metrics_port <= 65535:
        raise InvalidSnippet("metrics_port", f"{options.metrics_port} is no port; write 1 to 65535")
    for option, quantities in (("requests", options.requests), ("limits", options.limits)):
        for resource, quantity in quantities.items():
            if not _QUANTITY.fullmatch(quantity):
                raise InvalidSnippet(
                    option, f"{resource}: {quantity!r} is no quantity, such as 50m or 128Mi"
                )
    if options.log_format not in lines.STYLES:
        raise InvalidSnippet(
            "log_format", f"{options.log_format!r} is none; write {' or '.join(lines.STYLES)}"
        )
    for name in options.variables:
        if name in _OUR_ENV or not _VARIABLE.fullmatch(name):
            raise InvalidSnippet(
                "variables", f"{name!r} is the sidecar's own, or no name of an environment variable"
            )
    sub_path = options.sub_path or ""
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        raise InvalidSnippet("sub_path", f"{sub_path!r} is not a relative path without '..'")
    places = [str(mount["mountPath"]) for mount in options.volume_mounts]
    for place in places:
        _check_place("mount", place)
    for name, path in options.databases.items():
        if not any(_below(path, place) for place in places):
            raise InvalidSnippet(
                "mount",
                f"{name}={path} is not below {' or '.join(places)}; name the directory at which the app mounts "
                f"the volume {options.volume_mounts[0]['name']}",
            )
    if options.migrations is not None:
        for place in places:
            _check_migrations(options.migrations, options.migrations_path, place)


def _check_migrations(configmap: str, path: str, mount: str) -> None:
    if not _CONFIGMAP.fullmatch(configmap):
        raise InvalidSnippet(
            "migrations", f"{configmap!r} is no ConfigMap; write NAME or NAME:/PATH"
        )
    _check_place("migrations", path)
    if path == mount or _below(path, mount) or _below(mount, path):
        raise InvalidSnippet("migrations", f"{path} and the app's volume at {mount} overlap")


def _check_place(option: str, place: str) -> None:
    if not place.startswith("/") or os.path.normpath(place) != place or place == "/":
        raise InvalidSnippet(
            option, f"{place!r} is not an absolute path in its shortest form, below /"
        )
    if ":" in place:
        raise InvalidSnippet(option, "Kubernetes mounts nothing at a path with ':'")
    for ours in (_RUN_DIRECTORY, DEFAULT_TOKEN_DIRECTORY):
        if place == ours or _below(ours, place) or _below(place, ours):
            raise InvalidSnippet(option, f"{place} and the sidecar's own {ours} overlap")


def _below(path: str, directory: str) -> bool:
    return path.startswith(directory + "/")
