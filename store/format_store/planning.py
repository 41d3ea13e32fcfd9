"""What a conversion would do: steps, time, space, and what stands in its way. ``--rehearse`` tries it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from format_store import conversion, errors, lease, preflight, rehearsal, sqlitefile
from format_store.engines import registry
from format_store.engines.base import Obstacle, Survey
from format_store.estimate import Estimate, estimate
from format_store.formats import Format
from format_store.rehearsal import Rehearsal
from format_store.run import Run, os_errors

MAX_OBSTACLES = 100


@dataclass(frozen=True)
class Plan:
    """What ``convert`` would do. ``refusal`` is the error that it would raise; sizes in bytes.

    ``bytes_needed``: what has to be free beside the database at the peak, margin apart: the staging copy, with
    what SQLite sorts, and the old file where it has to be copied. ``bytes_kept``: what a backup then takes
    beside the new database.
    """

    path: str
    action: str
    source: Format | None
    target: Format
    tables: tuple[tuple[str, int], ...]
    size: int
    bytes_needed: int
    bytes_available: int
    obstacles: tuple[Obstacle, ...]
    pending: tuple[str, ...]
    refusal: errors.StoreError | None = None
    steps: tuple[str, ...] = ()
    bytes_kept: int = 0
    estimate: Estimate | None = None
    rehearsal: Rehearsal | None = None
    in_use: bool = False
    """Another process has it open: what is told here is of this moment, and ``convert`` would raise InUse."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "action": self.action,
            "source": self.source.to_spec() if self.source else None,
            "target": self.target.to_spec(),
            "tables": [{"name": name, "rows": rows} for name, rows in self.tables],
            "size": self.size,
            "bytesNeeded": self.bytes_needed,
            "bytesAvailable": self.bytes_available,
            "bytesKept": self.bytes_kept,
            "steps": list(self.steps),
            "estimate": self.estimate.to_dict() if self.estimate else None,
            "rehearsal": self.rehearsal.to_dict() if self.rehearsal else None,
            "inUse": self.in_use,
            "obstacles": [obstacle.to_dict() for obstacle in self.obstacles],
            "pending": list(self.pending),
            "refusal": None
            if self.refusal is None
            else {
                "reason": self.refusal.reason,
                "message": str(self.refusal),
                "hint": self.refusal.hint,
            },
        }


def plan(
    run: Run,
    target: Format,
    unmarked: Sequence[Format],
    *,
    rehearse: bool,
    while_in_use: bool = False,
) -> Plan:
    """See ``format_store.plan``."""
    path = run.primary
    with os_errors("plan", path, "Nothing was touched."):
        pending = conversion.pending(run.layout)
        found = preflight.require_plain_file(run.layout)
        available = os.statvfs(run.layout.parent)
        facts: dict[str, Any] = {
            "path": os.fspath(path),
            "target": target,
            "pending": pending,
            "bytes_available": available.f_bavail * available.f_frsize,
            "size": found.st_size if found else 0,
        }
    nothing: dict[str, Any] = {"source": None, "tables": (), "bytes_needed": 0, "obstacles": ()}
    if pending:
        return Plan(action="recover", steps=(_RECOVER,), **nothing, **facts)
    if found is None:
        return Plan(action="none", **nothing, **facts)
    try:
        if while_in_use:
            # This process's own connection is another matter: to look beside it would drop its locks.
            lease.refuse_own_descriptors(path, operation="plan")
        decision = conversion.decide(
            run, target, unmarked, refuse_rows=False, refuse_openers=not while_in_use
        )
        in_use = while_in_use and decision.survey is not None and _in_use(run)
    except errors.Refused as refused:
        return Plan(action="refuse", refusal=refused, **nothing, **facts)
    if decision.survey is None or decision.present is None:
        return Plan(action="none", **(nothing | {"source": decision.present}), **facts)
    begun = time.perf_counter()
    obstacles = _obstacles(run, decision.present, target)
    looking = time.perf_counter() - begun
    with os_errors("plan", path, "Nothing was touched."):
        copied = preflight.preimage_bytes(run.layout, decision.size)
        expected = estimate(run, decision.survey, looking)
    kept = decision.size if run.retention.keeps else 0
    planned: dict[str, Any] = {
        "source": decision.present,
        "tables": decision.survey.tables,
        "bytes_needed": decision.survey.staging_bytes + copied,
        "bytes_kept": kept,
        "obstacles": tuple(obstacles),
        "in_use": in_use,
    }
    if obstacles:
        return Plan(action="refuse", **planned, **facts)
    refusal: errors.Refused | None = None
    measured: Rehearsal | None = None
    if rehearse:
        try:
            measured = rehearsal.rehearse(run, target, unmarked, planned["bytes_needed"])
        except errors.Refused as refused:
            refusal = refused
    return Plan(
        action="refuse" if refusal else "convert",
        refusal=refusal,
        steps=_steps(run, decision.survey, copied=bool(copied)),
        estimate=expected,
        rehearsal=measured,
        **planned,
        **facts,
    )


def _in_use(run: Run) -> bool:
    try:
        preflight.require_not_open(run.layout, unchecked=run.openers_unchecked)
    except errors.InUse:
        return True
    return False


def _obstacles(run: Run, present: Format, target: Format) -> list[Obstacle]:
    found = registry.common(present, target)
    assert found is not None, "a survey was made"
    engine, before, after = found
    with (
        sqlitefile.sqlite_errors("plan", run.primary),
        closing(sqlitefile.connect(run.primary)) as connection,
        run.abort.connection(connection),
    ):
        return engine.obstacles(run, connection, before, after, MAX_OBSTACLES)


_RECOVER = "recover what an earlier run left; what is to be done then tells another plan"


def _steps(run: Run, survey: Survey, *, copied: bool) -> tuple[str, ...]:
    how = "a copy (this volume is not known to have hard links)" if copied else "a hard link"
    retention = run.retention
    if retention.pinned:
        end = "keep the old file as a backup, pinned"
    elif retention.keeps:
        end = f"keep the old file as a backup for {retention.retain_for:,.0f} seconds"
    else:
        end = "delete the old file, as soon as the new one is proven to be in place"
    return (
        "lock the database, and bring it to rest (its journal worked off)",
        f"build a converted copy of {survey.rows:,} rows beside it, and make it durable",
        *(f"on the copy: {step}" for step in survey.steps),
        "compare every row of the copy with the database",
        f"keep the old file under a second name, by {how}",
        "put the copy in its place by one rename, with nobody else having the database open",
        end,
    )
