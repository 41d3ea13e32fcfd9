"""The conversion: one run from the lock to the clean-up, in the order of the protocol.

    lock → recover → refuse → settle → note → build → fsync → verify → swap (under leases) → clean up

``convert`` and ``recover`` are the same run; ``recover`` has no target. Until the swap every error discards
the staging copy and leaves the primary as it was; after it, the work that is left is ``recovery.complete``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from format_store import (
    clock,
    durable,
    errors,
    lease,
    lock,
    preflight,
    sqlitefile,
)
from format_store.engines import registry
from format_store.formats import Format
from format_store.layout import Layout
from format_store.observer import Phase, Recovery
from format_store.results import Outcome, Result
from format_store.run import Run, os_errors

if TYPE_CHECKING:
    from format_store.engines.base import Engine, Survey


@dataclass(frozen=True)
class Decision:
    """What is to be done with the primary, decided without changing it. ``survey`` is None for 'nothing'."""

    present: Format | None
    survey: Survey | None
    size: int


def convert(run: Run, target: Format, unmarked: Sequence[Format]) -> Result:
    """Bring the database into ``target``; see ``format_store.convert``."""
    started = clock.seconds()
    with os_errors("check", run.layout.state, "Nothing was touched."):
        missing = preflight.require_plain_file(run.layout) is None
        if missing and not durable.exists(run.layout.state):
            # Nothing is there and nothing ever was: leave no state directory beside a path that may be a typo.
            return Result.of(run, Outcome.ABSENT, started, (), target=target)
    run.observer.phase(Phase.LOCKING)
    try:
        with lock.exclusive(run.layout):
            recoveries = _recovered(run)
            if preflight.require_plain_file(run.layout) is None:
                return Result.of(run, Outcome.ABSENT, started, recoveries, target=target)
            decision = decide(run, target, unmarked)
            if decision.survey is None:
                return Result.of(
                    run,
                    Outcome.UNCHANGED,
                    started,
                    recoveries,
                    source=decision.present,
                    target=target,
                )
            assert decision.present is not None
            # Loaded only where there is something to do; most starts find that there is not.
            from format_store.attempt import attempt

            return attempt(run, decision.present, target, decision.survey, started, recoveries)
    finally:
        run.observer.phase(Phase.IDLE)


def recover(run: Run) -> Result:
    """End what an earlier run left, and nothing else."""
    started = clock.seconds()
    try:
        with os_errors("recover", run.layout.state, "Nothing was touched."):
            if not durable.exists(run.layout.work) and not durable.exists(run.layout.rehearsal):
                # Nothing was ever pending here: do not even make a state directory.
                return Result.of(run, Outcome.UNCHANGED, started, ())
        run.observer.phase(Phase.LOCKING)
        with lock.exclusive(run.layout):
            recoveries = _recovered(run)
            outcome = Outcome.RECOVERED if recoveries else Outcome.UNCHANGED
            return Result.of(run, outcome, started, recoveries)
    finally:
        run.observer.phase(Phase.IDLE)


def _recovered(run: Run) -> tuple[Recovery, ...]:
    """What was pending, ended. What it takes is loaded only where there is something."""
    with os_errors("recover", run.layout.work):
        if not run.layout.pending() and not durable.exists(run.layout.rehearsal):
            return ()
    from format_store import recovery

    return recovery.recover_pending(run)


def decide(
    run: Run,
    target: Format,
    unmarked: Sequence[Format],
    *,
    refuse_rows: bool = True,
    refuse_openers: bool = True,
) -> Decision:
    """Find out the present format and what stands in the way. Changes nothing but what opening does.

    ``refuse_rows=False``: a plan lists rows that cannot be converted, instead of stopping at the first.
    ``refuse_openers=False``: a plan may be made beside an application that has the database open.

    Raises Refused kinds, InUse, CorruptDatabase.
    """
    run.observer.phase(Phase.CHECKING)
    path = run.primary
    with os_errors("check", path, "Nothing was touched."):
        sqlitefile.refuse_foreign_super_journal(run.layout)
        present, survey = _decide_content(run, target, unmarked, refuse_rows=refuse_rows)
        size = os.stat(path).st_size
        if survey is not None:
            preflight.require_single_link(run.layout, os.lstat(path))
            needed = survey.staging_bytes + preflight.preimage_bytes(run.layout, size)
            preflight.require_space(run.layout, needed)
            if refuse_openers:
                preflight.require_not_open(run.layout, unchecked=run.openers_unchecked)
            # After the lease told that nobody has it open: this reads through a descriptor of its own.
            sqlitefile.read_header(path, operation="check")
    return Decision(present, survey, size)


def _decide_content(
    run: Run, target: Format, unmarked: Sequence[Format], *, refuse_rows: bool
) -> tuple[Format | None, Survey | None]:
    path = run.primary
    engine = registry.get(target.engine)
    with (
        sqlitefile.sqlite_errors("check", path),
        closing(_open_unknown(run)) as connection,
        run.abort.connection(connection),
    ):
        marker = sqlitefile.marker_of(connection, path)
        if marker is not None:
            registry.get(marker.format.engine).require_as_marked(connection, marker.format, path)
            if marker.format.same_bytes_as(target):
                return marker.format, None
            present = marker.format
        elif not engine.has_rows(connection):
            present = engine.of_empty(target)
        else:
            present = _identify(run, connection, engine, target, unmarked)
            refuse_rows = False  # each row has just been looked at
        found = registry.common(present, target)
        if found is None:
            raise errors.UnsupportedSchema(
                f"is {present}; there is no way from the engine {present.engine} to {target.engine}",
                operation="check",
                path=path,
                hint="Nothing was touched. Name a target of the same engine.",
            )
        engine, source, wanted = found
        return present, engine.survey(run, connection, source, wanted, refuse_rows=refuse_rows)


def _open_unknown(run: Run) -> Any:
    try:
        connection = sqlitefile.connect(run.primary)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except BaseException:
            connection.close()
            raise
    except sqlitefile.SQLITE_ERROR as error:
        wrapped = sqlitefile.wrap(error, "check", run.primary)
        if not isinstance(wrapped, errors.TryAgain):
            # No SQLite database at all, or a newer SQLite's: clearer words than "damaged" or "failed".
            lease.refuse_own_descriptors(run.primary, operation="check")
            sqlitefile.read_header(run.primary, operation="check")
        raise wrapped from error
    return connection


def _identify(
    run: Run, connection: Any, engine: Engine, target: Format, unmarked: Sequence[Format]
) -> Format:
    candidates = engine.candidates(unmarked, target)
    fitting = engine.identify(run, connection, candidates)
    if len(fitting) == 1:
        return fitting[0]
    declared = "; ".join(str(candidate) for candidate in candidates)
    if not fitting:
        misfits = [
            f"{candidate}: {found}"
            for candidate in candidates
            if (found := engine.misfit(connection, candidate)) is not None
        ]
        raise errors.UndeclaredFormat(
            "it has no marker, and its rows do not all fit one of the declared formats "
            f"({'; '.join(misfits) or declared})",
            operation="check",
            path=run.primary,
            hint="Nothing was touched. Declare the format it is in (`unmarked`), or find out which rows "
            "differ: storageformat inspect shows what is there.",
        )
    raise errors.AmbiguousFormat(
        f"it has no marker, and its rows fit several declared formats ({'; '.join(map(str, fitting))})",
        operation="check",
        path=run.primary,
        hint="Nothing was touched. Declare only the one that it is in (`unmarked`).",
    )


def pending(layout: Layout) -> tuple[str, ...]:
    """Ids of conversions that a recovery has to end."""
    with os_errors("inspect", layout.work):
        return tuple(work.conversion_id for work in layout.pending())


__all__ = ["Decision", "convert", "decide", "pending", "recover"]
