"""What the controller knows, as plain values. Nothing here does anything.

A ``Snapshot`` is everything that one decision about one StorageFormat depends on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from format_operator.api.models import Gate, Permit, Phase, StorageFormat


class Kind(StrEnum):
    """Kinds of workloads whose pods may be evicted, by the name of their API kind."""

    STATEFUL_SET = "StatefulSet"
    DEPLOYMENT = "Deployment"
    DAEMON_SET = "DaemonSet"


@dataclass(frozen=True, slots=True)
class Owner:
    """A pod's (or ReplicaSet's) controlling owner."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Served:
    """One ``--database NAME=PATH`` of a pod's sidecar, and the claim that its path is on.

    ``claim`` is None when the path is on no PersistentVolumeClaim that outlives the pod. ``path`` is empty where a
    template leaves it to the StorageFormat (``storageformat.dev/inject``); a pod always says it.
    """

    storageformat: str
    path: str
    claim: str | None


@dataclass(frozen=True, slots=True)
class Pod:
    """As much of a pod as decisions need."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    owner: Owner | None
    revision: str | None
    deleting: bool
    finished: bool
    """Succeeded or Failed: it will never run again."""
    ready: bool
    ready_since: datetime | None
    gate_held: bool
    """Its gate has not ended yet, so its app is not running."""
    reads: frozenset[str] | None
    served: tuple[Served, ...]
    ordinal: int = -1
    asks: frozenset[str] = frozenset()
    """The StorageFormats that its annotation for the webhook names."""
    missing: bool = False
    """Not there at all: its workload shall make it, and has not yet."""

    def serves(self, storageformat: str) -> Served | None:
        """What its sidecar was started with for that StorageFormat."""
        return next((one for one in self.served if one.storageformat == storageformat), None)


@dataclass(frozen=True, slots=True)
class Ended:
    """The last conversion or recovery of a pod: when (RFC 3339), how, its id, and more for people."""

    at: str
    result: str
    conversion_id: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """A FormatState: the permit that was given, and the sidecar's report."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    storageformat: str
    pod: str
    permit: Permit | None
    claim_uid: str | None
    pod_uid: str | None
    target_hash: str | None
    current_format: str | None
    phase: Phase | None
    reason: str
    message: str
    armed_for: str | None
    gate: Gate | None
    backup_present: bool
    updated_at: str
    conversion_at: str
    protocol: str | None
    databases: tuple[int, int, int, int] | None = None
    """For a glob: total, converted, pending, failed."""
    conversion: Ended | None = None
    recovery: Ended | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What makes the pods: StatefulSet, Deployment or DaemonSet."""

    namespace: str
    kind: Kind
    name: str
    uid: str
    desired: int
    """How many pods there shall be."""
    settled: bool
    """Its own rollout is over: every pod is what its template asks for."""
    strategy: str
    """RollingUpdate, OnDelete or Recreate."""
    partition: int
    """Of a StatefulSet's own rolling update: ordinals below it keep the current revision."""
    update_revision: str | None
    reads: frozenset[str] | None
    """What the template's app can read (``storageformat.dev/reads``)."""
    labels: Mapping[str, str]
    """Of the template: a selector that matches them will match the pods."""
    served: tuple[Served, ...] = ()
    """By the template's sidecar; claims as the template calls them."""
    claim_templates: frozenset[str] = frozenset()
    """Names of ``volumeClaimTemplates``: each pod has a claim of its own."""
    first: int = 0
    """A StatefulSet's first ordinal (``spec.ordinals.start``)."""
    deleting: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Snapshot:
    """All that is known about one StorageFormat. ``pods`` are those that its selector matches.

    ``claims`` are the UIDs of the namespace's claims by their name. ``evicted`` are the UIDs of pods that were
    evicted and that the watch may still show as if nothing had been; ``refused`` says why an eviction waits
    (PodDisruptionBudget), by pod UID, and until when.
    """

    now: datetime
    storageformat: StorageFormat
    pods: tuple[Pod, ...]
    """With those that are missing: between a pod's end and its successor it must not lose its turn."""
    states: Mapping[str, State]
    workloads: Mapping[str, Workload]
    claims: Mapping[str, str]
    owners: Mapping[str, str] = field(default_factory=dict)
    """UID of a ReplicaSet to the UID of its Deployment."""
    evicted: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[datetime, str]] = field(default_factory=dict)
    all_pods: frozenset[str] = frozenset()
    """Names of all pods of the namespace, selected or not."""

    def state_of(self, pod: Pod) -> State | None:
        """The FormatState of that pod's name, whichever pod of that name reported last."""
        return self.states.get(pod.name)

    def report_of(self, pod: Pod) -> State | None:
        """What this very pod reported."""
        state = self.states.get(pod.name)
        return state if state is not None and state.pod_uid == pod.uid else None

    def workload_of(self, pod: Pod) -> Workload | None:
        """The workload that made the pod; None: none that we know, or not ours to restart."""
        if pod.owner is None:
            return None
        return self.workloads.get(self.owners.get(pod.owner.uid, pod.owner.uid))


def under(path: str, mount: str) -> bool:
    """Whether ``path`` lies in the directory ``mount``."""
    return path == mount or path.startswith(mount.rstrip("/") + "/")


def same_path(served: str, asked: str) -> bool:
    """Whether a sidecar's argument is the StorageFormat's path (a glob is compared as it is written)."""
    return not served or os.path.normpath(served) == os.path.normpath(asked)
