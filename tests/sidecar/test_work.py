"""What is done to a volume, one call at a time on the store's thread, and what is kept of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import format_store
from format_operator.metrics import SidecarMetrics
from format_operator.runtime.log import Log
from format_operator.series import DatabaseSeries
from format_operator.sidecar.databases import Database
from format_operator.sidecar.observed import Disk
from format_operator.sidecar.store import FormatStore, Looked, StoreThread
from format_operator.sidecar.work import Work
from format_store import Abort, Backup, Observer, Retention
from format_store.errors import InUse


class PruningStore(FormatStore):
    """Remembers what it was asked; the answers are those of its list, one after the other."""

    def __init__(self, *answers: float | Exception | None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked: list[tuple[str, bool]] = []

    def prune(self, path: str, observer: Observer, *, openers_unchecked: bool) -> float | None:
        self.asked.append((path, openers_unchecked))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        observer.backup_deleted(BACKUP)
        return answer


BACKUP = Backup("c1", "/data/b/preimage.db", 1, "2026-11-23T12:00:00Z", None, pinned=False)


def pruned(store: PruningStore, *, openers_unchecked: bool) -> Database:
    async def run() -> Database:
        thread = StoreThread()
        metrics = SidecarMetrics(version="1", phases=("idle",))
        series = metrics.add(DatabaseSeries("orders", "/data/orders.db"))
        work = Work(store, thread, metrics, series, lambda: None, Log())
        database = Database("/data/orders.db", Looked(Disk.UNMARKED, backups=(BACKUP,)))
        await work.prune(database, openers_unchecked=openers_unchecked)
        thread.stop()
        return database

    return asyncio.run(run())


@pytest.mark.parametrize("openers_unchecked", [True, False])
def test_pruning_says_whether_openers_are_checked(*, openers_unchecked: bool) -> None:
    """On a volume without leases a backup could never be deleted otherwise."""
    store = PruningStore(None)
    database = pruned(store, openers_unchecked=openers_unchecked)
    assert store.asked == [("/data/orders.db", openers_unchecked)]
    assert database.looked is not None
    assert database.looked.backups == ()
    assert database.prune_at is None


def test_a_failed_pruning_is_repeated_and_forgets_nothing() -> None:
    """In ten minutes; the backup is still reported."""
    began = time.monotonic()
    database = pruned(
        PruningStore(InUse("x", operation="x", path="x", hint="x")), openers_unchecked=False
    )
    assert database.looked is not None
    assert database.looked.backups == (BACKUP,)
    assert database.prune_at is not None
    assert database.prune_at - began >= 600


@pytest.mark.parametrize("openers_unchecked", [True, False])
def test_the_store_hands_on_whether_openers_are_checked(
    monkeypatch: pytest.MonkeyPatch, *, openers_unchecked: bool
) -> None:
    """The adapter's word is the store's, when it converts and when it deletes."""
    seen = []

    def called(path: str, *_: object, **options: Any) -> None:
        seen.append((path, options["openers_unchecked"]))

    for name in ("convert", "prune_backups"):
        monkeypatch.setattr(format_store, name, called)
    store, path, observer = FormatStore(), "/data/orders.db", Observer()
    store.prune(path, observer, openers_unchecked=openers_unchecked)
    store.convert(
        path,
        format_store.PLAIN_SQLITEDICT,
        (),
        Retention(),
        observer,
        Abort(),
        openers_unchecked=openers_unchecked,
    )
    assert seen == [(path, openers_unchecked)] * 2
