"""Pods without containers: what thousands of sidecars, kubelets and StatefulSets say to a real API server.

A stand-in is the sidecar's own code (``Kube``, ``Poller``, ``Reporter``, ``decide``, ``status``) with another volume below
it: a format's name, and a conversion that takes as long as it is told to. Its two watches are plain ones, of the same
two objects, where the sidecar has kopf's; they are started once for each pod, as those are.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import aiohttp

from format_operator.api.names import API_VERSION, PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS
from format_operator.runtime.clock import ServerClock
from format_operator.runtime.credentials import Access
from format_operator.runtime.log import Log
from format_operator.settings import DatabaseArgument, SidecarSettings, sidecar_settings
from format_operator.sidecar import status
from format_operator.sidecar.decide import Action, decide, remember
from format_operator.sidecar.knowledge import Knowledge
from format_operator.sidecar.kube import Kube
from format_operator.sidecar.observed import Disk, File, Observed
from format_operator.sidecar.poller import Poller
from format_operator.sidecar.report import Reporter
from format_operator.sidecar.wish import Stored
from tests.apiserver.controllers import pod_spec

NAME: Final = "orders"
PATH: Final = "/data/orders.db"
#: How long a stand-in "converts", in seconds.
CONVERSION_SECONDS: Final = 2.0
_ARGUMENT: Final = DatabaseArgument(NAME, PATH)


class SharedTls(Access):
    """One TLS context for all: five thousand of them would be what is measured."""

    @cached_property
    def _context(self) -> ssl.SSLContext | None:
        return super().tls()

    def tls(self) -> ssl.SSLContext | None:
        return self._context


@dataclass
class Tally:
    """What all stand-ins together have asked and been told."""

    requests: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)

    def asked(self, verb: str, resource: str, code: str) -> None:
        self.requests[f"{verb} {resource} {code}"] += 1


@dataclass
class Volume:
    """What outlives a pod."""

    format: str = "v1"
    stored: Stored | None = None


class Pod:
    """One pod's sidecar. ``opened`` is called when its gate is open: the app starts."""

    def __init__(
        self,
        access: Access,
        namespace: str,
        name: str,
        uid: str,
        volume: Volume,
        tally: Tally,
        opened: Callable[[], None],
        *,
        at_gate: bool,
    ) -> None:
        self._namespace, self._volume, self._tally, self._opened = namespace, volume, tally, opened
        self._access = access
        self._at_gate, self._gate_since = at_gate, time.monotonic()
        self._opened_because: tuple[str, str] | None = None
        self._wake, self._served = asyncio.Event(), asyncio.Event()
        self._kube = Kube(access, namespace, user_agent="stand-in", on_request=tally.asked)
        log = Log(pod=name)
        self._knowledge = Knowledge(NAME, f"{NAME}.{name}", self._changed)
        self._poller = Poller(
            self._kube, self._knowledge, resync=3600, in_a_hurry=lambda: self._at_gate,
            asked=self._wake.set, log=log,
        )  # fmt: skip
        self._reporter = Reporter(self._kube, self._knowledge, namespace, log)
        self._settings: SidecarSettings = sidecar_settings(
            ["--database", f"{NAME}={PATH}"],
            {"POD_NAME": name, "POD_NAMESPACE": namespace, "POD_UID": uid},
        )
        self._task = asyncio.create_task(self._run())

    def end(self) -> None:
        self._task.cancel()

    def _changed(self) -> None:
        self._wake.set()
        if self._knowledge.is_served:
            self._served.set()

    async def _run(self) -> None:
        async with self._kube, asyncio.TaskGroup() as group:
            group.create_task(self._poller.run())
            group.create_task(self._reporter.run())
            group.create_task(self._decide())
            await self._served.wait()
            watched = (
                (PLURAL_STORAGEFORMATS, NAME, self._knowledge.saw_storageformat),
                (PLURAL_FORMATSTATES, self._knowledge.formatstate, self._knowledge.saw_formatstate),
            )
            for plural, name, saw in watched:
                group.create_task(self._watch(plural, name, saw))

    async def _decide(self) -> None:
        volume, delay = self._volume, None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)
            self._wake.clear()
            volume.stored = remember(self._observed())
            action = decide(self._observed())
            if action.convert:
                self._say(action)
                await asyncio.sleep(CONVERSION_SECONDS)
                volume.format = action.convert[0].to
                self._wake.set()
                continue
            if self._at_gate and action.gate_open:
                self._at_gate = False
                self._opened_because = (action.reason, action.message)
                self._opened()
                self._wake.set()
            self._say(action)
            delay = action.wake_in

    def _observed(self) -> Observed:
        wish = self._knowledge.storageformat.value
        present = wish.format(self._volume.format) if wish is not None else None
        return Observed(
            now=self._kube.clock.now(),
            argument=PATH,
            at_gate=self._at_gate,
            gate_seconds=time.monotonic() - self._gate_since if self._at_gate else 0.0,
            permit_wait=self._settings.permit_wait,
            api_wait=self._settings.api_wait,
            reads=None,
            storageformat=self._knowledge.storageformat,
            permit=self._knowledge.permit,
            stored=self._volume.stored,
            files=(File(PATH, Disk.MARKED, present),),
            opened_because=self._opened_because,
        )

    def _say(self, action: Action) -> None:
        body = self._knowledge.storageformat_body or {}
        facts = status.Facts(
            argument=_ARGUMENT,
            files=self._observed().files,
            backups=(),
            histories={},
            refusal=None,
            progress=None,
            gate_open=not self._at_gate,
            observed_generation=(body.get("metadata") or {}).get("generation"),
        )
        self._reporter.say(status.build(self._settings, action, facts))

    async def _watch(self, plural: str, name: str, saw: Callable[[Any], None]) -> None:
        """List, then watch, one object; again where the server ends it."""
        path = f"/apis/{API_VERSION}/namespaces/{self._namespace}/{plural}"
        selected = {"fieldSelector": f"metadata.name={name}"}
        session = aiohttp.ClientSession(
            base_url=self._access.url,
            headers={"Authorization": f"Bearer {self._access.token()}"},
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(ssl=self._access.tls() or True),
            read_bufsize=1 << 20,
        )
        async with session:
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(path, params=selected) as answer:
                        self._tally.requests[f"list {plural} {answer.status}"] += 1
                        listed = await answer.json()
                    version = listed["metadata"]["resourceVersion"]
                    params = selected | {"watch": "1", "resourceVersion": version}
                    async with session.get(path, params=params) as stream:
                        self._tally.requests[f"watch {plural} {stream.status}"] += 1
                        async for line in stream.content:
                            event = json.loads(line)
                            if event["type"] == "ERROR":
                                break
                            self._tally.deliveries[plural] += 1
                            saw(None if event["type"] == "DELETED" else event["object"])
                await asyncio.sleep(0.2)


class Workload:
    """A StatefulSet's pods with their kubelet: whoever is evicted is made again, and is ready when its gate has opened."""

    def __init__(
        self,
        admin: aiohttp.ClientSession,
        tls: SharedTls,
        namespace: str,
        replicas: int,
        tally: Tally,
    ) -> None:
        self._admin, self._tls, self._tally = admin, tls, tally
        self.namespace, self.replicas = namespace, replicas
        self.restarts = 0
        self._volumes = {ordinal: Volume() for ordinal in range(replicas)}
        self._pods: dict[str, Pod] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._owner: dict[str, Any] = {}

    async def make(self, storageformat: Mapping[str, Any]) -> None:
        """Namespace, StatefulSet, claims, StorageFormat, and pods that are ready."""
        ns = self.namespace
        await self._create("/api/v1/namespaces", {"metadata": {"name": ns}})
        await self._create(f"/api/v1/namespaces/{ns}/serviceaccounts", {"metadata": {"name": NAME}})
        labels = {"app": NAME}
        template = {
            "metadata": {"labels": labels},
            "spec": pod_spec() | {"serviceAccountName": NAME},
        }
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        }
        body = {
            "metadata": {"name": NAME},
            "spec": {
                "replicas": self.replicas,
                "serviceName": NAME,
                "selector": {"matchLabels": labels},
                "template": template,
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
            },
        }
        sets = f"/apis/apps/v1/namespaces/{ns}/statefulsets"
        self._owner = await self._create(sets, body)
        settled = {
            "replicas": self.replicas, "observedGeneration": 1,
            "currentRevision": "orders-1", "updateRevision": "orders-1",
        }  # fmt: skip
        await self._patch(f"{sets}/{NAME}/status", {"status": settled})
        await self._create(
            f"/apis/{API_VERSION}/namespaces/{ns}/{PLURAL_STORAGEFORMATS}", storageformat
        )
        for ordinal in self._volumes:
            claims = f"/api/v1/namespaces/{ns}/persistentvolumeclaims"
            await self._create(
                claims, {"metadata": {"name": f"data-{NAME}-{ordinal}"}, "spec": claim}
            )
            await self._start(ordinal, at_gate=False)

    def formats(self) -> Counter[str]:
        """What lies on the volumes."""
        return Counter(volume.format for volume in self._volumes.values())

    def deleted(self, name: str, uid: str) -> None:
        """What the watch of pods says: this one is gone."""
        pod = self._pods.pop(uid, None)
        if pod is None:
            return
        pod.end()
        self.restarts += 1
        self._soon(self._start(int(name.rpartition("-")[2]), at_gate=True))

    def end(self) -> None:
        for pod in self._pods.values():
            pod.end()

    async def _start(self, ordinal: int, *, at_gate: bool) -> None:
        ns, name = self.namespace, f"{NAME}-{ordinal}"
        spec = pod_spec() | {"serviceAccountName": NAME}
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{name}"}}]
        owner = {
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": NAME,
            "uid": self._owner["metadata"]["uid"], "controller": True,
        }  # fmt: skip
        metadata = {
            "name": name,
            "labels": {"app": NAME, "controller-revision-hash": "orders-1"},
            "ownerReferences": [owner],
        }
        made = await self._create(
            f"/api/v1/namespaces/{ns}/pods", {"metadata": metadata, "spec": spec}
        )
        uid = made["metadata"]["uid"]
        await self._ready(name, ready=not at_gate)
        bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
        asked = {"spec": {"boundObjectRef": bound, "expirationSeconds": 7200, "audiences": []}}
        granted = await self._create(f"/api/v1/namespaces/{ns}/serviceaccounts/{NAME}/token", asked)
        access = replace(self._tls, static_token=granted["status"]["token"])
        access.__dict__["_context"] = self._tls.tls()
        self._pods[uid] = Pod(
            access, ns, name, uid, self._volumes[ordinal], self._tally,
            lambda: self._soon(self._ready(name, ready=True)), at_gate=at_gate,
        )  # fmt: skip

    async def _ready(self, name: str, *, ready: bool) -> None:
        """What its kubelet says: the gate has ended and the app is ready, or not."""
        state: dict[str, Any] = {"terminated": {"exitCode": 0}} if ready else {"running": {}}
        gate = {
            "name": "storageformat-gate", "state": state, "ready": ready,
            "restartCount": 0, "image": "i", "imageID": "i",
        }  # fmt: skip
        condition = {
            "type": "Ready", "status": "True" if ready else "False",
            "lastTransitionTime": ServerClock().now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }  # fmt: skip
        body = {
            "phase": "Running" if ready else "Pending",
            "conditions": [condition],
            "initContainerStatuses": [gate],
        }
        await self._patch(
            f"/api/v1/namespaces/{self.namespace}/pods/{name}/status", {"status": body}
        )

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._admin.post(path, json=body) as answer:
            answer.raise_for_status()
            made: dict[str, Any] = await answer.json()
            return made

    async def _patch(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self._admin.patch(path, data=json.dumps(body), headers=headers) as answer:
            if answer.status != 404:  # evicted meanwhile
                answer.raise_for_status()
