"""Where each pod stands with respect to one target, concluded from its own report. Pure.

Standing        the pod's database …
CONVERTED       is in the target, or there is none yet
FAILED          could not be converted: counts against the failure budget
SKEWED          must not be converted: its app cannot read the target
PENDING         still has to be converted
CONVERTING      is being converted, or recovered, right now
UNREPORTED      nothing is known: the pod is new, or its sidecar has not seen the target yet
UNSERVED        is not ours: no sidecar for it, another path, or a conflict
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from format_operator.api.models import Gate, Phase, Strategy
from format_operator.api.names import PROTOCOL_VERSION
from format_operator.controller.facts import (
    Kind,
    Pod,
    Served,
    Snapshot,
    State,
    Workload,
    same_path,
)

#: Refusals that say something about the app's release, not about the conversion.
_SKEW: Final = "SkewBlocked"
_UNREADABLE: Final = "AndUnreadable"


class Standing(StrEnum):
    """See the module's table."""

    CONVERTED = "Converted"
    FAILED = "Failed"
    SKEWED = "Skewed"
    PENDING = "Pending"
    CONVERTING = "Converting"
    UNREPORTED = "Unreported"
    UNSERVED = "Unserved"


@dataclass(frozen=True)
class Placed:
    """A pod and where it stands. ``why`` is for people; empty where the standing says it all."""

    pod: Pod
    standing: Standing
    report: State | None
    state: State | None
    served: Served | None
    workload: Workload | None
    out: bool
    """Not ready, on its way out, or evicted: it counts against ``maxUnavailable``."""
    reason: str = ""
    why: str = ""

    @property
    def needs_conversion(self) -> bool:
        """Whether the rollout still has something to do with it."""
        return self.standing in {
            Standing.PENDING,
            Standing.CONVERTING,
            Standing.UNREPORTED,
            Standing.SKEWED,
        }

    def was_converted(self, target_hash: str) -> bool:
        """Whether an earlier pod reported this volume as being in the target: no permit is needed then."""
        state = self.state
        return (
            self.standing is Standing.UNREPORTED
            and state is not None
            and state.phase is Phase.CONVERTED
            and state.target_hash == target_hash
        )

    @property
    def stuck(self) -> bool:
        """Held at its gate for want of a permit: its app cannot read what is on the volume."""
        report = self.report
        if self.standing is not Standing.PENDING or report is None:
            return False
        if not self.pod.gate_held or report.phase is not Phase.WAITING:
            return False
        if report.reason.endswith(_UNREADABLE):
            return True
        reads = self.pod.reads
        return reads is not None and report.current_format not in {*reads, None}


def place(snapshot: Snapshot, pod: Pod) -> Placed:
    """Where that pod stands."""
    served = pod.serves(snapshot.storageformat.name)
    standing, reason, why = _standing(snapshot, pod, served)
    return Placed(
        pod=pod,
        standing=standing,
        report=snapshot.report_of(pod),
        state=snapshot.state_of(pod),
        served=served,
        workload=snapshot.workload_of(pod),
        out=not pod.ready or pod.deleting or pod.uid in snapshot.evicted,
        reason=reason,
        why=why,
    )


def _standing(snapshot: Snapshot, pod: Pod, served: Served | None) -> tuple[Standing, str, str]:
    spec = snapshot.storageformat.spec
    if served is None and not pod.missing:
        return Standing.UNSERVED, "SidecarMissing", "has no sidecar for this StorageFormat"
    if served is not None and not same_path(served.path, spec.database.path):
        why = f"its sidecar serves {served.path}, the StorageFormat is about {spec.database.path}"
        return Standing.UNSERVED, "PathNotServed", why
    report = snapshot.report_of(pod)
    if pod.missing:
        return Standing.UNREPORTED, "Missing", "is not there yet"
    if report is None:
        return Standing.UNREPORTED, "NoReport", "its sidecar has not reported yet"
    if _newer(report.protocol):
        why = f"its sidecar speaks protocol {report.protocol}, this controller {PROTOCOL_VERSION}: upgrade the controller"
        return Standing.UNSERVED, "UnknownProtocol", why
    if report.phase in {Phase.CONFLICT, Phase.PATH_NOT_SERVED}:
        return Standing.UNSERVED, report.reason or str(report.phase), report.message
    if report.target_hash != spec.target_hash():
        if report.reason == "InvalidStorageFormat":
            return Standing.FAILED, report.reason, report.message
        return Standing.UNREPORTED, "OldReport", "its sidecar has not seen this target yet"
    return _reported(pod, report, snapshot.storageformat.spec.target)


def _reported(pod: Pod, report: State, target: str) -> tuple[Standing, str, str]:
    if report.phase is Phase.CONVERTED or report.reason == "NoDatabase":
        return Standing.CONVERTED, "", ""
    if report.reason == _SKEW or (pod.reads is not None and target not in pod.reads):
        reads = ", ".join(sorted(pod.reads or ()))
        return Standing.SKEWED, _SKEW, f"its app reads {reads or 'other formats'}, not {target}"
    if report.phase in {Phase.CONVERTING, Phase.RECOVERING}:
        return Standing.CONVERTING, "", ""
    if report.phase in {Phase.FAILED, Phase.REFUSED}:
        return Standing.FAILED, report.reason or str(report.phase), report.message
    return Standing.PENDING, report.reason, report.message


def _newer(protocol: str | None) -> bool:
    # The first sidecars did not say: they speak version 1.
    try:
        return int(protocol or "1") > int(PROTOCOL_VERSION)
    except ValueError:
        return True


def held_by_old_revision(placed: Placed) -> bool:
    """A pod that its StatefulSet would have to replace and does not: it waits for the pod to become ready.

    Under ``OrderedReady`` a pod that never becomes ready is not replaced, not even by a template that would heal it
    (kubernetes/kubernetes#67250).
    """
    pod, workload, report = placed.pod, placed.workload, placed.report
    if workload is None or workload.kind is not Kind.STATEFUL_SET or report is None:
        return False
    # A StatefulSet counts its partition from its first ordinal.
    if workload.strategy != "RollingUpdate" or pod.ordinal < workload.first + workload.partition:
        return False
    if pod.revision is None or workload.update_revision in {None, pod.revision}:
        return False
    return pod.gate_held and report.gate is Gate.CLOSED and _is_stuck_for_good(report)


def _is_stuck_for_good(report: State) -> bool:
    """Not one that converts, nor one that may still get what it waits for."""
    if report.phase in {Phase.FAILED, Phase.REFUSED}:
        return True
    return report.phase is Phase.WAITING and report.reason.endswith(_UNREADABLE)


def unsupported(workload: Workload | None) -> tuple[str, str] | None:
    """Why pods of this workload can be neither permitted nor restarted: reason and message."""
    if workload is None or workload.kind is not Kind.DEPLOYMENT:
        return None
    if workload.strategy != "Recreate":
        message = (
            f"{workload} uses {workload.strategy}: the new pod would wait for the volume that the old one "
            "holds until the new one is ready; set spec.strategy.type: Recreate"
        )
        return "UnsupportedStrategy", message
    if workload.desired > 1:
        return (
            "UnsupportedReplicas",
            f"{workload} has {workload.desired} replicas on one volume: use a StatefulSet, or one replica",
        )
    return None


def restarts_by_itself(snapshot: Snapshot, workload: Workload | None) -> bool:
    """Whether somebody else restarts these pods, so that every one of them may convert when it does."""
    if snapshot.storageformat.spec.rollout.strategy is Strategy.ON_RESTART:
        return True
    # An eviction would also roll out whatever template is pending, which OnDelete leaves to people.
    return workload is not None and workload.strategy == "OnDelete"


def not_ours_to_evict(placed: Placed) -> str | None:
    """Why an eviction of this pod could lose something or help nobody; None: it may be evicted."""
    if placed.served is None:
        return "it does not carry the sidecar"
    if placed.served.claim is None:
        return "its database is on no PersistentVolumeClaim and would be deleted with the pod"
    if placed.workload is None:
        return "nothing that is known would make it again"
    if placed.workload.deleting:
        return f"{placed.workload} is being deleted"
    return None
