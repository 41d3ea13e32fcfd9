"""What of pods and events may leave the cluster in a support bundle: see ``redact``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from format_operator.api import podspec
from format_operator.api.names import GROUP

Object = Mapping[str, Any]

#: What Kubernetes tells of pods with these reasons is about nodes, images and volumes.
_SAFE_EVENTS: Final = frozenset(
    {
        *("Scheduled", "FailedScheduling", "Pulling", "Pulled", "Created", "Started", "Killing"),
        *("SuccessfulAttachVolume", "FailedAttachVolume", "TaintManagerEviction", "Evicted"),
        *("SandboxChanged", "Preempted", "NodeNotReady", "BackOff"),
    }
)
#: And what the controller tells with these is about pods and counts.
_SAFE_OWN_EVENTS: Final = frozenset({"PodConverted", "PodEvicted", "TargetChanged", "Recovered"})


def withheld(text: object) -> str:
    """In a text's place."""
    return f"(withheld: {len(str(text))} characters)"


def pod(body: Object) -> dict[str, Any]:
    """A pod: what runs where with which volumes; no values of variables, no command lines but ours."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    ours = {container["name"] for container, _ in podspec.sidecars(spec)} | podspec.gates(spec)
    kept = copied(
        spec,
        *("nodeName", "restartPolicy", "serviceAccountName", "terminationGracePeriodSeconds"),
        *("priorityClassName", "schedulerName", "automountServiceAccountToken", "securityContext"),
    )
    for kind in ("initContainers", "containers"):
        kept[kind] = [_container(one, ours) for one in spec.get(kind) or ()]
    kept["volumes"] = [_volume(one) for one in spec.get("volumes") or ()]
    told = copied(status, "phase", "qosClass", "startTime", "podIP", "hostIP", "reason")
    told["conditions"] = [
        copied(one, "type", "status", "reason", "lastTransitionTime")
        for one in status.get("conditions") or ()
    ]
    for kind in ("initContainerStatuses", "containerStatuses"):
        told[kind] = [_container_status(one) for one in status.get(kind) or ()]
    told_of = identity(body)
    told_of["metadata"]["ownerReferences"] = [
        copied(one, "kind", "name", "uid", "controller")
        for one in metadata.get("ownerReferences") or ()
    ]
    return {**told_of, "spec": kept, "status": told}


def event(body: Object) -> dict[str, Any]:
    """An event: what happened to what; its text where its reason says that Kubernetes made it."""
    source = body.get("source") or {}
    about = body.get("involvedObject") or {}
    reason = body.get("reason")
    kubernetes = source.get("component") in {"default-scheduler", "kubelet"} or str(
        source.get("component", "")
    ).endswith("-controller")
    own = source.get("component") == "storageformat-controller"
    safe = reason in _SAFE_OWN_EVENTS if own else kubernetes and reason in _SAFE_EVENTS
    text = str(body.get("message") or "")
    return {
        **copied(body, "type", "reason", "count", "firstTimestamp", "lastTimestamp", "eventTime"),
        "involvedObject": copied(about, "kind", "name", "fieldPath"),
        "source": copied(source, "component", "host"),
        "message": text if safe else withheld(text),
    }


def identity(body: Object) -> dict[str, Any]:
    """Kind and metadata, without the values of annotations that are not ours."""
    metadata = body["metadata"]
    kept = copied(
        metadata,
        *("name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp"),
        *("deletionTimestamp", "labels", "finalizers"),
    )
    kept["annotations"] = {
        key: value if key.startswith(f"{GROUP}/") else withheld(value)
        for key, value in (metadata.get("annotations") or {}).items()
    }
    return {**copied(body, "apiVersion", "kind"), "metadata": kept}


def _container(body: Object, ours: Iterable[str]) -> dict[str, Any]:
    kept = copied(
        body,
        *("name", "image", "imagePullPolicy", "ports", "resources", "restartPolicy"),
        *("securityContext", "volumeMounts", "workingDir"),
    )
    for key in ("command", "args"):
        if key in body:
            kept[key] = body[key] if body["name"] in ours else withheld(body[key])
    kept["env"] = [
        {"name": one.get("name"), "valueFrom": _source(one["valueFrom"])}
        if "valueFrom" in one
        else {"name": one.get("name"), "value": withheld(one.get("value", ""))}
        for one in body.get("env") or ()
    ]
    for key in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "envFrom"):
        if key in body:
            kept[key] = withheld(body[key])
    return kept


def _source(body: Object) -> dict[str, Any]:
    """Where a variable's value is from: names, never the value."""
    return {
        kind: copied(one, "name", "key", "fieldPath", "resource", "optional")
        for kind, one in body.items()
        if isinstance(one, Mapping)
    }


_VOLUMES: Final[Mapping[str, tuple[str, ...]]] = {
    "persistentVolumeClaim": ("claimName", "readOnly"),
    "emptyDir": ("medium", "sizeLimit"),
    "configMap": ("name", "optional"),
    "secret": ("secretName", "optional"),
    "hostPath": ("path", "type"),
    "csi": ("driver", "readOnly"),
}


def _volume(body: Object) -> dict[str, Any]:
    kept: dict[str, Any] = copied(body, "name")
    for kind, value in body.items():
        if kind != "name":
            known = _VOLUMES.get(kind, ())
            kept[kind] = copied(value, *known) if isinstance(value, Mapping) else {}
    return kept


def _container_status(body: Object) -> dict[str, Any]:
    kept = copied(body, "name", "image", "imageID", "ready", "started", "restartCount")
    for key in ("state", "lastState"):
        kept[key] = {
            phase: copied(value, "reason", "exitCode", "signal", "startedAt", "finishedAt")
            for phase, value in (body.get(key) or {}).items()
        }
    return kept


def copied(body: Object, *keys: str) -> dict[str, Any]:
    """What there is of these keys."""
    return {key: body[key] for key in keys if key in body}
