"""A small cluster in memory: StatefulSet controller, kubelet, sidecars, API server and the watch of our controller.

The sidecars decide with the real ``sidecar.decide``, our controller sees the world through the real ``Cache``. Every
step is one call, so that a test may let them happen in any order, or not at all. Modelled after Kubernetes 1.30's
``stateful_set_control.go``: one pod at a time under ``OrderedReady``, a rolling update from the highest ordinal down
that waits for unhealthy pods.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from format_operator.api.models import Gate, Permit, Phase, StorageFormat
from format_operator.api.names import PROTOCOL_VERSION
from format_operator.controller.cache import Cache, Watched, _Claim
from format_operator.controller.decide import Decision, decide
from format_operator.controller.facts import Kind, Owner, Pod, Served, Snapshot, State, Workload
from format_operator.sidecar.decide import Action, remember
from format_operator.sidecar.decide import decide as sidecar_decides
from format_operator.sidecar.observed import (
    Answer,
    Asked,
    Disk,
    Failure,
    FailureKind,
    File,
    Observed,
)
from format_operator.sidecar.wish import Stored, Wish
from format_store import Format
from tests.support.objects import storageformat as storageformat_body

NAMESPACE: Final = "shop"
NAME: Final = "orders"
SET: Final = "orders"
PATH: Final = "/data/orders.db"
LABELS: Final = {"app": "orders"}
OWNER: Final = Owner("StatefulSet", SET, "set-uid")
EPOCH: Final = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
PERMIT_WAIT: Final = 30.0
API_WAIT: Final = 10.0
EVERYTHING: Final = frozenset({"v1", "v2", "v3"})

FORMATS: Final[list[dict[str, Any]]] = [
    {"name": "v1", "sqlitedict": {"keyEncoding": "natural", "valueCodec": "pickle"}},
    {"name": "v2", "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack"}},
    {"name": "v3", "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "json"}},
]


@functools.cache
def _parsed(text: str) -> tuple[StorageFormat, Wish]:
    body = json.loads(text)
    return StorageFormat.from_object(body), Wish.from_object(body)


@functools.cache
def disk_format(name: str) -> Format:
    """The format of that name, as the store has it."""
    return Format.from_spec(next(one for one in FORMATS if one["name"] == name))


@dataclass
class Volume:
    """What outlives the pod: the database, and what the sidecar noted beside it."""

    claim_uid: str
    format: str | None
    """None: empty, as a new replica's is."""
    previous: str | None = None
    stored: Stored | None = None
    pending: bool = False
    next_results: deque[FailureKind] = field(default_factory=deque)
    """How the next conversions end; empty: well."""


@dataclass
class ModelPod:
    """A pod as it really is."""

    ordinal: int
    uid: str
    revision: int
    reads: frozenset[str] | None
    at_gate: bool = False
    running: bool = False
    ready_since: datetime | None = None
    deleting: bool = False
    finished: bool = False
    healthy: bool = True
    gate_since: datetime | None = None
    converting: int = 0
    converting_to: str = ""
    """Steps until the conversion under way ends."""
    failure: Failure | None = None
    retry_at: datetime = EPOCH
    opened_because: tuple[str, str] | None = None
    basis: object = None
    api_away: bool = False

    @property
    def name(self) -> str:
        return f"{SET}-{self.ordinal}"

    @property
    def ready(self) -> bool:
        return self.ready_since is not None


@dataclass
class SetSpec:
    """The StatefulSet's spec and status."""

    replicas: int = 3
    parallel: bool = False
    strategy: str = "RollingUpdate"
    partition: int = 0
    templates: list[frozenset[str] | None] = field(default_factory=lambda: [EVERYTHING])
    current: int = 0

    @property
    def update(self) -> int:
        return len(self.templates) - 1


class Watch:
    """What our controller knows: each kind lags behind by itself, none ever goes backwards."""

    KINDS: Final = (
        "storageformats",
        "formatstates",
        "pods",
        "statefulsets",
        "persistentvolumeclaims",
    )

    def __init__(self) -> None:
        self.logs: dict[str, deque[tuple[str, Any]]] = {kind: deque() for kind in self.KINDS}
        self.cache = Cache(lambda _: None)

    def happened(self, kind: str, name: str, fact: Any) -> None:
        self.logs[kind].append((name, fact))

    def deliver(self, kind: str, count: int | None = None) -> None:
        """The next ``count`` events, or all."""
        log = self.logs[kind]
        for _ in range(len(log) if count is None else min(count, len(log))):
            self._see(kind, *log.popleft())

    def see_state(self, state: State) -> None:
        """The answer to our own write."""
        self._see("formatstates", state.name, state)

    def _see(self, kind: str, name: str, fact: Any) -> None:
        facts = self.cache._facts[kind].setdefault(NAMESPACE, {})
        if fact is None:
            facts.pop(name, None)
            return
        old = facts.get(name)
        if (
            isinstance(fact, State)
            and old is not None
            and int(fact.resource_version) < int(old.resource_version)
        ):
            return
        facts[name] = fact

    def forget_all(self, world: Mapping[str, Mapping[str, Any]]) -> None:
        """A new process: everything is listed anew, and nothing of one's own is remembered."""
        self.cache = Cache(lambda _: None)
        for kind, facts in world.items():
            self.logs[kind].clear()
            for name, fact in facts.items():
                self._see(kind, name, fact)


class World:
    """The cluster. Public methods are what may happen next."""

    def __init__(self, replicas: int = 3, *, parallel: bool = False, **rollout: Any) -> None:
        self.now = EPOCH
        self.generation = 1
        self.target = "v2"
        self.rollout: dict[str, Any] = rollout
        self._asked: Any = (None, None)
        self.on_failure = "Block"
        self.on_app_rollback = "Block"
        self.set = SetSpec(replicas=replicas, parallel=parallel)
        self.pods: dict[int, ModelPod] = {}
        self.volumes: dict[int, Volume] = {}
        self.states: dict[str, State] = {}
        self.pdb_refuses = False
        self.watch = Watch()
        self.out_by_us: dict[int, str] = {}
        """Ordinals that we restarted, with the UID of the pod then; until a later pod is ready."""
        self.decided: list[tuple[Snapshot, Decision]] = []
        self.evictions = 0
        self.opened: list[tuple[str, str | None, frozenset[str] | None]] = []
        self.decided_phase = ""
        self.story: list[str] = []
        self._serial = 0
        self._known: dict[str, dict[str, Any]] = {kind: {} for kind in Watch.KINDS}
        for ordinal in range(replicas):
            self.volumes[ordinal] = Volume(self._uid("claim"), "v1")
            pod = self._make(ordinal, 0)
            pod.running, pod.ready_since = True, self.now
        self.publish()
        self.deliver_all()

    # --- the API server ------------------------------------------------------------------------------------

    def _uid(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}-{self._serial}"

    def body(self) -> dict[str, Any]:
        return storageformat_body(
            NAME,
            metadata__uid="sf-uid",
            metadata__namespace=NAMESPACE,
            metadata__generation=self.generation,
            spec__formats=FORMATS,
            spec__target=self.target,
            spec__onFailure=self.on_failure,
            spec__onAppRollback=self.on_app_rollback,
            spec__rollout=self.rollout,
        )

    @property
    def parsed(self) -> tuple[StorageFormat, Wish]:
        """The StorageFormat as it is, the way the controller and the sidecars see it."""
        known = (self.generation, self.on_failure, self.on_app_rollback)
        if self._asked[0] != known:
            self._asked = (known, _parsed(json.dumps(self.body(), sort_keys=True)))
        parsed: tuple[StorageFormat, Wish] = self._asked[1]
        return parsed

    @property
    def storageformat(self) -> StorageFormat:
        return self.parsed[0]

    def publish(self) -> None:
        """Let the watch know of every object that differs from what was published before."""
        for kind, facts in self._world().items():
            known = self._known[kind]
            for name in known.keys() - facts.keys():
                del known[name]
                self.watch.happened(kind, name, None)
            for name, fact in facts.items():
                if known.get(name) != fact:
                    known[name] = fact
                    self.watch.happened(kind, name, fact)

    def _world(self) -> dict[str, dict[str, Any]]:
        return {
            "storageformats": {NAME: Watched({}, self.storageformat)},
            "formatstates": {state.name: state for state in self.states.values()},
            "pods": {pod.name: self._pod_fact(pod) for pod in self.pods.values()},
            "statefulsets": {SET: self._set_fact()},
            "persistentvolumeclaims": {
                f"data-{SET}-{ordinal}": _Claim(volume.claim_uid)
                for ordinal, volume in self.volumes.items()
            },
        }

    def _pod_fact(self, pod: ModelPod) -> Pod:
        return Pod(
            namespace=NAMESPACE,
            name=pod.name,
            uid=pod.uid,
            labels=LABELS,
            owner=OWNER,
            revision=f"rev-{pod.revision}",
            deleting=pod.deleting,
            finished=pod.finished,
            ready=pod.ready,
            ready_since=pod.ready_since,
            gate_held=not pod.running,
            reads=pod.reads,
            served=(Served(NAME, PATH, f"data-{pod.name}"),),
            ordinal=pod.ordinal,
        )

    def _set_fact(self) -> Workload:
        spec = self.set
        updated = sum(pod.revision == spec.update for pod in self.pods.values())
        same = spec.current == spec.update
        return Workload(
            namespace=NAMESPACE,
            kind=Kind.STATEFUL_SET,
            name=SET,
            uid=OWNER.uid,
            desired=spec.replicas,
            settled=same or updated >= max(0, spec.replicas - spec.partition),
            strategy=spec.strategy,
            partition=spec.partition,
            update_revision=f"rev-{spec.update}",
            reads=spec.templates[-1],
            labels=LABELS,
            served=(Served(NAME, PATH, "data"),),
            claim_templates=frozenset({"data"}),
        )

    def _write(self, state: State) -> State:
        """A new version of a FormatState."""
        self._serial += 1
        written = replace(state, resource_version=str(self._serial))
        self.states[written.pod] = written
        return written

    # --- the StatefulSet's controller ------------------------------------------------------------------------

    def _make(self, ordinal: int, revision: int) -> ModelPod:
        if ordinal not in self.volumes:
            self.volumes[ordinal] = Volume(self._uid("claim"), None)
        reads = self.set.templates[revision]
        pod = ModelPod(ordinal, self._uid("pod"), revision, reads)
        self.pods[ordinal] = pod
        return pod

    def sync_set(self) -> None:
        """One pass of the StatefulSet's controller."""
        self._sync_set()
        spec = self.set
        pods = [self.pods.get(ordinal) for ordinal in range(spec.replicas)]
        if spec.partition == 0 and all(
            one is not None and one.revision == spec.update and one.ready for one in pods
        ):
            spec.current = spec.update
        self.publish()

    def _sync_set(self) -> None:
        spec, ordered = self.set, not self.set.parallel
        for ordinal in range(spec.replicas):
            pod = self.pods.get(ordinal)
            if pod is not None and pod.finished:
                self._remove(pod)
                pod = None
            if pod is None:
                old = spec.strategy == "RollingUpdate" and ordinal < spec.partition
                self._make(ordinal, spec.current if old else spec.update)
                if ordered:
                    return
            elif ordered and (pod.deleting or not pod.ready):
                return
        for ordinal in sorted((one for one in self.pods if one >= spec.replicas), reverse=True):
            self.pods[ordinal].deleting = True
            if ordered:
                return
        if spec.strategy == "OnDelete":
            return
        for ordinal in range(spec.replicas - 1, spec.partition - 1, -1):
            pod = self.pods[ordinal]
            if pod.revision != spec.update and not pod.deleting:
                pod.deleting = True
                return
            if not pod.ready or pod.deleting:
                return

    def _remove(self, pod: ModelPod) -> None:
        if pod.converting:
            self.volumes[pod.ordinal].pending = True
        del self.pods[pod.ordinal]

    # --- the kubelet -----------------------------------------------------------------------------------------

    def kubelet(self, ordinal: int) -> None:
        """The pod's next step: gone, at its gate, or ready."""
        pod = self.pods.get(ordinal)
        if pod is None:
            return
        if pod.deleting:
            self._remove(pod)
        elif pod.finished:
            return
        elif not pod.at_gate and not pod.running:
            pod.at_gate, pod.gate_since = True, self.now
        elif pod.running:
            if pod.healthy and not pod.ready:
                pod.ready_since = self.now
            elif not pod.healthy:
                pod.ready_since = None
            if pod.ready and pod.uid != self.out_by_us.get(ordinal, pod.uid):
                del self.out_by_us[ordinal]
        self.publish()

    # --- the sidecar -----------------------------------------------------------------------------------------

    def sidecar(self, ordinal: int) -> None:
        """One pass of the pod's sidecar: look, decide, do, report."""
        pod = self.pods.get(ordinal)
        if pod is None or pod.finished or not (pod.at_gate or pod.running):
            return
        volume = self.volumes[ordinal]
        wish = self.parsed[1]
        if not pod.api_away and pod.basis != (self.generation,):
            pod.basis, pod.failure = (self.generation,), None
        if pod.converting:
            pod.converting -= 1
            if pod.converting:
                return
            self._conversion_ends(pod, volume)
        if volume.stored != (stored := remember(self._observed(pod, volume, wish))):
            volume.stored = stored
        action = sidecar_decides(self._observed(pod, volume, wish))
        if volume.pending and pod.at_gate:
            volume.pending = False  # recovered; the next pass goes on
        elif action.convert:
            pod.converting, pod.converting_to = 2, action.convert[0].to
        elif action.gate_open and pod.at_gate:
            pod.at_gate, pod.running = False, True
            pod.opened_because = (action.reason, action.message)
            self.opened.append((pod.name, volume.format, pod.reads))
        self._report(pod, volume, action, wish)
        self.publish()

    def _conversion_ends(self, pod: ModelPod, volume: Volume) -> None:
        if not volume.next_results:
            volume.previous, volume.format, pod.failure = volume.format, pod.converting_to, None
            return
        kind = volume.next_results.popleft()
        attempts = pod.failure.attempts + 1 if pod.failure is not None else 1
        pod.failure = Failure(kind, "Because", "of the test", attempts)
        pod.retry_at = self.now + timedelta(seconds=5 if kind is FailureKind.TRY_AGAIN else 60)

    def _observed(self, pod: ModelPod, volume: Volume, wish: Wish) -> Observed:
        state = self.states.get(pod.name)
        disk = Disk.EMPTY if volume.format is None else Disk.MARKED
        failure = pod.failure
        if failure is not None:
            failure = replace(failure, retry_in=(pod.retry_at - self.now).total_seconds())
        away: Answer[Any] = Answer(Asked.UNREACHABLE, detail="away")
        permit: Answer[Permit] = (
            Answer(Asked.FOUND, state.permit) if state is not None else Answer(Asked.ABSENT)
        )
        return Observed(
            now=self.now,
            argument=PATH,
            at_gate=pod.at_gate,
            gate_seconds=(self.now - pod.gate_since).total_seconds() if pod.gate_since else 0.0,
            permit_wait=PERMIT_WAIT,
            api_wait=API_WAIT,
            reads=pod.reads,
            storageformat=away if pod.api_away else Answer(Asked.FOUND, wish),
            permit=away if pod.api_away else permit,
            stored=volume.stored,
            files=(
                File(
                    PATH,
                    disk,
                    disk_format(volume.format) if volume.format else None,
                    pending=volume.pending,
                    failure=failure,
                    previous=disk_format(volume.previous) if volume.previous else None,
                ),
            ),
            opened_because=pod.opened_because,
        )

    def _report(self, pod: ModelPod, volume: Volume, action: Action, wish: Wish) -> None:
        if pod.api_away:
            return
        state = self.states.get(pod.name)
        if state is None:
            state = self._write(new_state(pod.name, self._uid("state")))
        said = replace(
            state,
            pod_uid=pod.uid,
            target_hash=wish.target_hash if action.wish is not None else None,
            current_format=volume.format,
            phase=action.phase,
            reason=action.reason,
            message=action.message,
            armed_for=action.armed_for,
            gate=Gate.OPEN if pod.running else Gate.CLOSED,
            protocol=PROTOCOL_VERSION,
        )
        if said != state:
            self._write(replace(said, updated_at=f"{self.now:%Y-%m-%dT%H:%M:%SZ}"))

    # --- our controller ----------------------------------------------------------------------------------------

    def deliver_all(self) -> None:
        for kind in Watch.KINDS:
            self.watch.deliver(kind)

    def snapshot(self) -> Snapshot:
        watched = self.watch.cache.storageformat((NAMESPACE, NAME))
        assert watched is not None
        assert watched.parsed is not None
        return self.watch.cache.snapshot(watched.parsed, self.now)

    def decide(self) -> tuple[Snapshot, Decision]:
        """What our controller decides on what it sees; noted in ``decided``."""
        snapshot = self.snapshot()
        decision = decide(snapshot)
        self.decided.append((snapshot, decision))
        self.decided_phase = str(decision.phase)
        self.story.append(self._tell(decision))
        return snapshot, decision

    def _tell(self, decision: Decision) -> str:
        pods = " ".join(
            f"{pod.name[-1]}:r{pod.revision}"
            f"{'-' if pod.deleting else ''}{'F' if pod.finished else ''}"
            f"{'G' if pod.at_gate else ''}{'R' if pod.running else ''}{'+' if pod.ready else ''}"
            f"/{self.volumes[pod.ordinal].format}"
            for pod in self.pods.values()
        )
        said = " ".join(
            f"{state.pod[-1]}:{state.phase}/{state.reason}{'/P' if state.permit else ''}"
            for state in self.states.values()
        )
        permits = [f"{one.state.pod}={one.permit is not None}" for one in decision.changes]
        evicted = [one.pod.name for one in decision.evictions]
        return f"{decision.phase} ({decision.message}) {permits} {evicted} | {pods} | {said}"

    def control(self, killed_after: int | None = None) -> None:
        """One pass of our controller; killed after so many effects, or not at all."""
        _, decision = self.decide()
        effects: list[Callable[[], None]] = [
            *(
                functools.partial(self._change, one.state, one.permit, one.claim_uid)
                for one in decision.changes
            ),
            *(functools.partial(self._delete, one) for one in decision.deletions),
            *(functools.partial(self._evict, one.pod, one.reason) for one in decision.evictions),
        ]
        for effect in effects[:killed_after]:
            effect()
        self.publish()
        if killed_after is not None:
            self.restart_controller()

    def restart_controller(self) -> None:
        self.watch.forget_all(self._world())

    def _change(self, state: State, permit: Permit | None, claim_uid: str | None) -> None:
        there = self.states.get(state.pod)
        if there is None or there.resource_version != state.resource_version:
            return  # a conflict: decided anew on the next event
        written = self._write(replace(there, permit=permit, claim_uid=claim_uid))
        self.watch.see_state(written)

    def _delete(self, state: State) -> None:
        there = self.states.get(state.pod)
        if any(pod.name == state.pod for pod in self.pods.values()):
            return
        if there is not None and there.resource_version == state.resource_version:
            del self.states[state.pod]

    def _evict(self, pod: Pod, reason: str) -> None:
        there = self.pods.get(pod.ordinal)
        if there is None or there.uid != pod.uid:
            return
        if self.pdb_refuses and there.running:
            self.watch.cache.refused(pod, self.now + timedelta(seconds=10), "PodDisruptionBudget")
            return
        there.deleting = True
        self.evictions += 1
        self.watch.cache.evicted(pod, self.now)
        if reason == "Evicted":
            self.out_by_us[pod.ordinal] = pod.uid
            for ordinal in [one for one in self.out_by_us if one >= self.set.replicas]:
                del self.out_by_us[ordinal]

    # --- time, and what people do ---------------------------------------------------------------------------------

    def ask(self, **spec: Any) -> None:
        """Change the StorageFormat: target, on_failure, on_app_rollback, or rollout fields."""
        for key, value in spec.items():
            if key in {"target", "on_failure", "on_app_rollback"}:
                setattr(self, key, value)
            elif value is None:
                self.rollout.pop(key, None)
            else:
                self.rollout[key] = value
        self.generation += 1
        self.publish()

    def release(self, reads: frozenset[str] | None) -> None:
        """A new pod template."""
        self.set.templates.append(reads)
        self.publish()

    def delete_pod(self, ordinal: int) -> None:
        if ordinal in self.pods:
            self.pods[ordinal].deleting = True
            self.publish()

    def turn(self, seconds: float = 15.0, *, set_works: bool = True) -> None:
        """Everybody does one step, without faults (the StatefulSet's controller may be away)."""
        self.now += timedelta(seconds=seconds)
        if set_works:
            self.sync_set()
        for ordinal in list(self.pods):
            self.kubelet(ordinal)
            self.sidecar(ordinal)
        self.deliver_all()
        self.control()

    def calm(self) -> None:
        """Faults stop, and the spec allows what there is to do."""
        self.set.strategy, self.set.partition = "RollingUpdate", 0
        self.pdb_refuses = False
        for volume in self.volumes.values():
            volume.next_results.clear()
        for pod in self.pods.values():
            pod.api_away, pod.healthy = False, True
        reads = self.set.templates[-1]
        if reads is not None and self.target not in reads:
            self.release(EVERYTHING)
        held_back = self.rollout.get("suspended") or self.rollout.get("partition")
        if held_back or self.on_failure == "StartApp":
            # An app that was started after a failure is restarted by nobody until something is changed.
            self.ask(suspended=False, partition=0)

    def is_converted(self) -> bool:
        """Whether every pod runs, ready, on the target."""
        pods = [self.pods.get(ordinal) for ordinal in range(self.set.replicas)]
        return len(self.pods) == self.set.replicas and all(
            pod is not None
            and pod.ready
            and not pod.deleting
            and self.volumes[pod.ordinal].format in {self.target, None}
            for pod in pods
        )


def new_state(pod: str, uid: str) -> State:
    """A FormatState as a sidecar makes it, before its first report."""
    return State(
        namespace=NAMESPACE,
        name=f"{NAME}.{pod}",
        uid=uid,
        resource_version="0",
        storageformat=NAME,
        pod=pod,
        permit=None,
        claim_uid=None,
        pod_uid=None,
        target_hash=None,
        current_format=None,
        phase=None,
        reason="",
        message="",
        armed_for=None,
        gate=None,
        backup_present=False,
        updated_at="",
        conversion_at="",
        protocol=None,
    )


__all__ = ["NAME", "NAMESPACE", "PATH", "Phase", "World", "new_state"]
