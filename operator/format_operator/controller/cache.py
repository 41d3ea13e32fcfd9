"""The newest facts of every object that matters, and the snapshot that a decision gets.

Filled by the watch, and from time to time by whole lists: a watch that was cut does not tell what was deleted
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from format_operator.api.models import LabelSelector, StorageFormat
from format_operator.api.schema import InvalidObject
from format_operator.api.selection import matches
from format_operator.controller import objects
from format_operator.controller.facts import Kind, Owner, Pod, Snapshot, State, Workload

Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True)
class Watched:
    """One StorageFormat as the API has it, or why it cannot be understood."""

    body: Mapping[str, Any]
    parsed: StorageFormat | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Claim:
    uid: str


@dataclass(frozen=True, slots=True)
class _ReplicaSet:
    uid: str
    owner: Owner | None


def _watched(body: Mapping[str, Any]) -> Watched:
    try:
        return Watched(body, StorageFormat.from_object(body))
    except InvalidObject as error:
        return Watched(body, None, str(error))


_PARSERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "storageformats": _watched,
    "formatstates": objects.state,
    "pods": objects.pod,
    "statefulsets": objects.stateful_set,
    "deployments": objects.deployment,
    "daemonsets": objects.daemon_set,
    "replicasets": lambda body: _ReplicaSet(
        body["metadata"]["uid"], objects.controlling_owner(body["metadata"])
    ),
    "persistentvolumeclaims": lambda body: _Claim(body["metadata"]["uid"]),
}
KINDS: Final = tuple(_PARSERS)
_WORKLOADS: Final = ("statefulsets", "deployments", "daemonsets")


class Cache:
    """Facts by kind, namespace and name. ``changed`` is called with the StorageFormats that a change concerns."""

    def __init__(self, changed: Callable[[Iterable[Key]], None]) -> None:
        self._changed = changed
        self._facts: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self._versions: dict[tuple[str, str, str], int] = {}
        self._evicted: dict[str, datetime] = {}
        self._refused: dict[str, tuple[datetime, str]] = {}
        self.unreadable: dict[tuple[str, str, str], str] = {}
        """What could not be parsed, by kind, namespace and name."""

    # --- filling ------------------------------------------------------------------------------------------

    def put(self, kind: str, body: Mapping[str, Any]) -> None:
        """A newer version of an object, or the same."""
        metadata = body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        version = as_version(metadata.get("resourceVersion"))
        # A watch that lags must not bring back what the answer to our own write has replaced already.
        if version < self._versions.get((kind, namespace, name), 0):
            return
        try:
            fact = _PARSERS[kind](body)
        except (KeyError, TypeError, ValueError) as error:
            # One odd object must not blind the controller for all others.
            self.unreadable[kind, namespace, name] = f"{type(error).__name__}: {error}"
            return
        self.unreadable.pop((kind, namespace, name), None)
        self._versions[kind, namespace, name] = version
        old = self._facts[kind].setdefault(namespace, {}).get(name)
        self._facts[kind][namespace][name] = fact
        if _news(old) != _news(fact):
            self._changed(self._concerned(kind, namespace, name, fact))

    def answered(self, kind: str, body: Mapping[str, Any]) -> None:
        """What the server answered to a write of ours: it is newer than what the watch has brought.

        If the watch has said meanwhile that the object is gone, that was later still.
        """
        metadata = body["metadata"]
        if metadata["name"] in self._facts[kind].get(metadata["namespace"], {}):
            self.put(kind, body)

    def gone(self, kind: str, fact: Pod | State) -> None:
        """That very object is no more; a successor of the same name may be known already."""
        known = self._facts[kind].get(fact.namespace, {}).get(fact.name)
        if known is not None and known.uid == fact.uid:
            self.remove(kind, fact.namespace, fact.name)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """An object is gone."""
        fact = self._facts[kind].get(namespace, {}).pop(name, None)
        self._versions.pop((kind, namespace, name), None)
        if fact is not None:
            self._changed(self._concerned(kind, namespace, name, fact))

    def keep_only(
        self, kind: str, seen: Collection[Key], version: int, namespace: str | None
    ) -> None:
        """A whole list, taken at that resource version, has shown what there is: the rest is gone.

        What is newer than the list stays: it was made after it.
        """
        for ns, names in list(self._facts[kind].items()):
            if namespace is not None and ns != namespace:
                continue
            for name in list(names):
                known = self._versions.get((kind, ns, name), 0)
                if (ns, name) not in seen and known <= version:
                    self.remove(kind, ns, name)

    def sizes(self) -> dict[str, int]:
        """How many objects of each kind are known."""
        return {
            kind: sum(len(names) for names in namespaces.values())
            for kind, namespaces in self._facts.items()
        }

    def version(self, kind: str, namespace: str, name: str) -> int:
        """The resource version that is known of an object (0: it is not known)."""
        return self._versions.get((kind, namespace, name), 0)

    def evicted(self, pod: Pod, now: datetime) -> None:
        """That pod was evicted just now; the watch may not know yet."""
        self._evicted[pod.uid] = now
        self._refused.pop(pod.uid, None)
        self._changed(self._concerned("pods", pod.namespace, pod.name, pod))

    def refused(self, pod: Pod, until: datetime, why: str) -> None:
        """The eviction of that pod may be tried again from then on."""
        self._refused[pod.uid] = (until, why)
        self._changed(self._concerned("pods", pod.namespace, pod.name, pod))

    def _concerned(self, kind: str, namespace: str, name: str, fact: Any) -> Iterator[Key]:
        if kind == "storageformats":
            yield namespace, name
        elif kind == "formatstates":
            yield namespace, fact.storageformat
        else:
            for storageformat in self._facts["storageformats"].get(namespace, {}):
                yield namespace, storageformat

    # --- reading ------------------------------------------------------------------------------------------

    def storageformat(self, key: Key) -> Watched | None:
        """The StorageFormat of that namespace and name."""
        found: Watched | None = self._facts["storageformats"].get(key[0], {}).get(key[1])
        return found

    def storageformats(self) -> Iterator[Key]:
        """Every StorageFormat that is known."""
        for namespace, names in self._facts["storageformats"].items():
            for name in names:
                yield namespace, name

    def snapshot(self, storageformat: StorageFormat, now: datetime) -> Snapshot:
        """Everything that a decision about that StorageFormat depends on."""
        namespace = storageformat.namespace
        selector = storageformat.spec.selector
        everything: dict[str, Pod] = self._facts["pods"].get(namespace, {})
        selected = [pod for pod in everything.values() if matches(selector, pod.labels)]
        states: dict[str, State] = {
            state.pod: state
            for state in self._facts["formatstates"].get(namespace, {}).values()
            if state.storageformat == storageformat.name
        }
        workloads: dict[str, Workload] = {
            one.uid: one
            for kind in _WORKLOADS
            for one in self._facts[kind].get(namespace, {}).values()
        }
        replicasets: dict[str, _ReplicaSet] = self._facts["replicasets"].get(namespace, {})
        owners = {one.uid: one.owner.uid for one in replicasets.values() if one.owner is not None}
        claims: dict[str, _Claim] = self._facts["persistentvolumeclaims"].get(namespace, {})
        self._forget_old(now)
        return Snapshot(
            now=now,
            storageformat=storageformat,
            pods=(*selected, *_missing(selector, workloads.values(), selected, everything, owners)),
            states=states,
            workloads=workloads,
            claims={name: claim.uid for name, claim in claims.items()},
            owners=owners,
            evicted=frozenset(self._evicted),
            refused=dict(self._refused),
            all_pods=frozenset(everything),
        )

    def _forget_old(self, now: datetime) -> None:
        # A minute is far longer than a watch lags; a UID never comes back.
        old = now - timedelta(seconds=60)
        self._evicted = {uid: at for uid, at in self._evicted.items() if at > old}
        self._refused = {uid: one for uid, one in self._refused.items() if one[0] > old}


def _news(fact: Any) -> Any:
    """The part of a fact from which something could follow: progress and our own reports are none."""
    if isinstance(fact, State):
        return replace(fact, resource_version="", updated_at="")
    if isinstance(fact, Watched):
        return fact.parsed, fact.problem
    return fact


def _missing(
    selector: LabelSelector,
    workloads: Iterable[Workload],
    selected: Iterable[Pod],
    everything: Mapping[str, Pod],
    owners: Mapping[str, str],
) -> Iterator[Pod]:
    """The pods that workloads of this selector shall have and that are not there."""
    counts: dict[str, int] = {}
    for pod in selected:
        # One on its way out is counted as out already; its successor is made when it is gone.
        if pod.owner is not None and not pod.finished:
            uid = owners.get(pod.owner.uid, pod.owner.uid)
            counts[uid] = counts.get(uid, 0) + 1
    for workload in workloads:
        if workload.deleting or not matches(selector, workload.labels):
            continue
        if workload.kind is Kind.STATEFUL_SET:
            for ordinal in range(workload.first, workload.first + workload.desired):
                there = everything.get(f"{workload.name}-{ordinal}")
                # A finished one will be deleted and made again: it is as good as missing.
                if there is None or there.finished:
                    yield objects.missing_pod(workload, ordinal)
        else:
            for _ in range(workload.desired - counts.get(workload.uid, 0)):
                yield objects.missing_pod(workload)


def as_version(text: object) -> int:
    """A resource version as the number that it is on every API server that stores in etcd (0: unknown)."""
    try:
        return int(str(text))
    except ValueError:
        return 0
