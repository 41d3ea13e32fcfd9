"""One active controller, by a Lease (coordination.k8s.io/v1) as client-go's leader election uses it.

The holder renews; another takes over when it has seen no renewal for ``duration`` seconds **of its own clock**: the
times in the Lease are never compared with it, so clocks may differ. The holder stops acting before that: what it
began is finished within a request's time, and every effect has a precondition besides.

The client library's own election is not used: it lets a dropped connection end the election, measures by the wall
clock, and cannot give the Lease back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from format_operator.controller.cluster import ClusterApi, Conflict, Gone, Object, RequestFailed
from format_operator.runtime.log import Log


@dataclass(frozen=True)
class Timing:
    """In seconds, as Kubernetes' own controllers have them."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0

    @classmethod
    def of(cls, duration: float) -> Timing:
        """In the same proportions, for a Lease of that duration."""
        return cls(duration, duration * 2 / 3, duration * 2 / 15)


class Lease:
    """``run`` until cancelled; ``is_held`` tells whether this process may act now."""

    def __init__(
        self,
        api: ClusterApi,
        namespace: str,
        name: str,
        identity: str,
        log: Log,
        *,
        changed: Callable[[bool], None],
        timing: Timing = Timing(),
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._log = log.bind(lease=f"{namespace}/{name}")
        self._changed = changed
        self._timing = timing
        self._renewed_at: float | None = None
        self._seen: object = None
        self._seen_at = 0.0
        self._said = ""
        self._was_held = False

    @property
    def is_held(self) -> bool:
        """Whether the Lease was renewed recently enough to act on it."""
        return (
            self._renewed_at is not None
            and time.monotonic() - self._renewed_at < self._timing.renew_deadline
        )

    async def run(self) -> None:
        """Get the Lease and keep it."""
        while True:
            try:
                await self._try()
                self._said = ""
            except RequestFailed as error:
                if str(error) != self._said:
                    self._said = str(error)
                    self._log.warning("cannot renew or get the lease", error=error)
            self._notice()
            await asyncio.sleep(self._timing.retry)

    async def release(self) -> None:
        """Give it back, so that another need not wait until it runs out."""
        if not self.is_held:
            return
        self._renewed_at = None
        try:
            lease = await self._get()
            if lease is not None and _holder(lease) == self._identity:
                await self._put(lease, holder="", acquired=False)
        except RequestFailed as error:
            self._log.info("lease not given back: it runs out", error=error)
        self._notice()

    async def _try(self) -> None:
        asked = time.monotonic()
        lease = await self._get()
        if lease is None:
            await self._create()
            self._renewed_at = asked
            return
        holder = _holder(lease)
        # Not by the time in it, which a clock that stands still writes again and again.
        record = (holder, (lease.get("metadata") or {}).get("resourceVersion"))
        if record != self._seen:
            self._seen, self._seen_at = record, asked
        if holder not in {"", self._identity}:
            duration = float((lease.get("spec") or {}).get("leaseDurationSeconds") or 0)
            if asked - self._seen_at < max(duration, self._timing.duration):
                self._renewed_at = None
                return
        try:
            await self._put(lease, holder=self._identity, acquired=holder != self._identity)
        except Conflict:
            return  # somebody was faster; the next look tells who
        # Counted from before the request: another counts from when it sees the renewal, which is later.
        self._renewed_at = asked

    async def _get(self) -> Object | None:
        try:
            return await self._api.lease("GET", self._namespace, self._name)
        except Gone:
            return None

    async def _create(self) -> None:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._spec({}, self._identity, acquired=True),
        }
        await self._api.lease("POST", self._namespace, self._name, body)

    async def _put(self, lease: Object, *, holder: str, acquired: bool) -> None:
        spec = self._spec(dict(lease.get("spec") or {}), holder, acquired=acquired)
        # With the resource version that was read: 409 when somebody else wrote meanwhile.
        await self._api.lease("PUT", self._namespace, self._name, {**lease, "spec": spec})

    def _spec(self, before: dict[str, Any], holder: str, *, acquired: bool) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            **before,
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "renewTime": now,
        }
        if acquired:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(before.get("leaseTransitions") or 0) + 1
        return spec

    def _notice(self) -> None:
        if self.is_held != self._was_held:
            self._was_held = self.is_held
            self._log.info("leading" if self._was_held else "standing by")
            self._changed(self._was_held)


def _holder(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")
