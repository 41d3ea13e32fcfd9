"""Does what was decided: the only module that changes anything in the cluster.

Each effect carries its own precondition (a resource version, a UID), so that a decision on old facts, or a second
controller, changes nothing. What was done is put into the cache at once: the watch may lag behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from format_operator.api.conditions import timestamp
from format_operator.api.models import StorageFormat, StorageFormatStatus
from format_operator.api.names import (
    API_VERSION,
    KIND_STORAGEFORMAT,
    PLURAL_FORMATSTATES,
    PLURAL_STORAGEFORMATS,
    formatstate_name,
)
from format_operator.controller.cache import Cache, as_version
from format_operator.controller.cluster import ClusterApi, Conflict, Gone, RequestFailed, Waits
from format_operator.controller.decide import Decision
from format_operator.controller.events import Event
from format_operator.controller.facts import Pod, State
from format_operator.controller.formatstates import SpecChange
from format_operator.controller.metrics import ControllerMetrics
from format_operator.controller.plan import Eviction
from format_operator.runtime.log import Log

_COMPONENT = "storageformat-controller"


class Effects:
    """Effects on one cluster. Raises RequestFailed where trying again later is all that is left."""

    def __init__(
        self,
        api: ClusterApi,
        cache: Cache,
        metrics: ControllerMetrics,
        log: Log,
        now: Callable[[], datetime],
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._cache = cache
        self._metrics = metrics
        self._log = log
        self._now = now
        self._may_act = may_act

    async def apply(self, storageformat: StorageFormat, decision: Decision) -> bool:
        """Permits before evictions: a pod that is restarted must find its permit.

        Returns whether all went as decided; False: a PodDisruptionBudget has refused an eviction.
        """
        log = self._log.bind(namespace=storageformat.namespace, storageformat=storageformat.name)
        for change in decision.changes:
            if self._may_act():
                await self._change(change, log)
        for state in decision.deletions:
            if self._may_act():
                await self._delete(state, log)
        heard = True
        for eviction in decision.evictions:
            # Asked before each one: a Lease may be lost between two requests.
            if self._may_act():
                heard = await self._evict(storageformat, eviction, log) and heard
        return heard

    async def _change(self, change: SpecChange, log: Log) -> None:
        state, permit = change.state, change.permit
        spec: dict[str, Any] = {"claimUID": change.claim_uid}
        spec["permit"] = (
            {"targetHash": permit.target_hash, "expires": timestamp(permit.expires)}
            if permit is not None
            else None
        )
        try:
            written = await self._api.patch_formatstate(
                state.name, state.namespace, state.resource_version, spec
            )
        except (Conflict, Gone) as error:
            # The sidecar reported meanwhile, or it is another one: it is decided anew.
            log.debug("formatstate changed meanwhile", formatstate=state.name)
            await self._look(PLURAL_FORMATSTATES, state, error, version=state.resource_version)
            return
        self._cache.answered(PLURAL_FORMATSTATES, written)
        if permit != state.permit:
            log.info(
                "permit given" if permit is not None else "permit withdrawn",
                pod=state.pod,
                expires=timestamp(permit.expires) if permit is not None else None,
            )

    async def _delete(self, state: State, log: Log) -> None:
        try:
            # The cache may not know a pod that was made a moment ago.
            await self._api.get("pods", state.namespace, state.pod)
        except Gone:
            pass
        else:
            return
        try:
            await self._api.delete_formatstate(
                state.name, state.namespace, state.uid, state.resource_version
            )
        except Conflict:
            return
        except Gone:
            pass
        self._cache.gone(PLURAL_FORMATSTATES, state)
        log.info("formatstate deleted: its volume is gone", formatstate=state.name)

    async def _evict(self, storageformat: StorageFormat, eviction: Eviction, log: Log) -> bool:
        pod = eviction.pod
        key = (storageformat.namespace, storageformat.name)
        if not await self._is_current(storageformat.name, pod):
            # The watch lags, as it does after an outage: that pod may have converted meanwhile.
            log.debug("formatstate changed meanwhile", pod=pod.name)
            return True
        try:
            await self._api.evict(pod.name, pod.namespace, pod.uid)
        except Waits as error:
            until = self._now() + timedelta(seconds=error.retry_after)
            self._cache.refused(pod, until, error.message)
            self._metrics.evicted(key, "refused")
            log.info("eviction waits", pod=pod.name, why=error.message)
            return False
        except (Gone, Conflict) as error:
            # That pod is no more.
            await self._look("pods", pod, error)
            self._metrics.evicted(key, "gone")
            return True
        except RequestFailed:
            self._metrics.evicted(key, "failed")
            raise
        self._cache.evicted(pod, self._now())
        self._metrics.evicted(key, "evicted")
        log.info("pod evicted", pod=pod.name, reason=eviction.reason)
        await self.tell(
            storageformat,
            Event("Normal", "PodEvicted", f"pod {pod.name}: {eviction.message}"),
        )
        return True

    async def _look(
        self, plural: str, fact: Pod | State, error: RequestFailed, *, version: str = ""
    ) -> None:
        """See whether an object really is another, or gone, as a 404 or 409 says: nothing else might tell, ever.

        Raises ``error`` where it is as it was known: of that uid, and of that version where one is given.
        """
        try:
            body = await self._api.get(plural, fact.namespace, fact.name)
        except Gone:
            self._cache.gone(plural, fact)
            return
        metadata = body["metadata"]
        if metadata["uid"] == fact.uid and version in {"", metadata["resourceVersion"]}:
            raise error
        if metadata["uid"] != fact.uid:
            self._cache.gone(plural, fact)
        self._cache.put(plural, body)

    async def _is_current(self, storageformat: str, pod: Pod) -> bool:
        """Whether the pod's FormatState still is the one that was decided on."""
        name = formatstate_name(storageformat, pod.name)
        known = self._cache.version(PLURAL_FORMATSTATES, pod.namespace, name)
        try:
            body = await self._api.get(PLURAL_FORMATSTATES, pod.namespace, name)
        except Gone:
            return False
        self._cache.answered(PLURAL_FORMATSTATES, body)
        return as_version(body["metadata"]["resourceVersion"]) == known

    async def report(
        self, storageformat: StorageFormat, status: StorageFormatStatus, before: Mapping[str, Any]
    ) -> None:
        """Write the status. ``before`` is the one that is replaced: what is no more becomes null."""
        await self.report_on(
            storageformat.namespace, storageformat.name, storageformat.uid, status, before
        )

    async def report_on(
        self,
        namespace: str,
        name: str,
        uid: str,
        status: StorageFormatStatus,
        before: Mapping[str, Any],
    ) -> None:
        """The same for a StorageFormat that could not be understood."""
        new = status.to_dict()
        patch = {**dict.fromkeys(before.keys() - new.keys()), **new}
        try:
            written = await self._api.patch_storageformat_status(name, namespace, uid, patch)
        except (Conflict, Gone):
            # Deleted, or made anew, meanwhile: the watch says so. Or not, and then nothing else might.
            try:
                body = await self._api.get(PLURAL_STORAGEFORMATS, namespace, name)
            except Gone:
                return
            if body["metadata"]["uid"] == uid:
                raise
            return
        self._cache.answered(PLURAL_STORAGEFORMATS, written)

    async def tell(self, storageformat: StorageFormat, event: Event) -> None:
        """Post an event about the StorageFormat; one that is lost is not missed."""
        about = {
            "apiVersion": API_VERSION,
            "kind": KIND_STORAGEFORMAT,
            "name": storageformat.name,
            "namespace": storageformat.namespace,
            "uid": storageformat.uid,
        }
        await self._post(about, event)

    async def tell_of_pod(self, storageformat: StorageFormat, state: State, event: Event) -> None:
        """Post it about the pod and about the StorageFormat: whoever describes either finds it."""
        if state.pod_uid is not None:
            about = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": state.pod,
                "namespace": state.namespace,
                "uid": state.pod_uid,
            }
            of = f"StorageFormat {storageformat.name}: {event.message}"
            await self._post(about, replace(event, message=of))
        of = f"pod {state.pod}: {event.message}"
        await self.tell(storageformat, replace(event, message=of))

    async def _post(self, about: dict[str, Any], event: Event) -> None:
        now = self._now()
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "generateName": f"{about['name']}.",
                "namespace": about["namespace"],
            },
            "involvedObject": about,
            "type": event.kind,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": _COMPONENT},
            "reportingComponent": _COMPONENT,
            "firstTimestamp": timestamp(now),
            "lastTimestamp": timestamp(now),
            "count": 1,
        }
        try:
            await self._api.create_event(about["namespace"], body)
        except RequestFailed as error:
            self._log.debug("event lost", error=error)
