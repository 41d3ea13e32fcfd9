"""Facts from the API's objects, as the watch and lists bring them. Pure.

Only what decisions need is kept: a pod's body is ten kilobytes, and there may be thousands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from format_operator.api import podspec
from format_operator.api.injection import INJECT, Asked, parse_inject
from format_operator.api.models import Gate, Permit, Phase
from format_operator.api.names import READS_ANNOTATION, parse_reads
from format_operator.controller.facts import Ended, Kind, Owner, Pod, Served, State, Workload, under

Object = Mapping[str, Any]

_REVISION_LABELS: Final = ("controller-revision-hash", "pod-template-hash")
_ORDINAL: Final = re.compile(r"-(\d+)$")


def pod(body: Object) -> Pod:
    """A Pod from its body."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels = metadata.get("labels") or {}
    owner = controlling_owner(metadata)
    ready = _condition(status, "Ready")
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        labels=dict(labels),
        owner=owner,
        revision=next((labels[key] for key in _REVISION_LABELS if key in labels), None),
        deleting=metadata.get("deletionTimestamp") is not None,
        finished=status.get("phase") in {"Succeeded", "Failed"},
        ready=ready is not None and ready.get("status") == "True",
        ready_since=_time(ready.get("lastTransitionTime")) if ready is not None else None,
        gate_held=_gate_held(spec, status),
        reads=parse_reads((metadata.get("annotations") or {}).get(READS_ANNOTATION)),
        served=tuple(_served(spec)),
        ordinal=_ordinal(metadata["name"], owner),
        asks=frozenset(one.name for one in _asked(metadata)),
    )


def state(body: Object) -> State:
    """A FormatState from its body. Whatever a sidecar of another release adds is passed over."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    storageformat, _, pod_name = str(metadata["name"]).partition(".")
    databases = status.get("databases")
    return State(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        storageformat=storageformat,
        pod=pod_name,
        permit=_permit(spec.get("permit")),
        claim_uid=spec.get("claimUID"),
        pod_uid=status.get("podUID"),
        target_hash=status.get("targetHash"),
        current_format=status.get("currentFormat"),
        phase=_phase(status.get("phase")),
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        armed_for=status.get("armedFor"),
        gate=Gate(status["gate"]) if status.get("gate") in {"Open", "Closed"} else None,
        backup_present=bool((status.get("backup") or {}).get("present")),
        updated_at=str(status.get("updatedAt") or ""),
        conversion_at=str((status.get("lastConversion") or {}).get("at") or ""),
        protocol=status.get("apiVersion"),
        databases=(
            (
                int(databases.get("total", 0)),
                int(databases.get("converted", 0)),
                int(databases.get("pending", 0)),
                int(databases.get("failed", 0)),
            )
            if isinstance(databases, Mapping)
            else None
        ),
        conversion=_conversion(status.get("lastConversion")),
        recovery=_recovery(status.get("lastRecovery")),
    )


def _conversion(last: Any) -> Ended | None:
    if not isinstance(last, Mapping):
        return None
    said = [f"{last.get('from') or 'an unknown format'} → {last.get('to') or '?'}"]
    if last.get("rows") is not None:
        said.append(f"{last['rows']} rows")
    if last.get("bytesBefore") is not None and last.get("bytesAfter") is not None:
        said.append(f"{last['bytesBefore']} → {last['bytesAfter']} bytes")
    if last.get("durationSeconds") is not None:
        said.append(f"{float(last['durationSeconds']):.1f} s")
    return _ended(last, "result", ", ".join(said))


def _recovery(last: Any) -> Ended | None:
    if not isinstance(last, Mapping):
        return None
    return _ended(last, "outcome", str(last.get("detail") or ""))


def _ended(last: Mapping[str, Any], key: str, detail: str) -> Ended:
    identity = str(last.get("conversionID") or "")
    return Ended(str(last.get("at") or ""), str(last.get(key) or ""), identity, detail)


def stateful_set(body: Object) -> Workload:
    """A Workload from a StatefulSet."""
    spec, status = body["spec"], body.get("status") or {}
    strategy = spec.get("updateStrategy") or {}
    desired = int(spec.get("replicas", 1))
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    kind = str(strategy.get("type") or "RollingUpdate")
    to_update = max(0, desired - partition)
    updated = int(status.get("updatedReplicas") or 0)
    # Once every pod is of the update revision, it becomes the current one and both names are equal.
    same = status.get("currentRevision") == status.get("updateRevision")
    settled = _observed(body) and (same or updated >= to_update)
    claims = {one["metadata"]["name"] for one in spec.get("volumeClaimTemplates") or ()}
    return _workload(
        body,
        Kind.STATEFUL_SET,
        claims=claims,
        first=int((spec.get("ordinals") or {}).get("start") or 0),
        desired=desired,
        settled=settled,
        strategy=kind,
        partition=partition,
        update_revision=status.get("updateRevision"),
    )


def deployment(body: Object) -> Workload:
    """A Workload from a Deployment."""
    spec, status = body["spec"], body.get("status") or {}
    desired = int(spec.get("replicas", 1))
    updated = int(status.get("updatedReplicas") or 0)
    return _workload(
        body,
        Kind.DEPLOYMENT,
        desired=desired,
        settled=_observed(body)
        and updated >= desired
        and int(status.get("replicas") or 0) <= updated,
        strategy=str((spec.get("strategy") or {}).get("type") or "RollingUpdate"),
    )


def daemon_set(body: Object) -> Workload:
    """A Workload from a DaemonSet."""
    spec, status = body["spec"], body.get("status") or {}
    desired = int(status.get("desiredNumberScheduled") or 0)
    return _workload(
        body,
        Kind.DAEMON_SET,
        desired=desired,
        settled=_observed(body) and int(status.get("updatedNumberScheduled") or 0) >= desired,
        strategy=str((spec.get("updateStrategy") or {}).get("type") or "RollingUpdate"),
    )


def controlling_owner(metadata: Object) -> Owner | None:
    """The one owner that is marked as the controller."""
    for one in metadata.get("ownerReferences") or ():
        if one.get("controller"):
            return Owner(one["kind"], one["name"], one["uid"])
    return None


def _workload(
    body: Object,
    kind: Kind,
    *,
    desired: int,
    settled: bool,
    strategy: str,
    partition: int = 0,
    update_revision: str | None = None,
    claims: Collection[str] = (),
    first: int = 0,
) -> Workload:
    metadata = body["metadata"]
    pods = body["spec"].get("template") or {}
    template = pods.get("metadata") or {}
    return Workload(
        namespace=metadata["namespace"],
        kind=kind,
        name=metadata["name"],
        uid=metadata["uid"],
        desired=desired,
        settled=settled,
        strategy=strategy,
        partition=partition,
        update_revision=update_revision,
        reads=parse_reads((template.get("annotations") or {}).get(READS_ANNOTATION)),
        labels=dict(template.get("labels") or {}),
        served=tuple(_served_by_template(pods, claims)),
        claim_templates=frozenset(claims),
        first=first,
        deleting=metadata.get("deletionTimestamp") is not None,
    )


def _observed(body: Object) -> bool:
    """Whether the workload's controller has seen the newest spec: before, its status is of another."""
    generation = int(body["metadata"].get("generation") or 0)
    return int((body.get("status") or {}).get("observedGeneration") or 0) >= generation


def _ordinal(name: str, owner: Owner | None) -> int:
    match = _ORDINAL.search(name)
    return int(match[1]) if match and owner is not None and owner.kind == "StatefulSet" else -1


def missing_pod(workload: Workload, ordinal: int = -1) -> Pod:
    """A pod that the workload shall make: what is known of it before it is there."""
    name = f"{workload.name}-{ordinal}" if ordinal >= 0 else f"{workload.name}-(missing)"
    served = tuple(
        replace(one, claim=f"{one.claim}-{name}") if one.claim in workload.claim_templates else one
        for one in workload.served
    )
    return Pod(
        namespace=workload.namespace,
        name=name,
        uid="",
        labels=workload.labels,
        owner=Owner(str(workload.kind), workload.name, workload.uid),
        revision=None,
        deleting=False,
        finished=False,
        ready=False,
        ready_since=None,
        gate_held=False,
        reads=workload.reads,
        served=served,
        ordinal=ordinal,
        missing=True,
    )


def _served(spec: Object, templates: Collection[str] = ()) -> Iterator[Served]:
    for container, databases in podspec.sidecars(spec):
        for name, path in databases:
            yield Served(name, path, _claim_of(spec, container, path, templates))


def _served_by_template(pods: Object, templates: Collection[str]) -> Iterator[Served]:
    """By the template's sidecar, or by the one that the webhook will put into its pods.

    Where the annotation leaves the path to the StorageFormat, ``path`` is empty: it cannot be another one.
    """
    spec = pods.get("spec") or {}
    by_hand = list(_served(spec, templates))
    yield from by_hand
    names = {one.storageformat for one in by_hand}
    for one in _asked(pods.get("metadata") or {}):
        if one.name in names:
            continue
        claims = [
            claim
            for container in spec.get("containers") or ()
            if one.path is not None
            and (claim := _claim_of(spec, container, one.path, templates)) is not None
        ]
        yield Served(one.name, one.path or "", claims[0] if claims else None)


def _asked(metadata: Object) -> tuple[Asked, ...]:
    annotation = (metadata.get("annotations") or {}).get(INJECT)
    try:
        return parse_inject(annotation) if annotation is not None else ()
    except ValueError:
        return ()  # the webhook refuses such pods, with the reason


def _claim_of(spec: Object, container: Object, path: str, templates: Collection[str]) -> str | None:
    mounts = [one for one in container.get("volumeMounts") or () if under(path, one["mountPath"])]
    if not mounts:
        return None
    volume_name: str = max(mounts, key=lambda one: len(one["mountPath"]))["name"]
    if volume_name in templates:
        return volume_name
    for volume in spec.get("volumes") or ():
        if volume["name"] == volume_name:
            # An `ephemeral` volume has a claim, too, but it is deleted with the pod.
            claim = volume.get("persistentVolumeClaim")
            return claim["claimName"] if claim else None
    return None


def _gate_held(spec: Object, status: Object) -> bool:
    gates = podspec.gates(spec)
    if not gates:
        return False
    for one in status.get("initContainerStatuses") or ():
        if one["name"] in gates:
            ended = (one.get("state") or {}).get("terminated")
            return not (ended is not None and ended.get("exitCode") == 0)
    return True


def _condition(status: Object, kind: str) -> Object | None:
    return next((one for one in status.get("conditions") or () if one["type"] == kind), None)


def _permit(value: object) -> Permit | None:
    if not isinstance(value, Mapping):
        return None
    expires = _time(value.get("expires"))
    return Permit(str(value.get("targetHash")), expires) if expires is not None else None


def _phase(value: object) -> Phase | None:
    try:
        return Phase(str(value))
    except ValueError:
        return None  # a newer sidecar's word: nothing is concluded from it


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
