"""What is known of a StorageFormat, its pods and its volumes, put together from the API's objects. Pure.

Bodies are read leniently: a sidecar or controller of another release may say more, or less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from format_operator.api import podspec
from format_operator.api.injection import INJECT
from format_operator.api.models import LabelSelector
from format_operator.api.names import READS_ANNOTATION, parse_reads
from format_operator.api.schema import InvalidObject, parse
from format_operator.api.selection import matches
from format_operator.kubectl.terminal import safe

Object = Mapping[str, Any]

NO_SIDECAR: Final = "NoSidecar"
NO_REPORT: Final = "NoReport"
_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Progress:
    """How far a conversion is."""

    percent: int
    done: int
    total: int
    phase: str


@dataclass(frozen=True)
class Backup:
    """What a volume keeps besides its database. ``count``: None where the sidecar does not say."""

    size: int
    count: int | None
    created_at: str | None
    retain_until: str | None
    pinned: bool


@dataclass(frozen=True)
class Place:
    """A pod and what its sidecar reports; or, without a pod, a volume that one of that name has left."""

    pod: str
    namespace: str
    phase: str
    reason: str = ""
    message: str = ""
    format: str | None = None
    progress: Progress | None = None
    backup: Backup | None = None
    gate: str | None = None
    ready: bool = False
    is_there: bool = True
    databases: Mapping[str, int] | None = None
    failures: tuple[tuple[str, str, str], ...] = ()
    """Of a glob's databases: path, reason and message."""
    reads: tuple[str, ...] = ()
    came_from: str | None = None
    """The format that this volume's last conversion, to what it is in now, began with."""
    container: str | None = None
    """The sidecar's name."""
    arguments: tuple[str, ...] = ()
    path: str = ""
    recovered: str = ""

    @property
    def is_converted(self) -> bool:
        return self.phase == "Converted" or self.reason == "NoDatabase"


@dataclass(frozen=True)
class Overview:
    """One StorageFormat."""

    namespace: str
    name: str
    path: str
    target: str
    formats: tuple[str, ...]
    strategy: str
    suspended: bool
    phase: str
    message: str
    generation: int
    observed: int
    conditions: tuple[tuple[str, str, str, str], ...]
    """Type, status, reason and message."""
    counts: Mapping[str, int]
    persisted: tuple[tuple[str, int], ...]
    places: tuple[Place, ...]
    body: Object = field(repr=False, compare=False, default_factory=dict)

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message; empty where it was never said."""
        for found, *rest in self.conditions:
            if found == kind:
                return rest[0], rest[1], rest[2]
        return "", "", ""

    @property
    def pods(self) -> tuple[Place, ...]:
        return tuple(place for place in self.places if place.is_there)

    @property
    def served(self) -> tuple[Place, ...]:
        """Pods that carry the sidecar."""
        return tuple(place for place in self.pods if place.container is not None)


def overview(body: Object, states: Iterable[Object], pods: Iterable[Object]) -> Overview:
    """``states`` and ``pods``: of its namespace; those that are others' are passed over."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    rollout, said = spec.get("rollout") or {}, status.get("rollout") or {}
    return Overview(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        path=safe((spec.get("database") or {}).get("path", "")),
        target=safe(spec.get("target", "")),
        formats=tuple(safe(one.get("name", "")) for one in spec.get("formats") or ()),
        strategy=rollout.get("strategy") or "RollingRestart",
        suspended=bool(rollout.get("suspended")),
        phase=safe(said.get("phase") or ""),
        message=safe(said.get("message") or ""),
        generation=int(metadata.get("generation") or 0),
        observed=int(status.get("observedGeneration") or 0),
        conditions=tuple(
            (one["type"], one["status"], safe(one.get("reason", "")), safe(one.get("message", "")))
            for one in status.get("conditions") or ()
        ),
        counts={
            key: int(status[key])
            for key in ("pods", "converted", "pending", "failed", "blocked", "backups")
            if key in status
        },
        persisted=tuple(
            (safe(one["name"]), int(one["count"])) for one in status.get("persistedFormats") or ()
        ),
        places=tuple(_places(body, states, pods)),
        body=body,
    )


def _places(body: Object, states: Iterable[Object], pods: Iterable[Object]) -> list[Place]:
    namespace, name = body["metadata"].get("namespace", ""), body["metadata"]["name"]
    own = {
        one["metadata"]["name"].partition(".")[2]: one
        for one in states
        if one["metadata"].get("namespace", "") == namespace
        and one["metadata"]["name"].partition(".")[0] == name
    }
    selector = _selector(body)
    found = []
    there = set()
    for pod in pods:
        metadata = pod["metadata"]
        ended = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
        if ended or metadata.get("namespace", "") != namespace:
            continue
        there.add(metadata["name"])
        if selector is not None and matches(selector, metadata.get("labels") or {}):
            found.append(_place(name, pod, own.get(metadata["name"])))
    found += [_left_behind(pod, state) for pod, state in own.items() if pod not in there]
    return sorted(found, key=lambda place: (not place.is_there, _natural(place.pod)))


def _selector(body: Object) -> LabelSelector | None:
    try:
        selector: LabelSelector = parse(
            LabelSelector, (body.get("spec") or {}).get("selector"), "spec.selector"
        )
    except InvalidObject:
        return None
    return selector


def _place(name: str, pod: Object, state: Object | None) -> Place:
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    facts: dict[str, Any] = {
        "pod": metadata["name"],
        "namespace": metadata.get("namespace", ""),
        "ready": any(
            one.get("type") == "Ready" and one.get("status") == "True"
            for one in status.get("conditions") or ()
        ),
        "reads": tuple(
            sorted(parse_reads((metadata.get("annotations") or {}).get(READS_ANNOTATION)) or ())
        ),
    }
    sidecar = sidecar_of(spec, name)
    trouble = _trouble(metadata, status)
    if sidecar is None:
        message = _without_sidecar(metadata, name)
        return Place(phase=NO_SIDECAR, message=message, **facts)
    container, path = sidecar
    facts |= {
        "container": container["name"],
        "arguments": tuple(podspec.command_line(container)),
        "path": path,
    }
    said = (state or {}).get("status") or {}
    if said.get("podUID") not in {None, metadata.get("uid")} or not said.get("phase"):
        known: dict[str, Any] = {"format": _text(said, "currentFormat"), "backup": _backup(said)}
        message = trouble or "its sidecar has not reported yet"
        return Place(phase=NO_REPORT, message=message, **facts, **known)
    reported = _reported(said)
    if trouble and not reported["message"]:
        reported["message"] = trouble
    return Place(**facts, **reported)


def _without_sidecar(metadata: Object, name: str) -> str:
    annotation = (metadata.get("annotations") or {}).get(INJECT, "")
    asked = {entry.partition("=")[0].strip() for entry in annotation.split(",")}
    if name in asked:
        return (
            f"its annotation asks for the sidecar, but it was made while the webhook was not there: "
            f"kubectl delete pod {metadata['name']} (docs/injection.md)"
        )
    return (
        f"no sidecar for this StorageFormat: annotate the pod's template with {INJECT}: {name} "
        "(docs/install.md)"
    )


def _left_behind(pod: str, state: Object) -> Place:
    said = _reported(state.get("status") or {})
    said |= {"gate": None, "progress": None, "message": "", "reason": "NoPod"}
    return Place(pod=pod, namespace=state["metadata"].get("namespace", ""), is_there=False, **said)


def sidecar_of(spec: Object, name: str) -> tuple[Object, str] | None:
    """The container of a pod that serves that StorageFormat, and the path that it was started for."""
    for container, databases in podspec.sidecars(spec):
        for served, path in databases:
            if served == name:
                return container, path
    return None


def _reported(said: Object) -> dict[str, Any]:
    progress, databases = said.get("progress"), said.get("databases")
    recovery = said.get("lastRecovery") or {}
    return {
        "phase": safe(said.get("phase") or NO_REPORT),
        "reason": safe(said.get("reason") or ""),
        "message": safe(said.get("message") or ""),
        "format": _text(said, "currentFormat"),
        "progress": (
            Progress(
                int(progress.get("percent", 0)),
                int(progress.get("done", 0)),
                int(progress.get("total", 0)),
                safe(progress.get("phase", "")),
            )
            if isinstance(progress, Mapping)
            else None
        ),
        "backup": _backup(said),
        "gate": said.get("gate"),
        "databases": (
            {key: int(databases.get(key, 0)) for key in ("total", "converted", "pending", "failed")}
            if isinstance(databases, Mapping)
            else None
        ),
        "failures": tuple(
            (safe(one["database"]), safe(one["reason"]), safe(one.get("message", "")))
            for one in (databases or {}).get("firstFailures") or ()
        ),
        "came_from": _came_from(said),
        "recovered": (
            f"{recovery.get('outcome', '')} at {recovery.get('at', '')}" if recovery else ""
        ),
    }


def _text(said: Object, key: str) -> str | None:
    return safe(said[key]) if said.get(key) else None


def _came_from(said: Object) -> str | None:
    last = said.get("lastConversion") or {}
    if last.get("result") != "succeeded" or last.get("to") != said.get("currentFormat"):
        return None
    return _text(last, "from")


def _backup(said: Object) -> Backup | None:
    found = said.get("backup") or {}
    if not found.get("present"):
        return None
    return Backup(
        size=int(found.get("size") or 0),
        count=found.get("count"),
        created_at=found.get("createdAt"),
        retain_until=found.get("retainUntil"),
        pinned=bool(found.get("pinned")),
    )


def _trouble(metadata: Object, status: Object) -> str:
    """What Kubernetes itself says keeps the pod from starting."""
    if metadata.get("deletionTimestamp"):
        return "the pod is on its way out"
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return safe(f"not scheduled: {one.get('message', one.get('reason', ''))}")
    every: Sequence[Object] = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for one in every:
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in {None, "PodInitializing", "ContainerCreating"}:
            text = f"container {one.get('name')}: {waiting['reason']} {waiting.get('message', '')}"
            return safe(text)
    return ""


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """orders-2 before orders-10."""
    parts = [part for part in _DIGITS.split(name) if part]
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def document(found: Overview) -> dict[str, Any]:
    """For programs: the same, as one object."""
    return {
        "namespace": found.namespace,
        "name": found.name,
        "path": found.path,
        "target": found.target,
        "strategy": found.strategy,
        "suspended": found.suspended,
        "phase": found.phase,
        "message": found.message,
        "conditions": [
            dict(zip(("type", "status", "reason", "message"), one, strict=True))
            for one in found.conditions
        ],
        "counts": dict(found.counts),
        "persistedFormats": [{"name": name, "count": count} for name, count in found.persisted],
        "pods": [_place_document(place) for place in found.places],
    }


def _place_document(place: Place) -> dict[str, Any]:
    progress, backup = place.progress, place.backup
    return {
        "name": place.pod,
        "exists": place.is_there,
        "ready": place.ready,
        "sidecar": place.container,
        "format": place.format,
        "phase": place.phase,
        "reason": place.reason,
        "message": place.message,
        "gate": place.gate,
        "progress": (
            {
                "percent": progress.percent,
                "done": progress.done,
                "total": progress.total,
                "phase": progress.phase,
            }
            if progress
            else None
        ),
        "databases": dict(place.databases) if place.databases else None,
        "failures": [
            dict(zip(("database", "reason", "message"), one, strict=True)) for one in place.failures
        ],
        "backup": (
            {
                "count": backup.count,
                "size": backup.size,
                "createdAt": backup.created_at,
                "retainUntil": backup.retain_until,
                "pinned": backup.pinned,
            }
            if backup
            else None
        ),
    }
