"""KMock, an embedded Kubernetes emulator, as the demo's API server: HTTP on loopback, in this very process.

It keeps objects and serves lists, watches and patches. It does not validate, default, authorise or version
anything: ``--api real`` is for that.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import kmock
import yaml

from examples.demo.show import table
from format_operator.api.crds import formatstate_crd, storageformat_crd

_CALL_SECONDS = 5.0


class Emulator:
    """Use as a context manager. Everything of KMock happens on one thread."""

    title = "KMock, an emulator in this process"

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kmock", daemon=True)
        self._kube = kmock.KubernetesEmulator()
        self._server = kmock.Server(self._kube)
        self._resources = {}
        for crd in (storageformat_crd(), formatstate_crd()):
            names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
            resource = kmock.resource(crd["spec"]["group"], version["name"], names["plural"])
            self._kube.resources[resource] = kmock.ResourceInfo(
                kind=names["kind"],
                singular=names["singular"],
                shortnames=set(names["shortNames"]),
                subresources={"status"},
                namespaced=True,
                verbs={"get", "list", "watch", "create", "patch"},
            )
            self._resources[names["kind"]] = resource
        # kopf waits until it has seen this kind, even when it watches one namespace only.
        self._kube.resources[kmock.resource("", "v1", "namespaces")] = kmock.ResourceInfo(
            kind="Namespace", namespaced=False, verbs={"get", "list", "watch"}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        # A client that is still connected may keep it waiting; it ends with this process anyway.
        with suppress(TimeoutError):
            self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return str(self._server.url).rstrip("/")

    def add_pod(self, name: str, directory: Path) -> str:
        """Make the pod known and put what proves its identity into ``directory``; returns its UID."""
        del name, directory  # it asks nobody who he is
        return str(uuid.uuid4())

    def apply(self, manifest: Path) -> str:
        """``kubectl apply``: returns what that says."""
        body = yaml.safe_load(manifest.read_text(encoding="utf-8"))
        kind, metadata = body["kind"], body["metadata"]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        metadata |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": now}
        self._call(self._create(kind, body))
        resource = self._resources[kind]
        return f"{kind.lower()}.{resource.group}/{metadata['name']} created"

    def formatstates(self) -> list[dict[str, Any]]:
        """All FormatStates, by name."""
        resource = self._resources["FormatState"]
        found = [one.raw for (kind, _, _), one in self._kube.objects.items() if kind == resource]
        return sorted(found, key=lambda one: str(one["metadata"]["name"]))

    def get_formatstates(self) -> str:
        """``kubectl get formatstates``, with the columns of the CRD."""
        columns = [
            column
            for column in formatstate_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
            if not column.get("priority") and column["type"] != "date"
        ]
        rows = [["NAME", *(str(column["name"]).upper() for column in columns)]]
        for one in self.formatstates():
            cells = [_cell(one, column["jsonPath"]) for column in columns]
            rows.append([one["metadata"]["name"], *cells])
        return table(rows)

    async def _open(self) -> None:
        await self._kube.__aenter__()
        await self._server.__aenter__()

    async def _close(self) -> None:
        await self._server.__aexit__(None, None, None)
        await self._kube.__aexit__(None, None, None)

    async def _create(self, kind: str, body: dict[str, Any]) -> None:
        resource = self._resources[kind]
        path = f"/apis/{resource.group}/{resource.version}/namespaces/{self.namespace}/{resource.plural}"
        async with self._server.client.post(path, json=body) as answer:
            answer.raise_for_status()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)


def _cell(body: Mapping[str, Any], path: str) -> str:
    """A printer column's JSON path; those of FormatState are plain ones."""
    value: Any = body
    for part in path.strip(".").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
