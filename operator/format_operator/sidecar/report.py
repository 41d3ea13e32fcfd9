"""Writes this pod's FormatState: created once, its status patched when it says something new.

A report never holds anything up. Changes that come together are one write, progress is written every few
seconds, and what the server already has is not written again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from format_operator.api.conditions import timestamp
from format_operator.api.models import FormatStateStatus, Phase
from format_operator.api.names import (
    API_VERSION,
    KIND_FORMATSTATE,
    KIND_STORAGEFORMAT,
    STORAGEFORMAT_LABEL,
)
from format_operator.runtime.log import Log
from format_operator.sidecar import kube
from format_operator.sidecar.knowledge import Knowledge
from format_operator.sidecar.observed import Asked

_TOGETHER_SECONDS = 0.25
_PROGRESS_SECONDS = 4.0
#: A small database is converted before anybody could read that it is: one write less.
_PASSING_SECONDS = 1.0
_PASSING = frozenset({Phase.CONVERTING, Phase.RECOVERING})
_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0
#: Change without anything having happened, or too often; alone they are no news.
_NO_NEWS = frozenset({"updatedAt"})
_SLOW_NEWS = frozenset({"progress"})


class Reporter:
    """Reports on one database argument. ``say`` from the main loop; ``run`` is the task that writes."""

    def __init__(self, client: kube.Kube, knowledge: Knowledge, namespace: str, log: Log) -> None:
        self._client = client
        self._knowledge = knowledge
        self._namespace = namespace
        self._log = log
        self._news = asyncio.Event()
        self._status: FormatStateStatus | None = None
        self._written: dict[str, Any] | None = None
        self._written_uid: object = None
        self._written_at = 0.0
        # A write without an answer: perhaps it was done.
        self._unsure = False
        self._phase_since = 0.0
        self._said = ""

    def say(self, status: FormatStateStatus) -> None:
        """Report this, soon. The last word counts."""
        if self._status is None or self._status.phase is not status.phase:
            self._phase_since = time.monotonic()
        self._status = status
        self._news.set()

    def look_again(self) -> None:
        """The server may have lost what was written, or may answer again."""
        self._news.set()

    async def run(self) -> None:
        retry = _FIRST_RETRY_SECONDS
        delay: float | None = None
        while True:
            # The time is up for a retry, or for progress that was held back.
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._news.wait()
            await asyncio.sleep(_TOGETHER_SECONDS)
            self._news.clear()
            try:
                delay = await self._write()
                retry = _FIRST_RETRY_SECONDS
                self._tell("")
            except kube.ApiError as error:
                self._tell(str(error))
                delay = max(retry, error.retry_after or 0.0)
                retry = min(retry * 2, _LAST_RETRY_SECONDS)

    async def _write(self) -> float | None:
        """Write what differs; returns in how many seconds there will be more to write. Raises ApiError."""
        status, owner = self._status, self._owner()
        if status is None or owner is None:
            return None
        if self._unsure:
            await self._look()
        written = self._on_server()
        wanted = status.to_dict()
        if written is not None:
            changed = _differing(written, wanted) - _NO_NEWS
            if not changed:
                return None
            wait = self._written_at + _PROGRESS_SECONDS - time.monotonic()
            if changed <= _SLOW_NEWS and wait > 0:
                return wait
            wait = self._phase_since + _PASSING_SECONDS - time.monotonic()
            if status.phase in _PASSING and wait > 0:
                return wait
        else:
            await self._create(owner)
            written = self._on_server()
        wanted = replace(status, updated_at=timestamp(self._client.clock.now())).to_dict()
        self._unsure = True
        try:
            body = await self._client.patch_formatstate_status(
                self._knowledge.formatstate, merge_patch(written or {}, wanted)
            )
        except kube.NotFound:
            # Deleted since (its claim is gone, or its StorageFormat was replaced): made anew next time.
            self._written = self._written_uid = None
            self._knowledge.saw_formatstate(None)
            self._unsure = False
            raise
        self._unsure = False
        self._written, self._written_at = wanted, time.monotonic()
        self._written_uid = (body.get("metadata") or {}).get("uid")
        return None

    async def _look(self) -> None:
        """A key that a lost write has set, and that is to be no more, would stay: no patch would name it."""
        try:
            body = await self._client.get_formatstate(self._knowledge.formatstate)
        except kube.NotFound:
            body = None
        self._written = self._written_uid = None
        self._knowledge.saw_formatstate(body)
        self._unsure = False

    def _on_server(self) -> dict[str, Any] | None:
        """The status that the server has, as far as is known; None when there is no FormatState."""
        body = self._knowledge.formatstate_body
        uid = (body.get("metadata") or {}).get("uid") if body is not None else None
        if self._written is not None and (body is None or uid == self._written_uid):
            # Ours is newer than what a watch may bring late. That somebody deleted it, the watch says.
            gone = body is None and self._knowledge.permit.asked is Asked.ABSENT
            return None if gone else self._written
        if body is None:
            return None
        status = body.get("status")
        return dict(status) if isinstance(status, Mapping) else {}

    def _owner(self) -> Mapping[str, Any] | None:
        """The StorageFormat's metadata; None: there is none to report on."""
        body = self._knowledge.storageformat_body
        if body is None or self._knowledge.storageformat.asked in {Asked.ABSENT, Asked.UNSERVED}:
            return None
        metadata: Mapping[str, Any] = body.get("metadata") or {}
        return None if metadata.get("deletionTimestamp") else metadata

    async def _create(self, owner: Mapping[str, Any]) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND_FORMATSTATE,
            "metadata": {
                "name": self._knowledge.formatstate,
                "namespace": self._namespace,
                "labels": {STORAGEFORMAT_LABEL: self._knowledge.name},
                "ownerReferences": [
                    {
                        "apiVersion": API_VERSION,
                        "kind": KIND_STORAGEFORMAT,
                        "name": self._knowledge.name,
                        "uid": owner.get("uid"),
                        # Otherwise whoever may write FormatStates would need rights on the owner.
                        "blockOwnerDeletion": False,
                    }
                ],
            },
        }
        try:
            created = await self._client.create_formatstate(body)
        except kube.AlreadyExists:
            # An earlier pod of this name made it: it speaks of the same volume.
            self._knowledge.saw_formatstate(
                await self._client.get_formatstate(self._knowledge.formatstate)
            )
        else:
            self._knowledge.saw_formatstate(created)

    def _tell(self, problem: str) -> None:
        if problem == self._said:
            return
        self._said = problem
        if problem:
            self._log.warning("cannot report", error=problem)
        else:
            self._log.info("reporting again")


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes ``new`` of ``old``."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(merge_patch(old, new))
