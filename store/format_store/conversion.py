"""The conversion: one run from the lock to the clean-up, in the order of the protocol.

    lock → recover → refuse → settle → note → build → fsync → verify → swap (under leases) → clean up

``convert`` and ``recover`` are the same run; ``recover`` has no target. Until the swap every error discards
the staging copy and leaves the primary as it was; after it, the work that is left is ``recovery.complete``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from format_store import (
    beside,
    clock,
    durable,
    ending,
    errors,
    lease,
    lock,
    preflight,
    recovery,
    sqlitefile,
)
from format_store.abort import Abort
from format_store.engines import registry
from format_store.engines.base import Engine, Job, Survey
from format_store.formats import Format, Marker
from format_store.layout import Layout, WorkDirectory
from format_store.manifest import FileStat, Manifest
from format_store.observer import Phase, Recovery
from format_store.patience import patiently
from format_store.results import Outcome, Result
from format_store.run import Run, os_errors
from format_store.version import VERSION


@dataclass(frozen=True)
class Decision:
    """What is to be done with the primary, decided without changing it. ``survey`` is None for 'nothing'."""

    present: Format | None
    survey: Survey | None
    size: int


def convert(run: Run, target: Format, unmarked: Sequence[Format]) -> Result:
    """Bring the database into ``target``; see ``format_store.convert``."""
    started = clock.seconds()
    if preflight.require_plain_file(run.layout) is None and not durable.exists(run.layout.state):
        # Nothing is there and nothing ever was: leave no state directory beside a path that may be a typo.
        return Result.of(run, Outcome.ABSENT, started, (), target=target)
    run.observer.phase(Phase.LOCKING)
    try:
        with lock.exclusive(run.layout):
            recoveries = recovery.recover_pending(run)
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
            return _convert(run, target, decision, started, recoveries)
    finally:
        run.observer.phase(Phase.IDLE)


def recover(run: Run) -> Result:
    """End what an earlier run left, and nothing else."""
    started = clock.seconds()
    try:
        if not durable.exists(run.layout.work) and not durable.exists(run.layout.rehearsal):
            # Nothing was ever pending here: do not even make a state directory.
            return Result.of(run, Outcome.UNCHANGED, started, ())
        run.observer.phase(Phase.LOCKING)
        with lock.exclusive(run.layout):
            recoveries = recovery.recover_pending(run)
            outcome = Outcome.RECOVERED if recoveries else Outcome.UNCHANGED
            return Result.of(run, outcome, started, recoveries)
    finally:
        run.observer.phase(Phase.IDLE)


def decide(
    run: Run, target: Format, unmarked: Sequence[Format], *, refuse_rows: bool = True
) -> Decision:
    """Find out the present format and what stands in the way. Changes nothing but what opening does.

    ``refuse_rows=False``: a plan lists rows that cannot be converted, instead of stopping at the first.

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
            present = engine.of_empty()
        else:
            present = _identify(run, connection, engine, target, unmarked)
            refuse_rows = False  # each row has just been looked at
        if present.engine != target.engine:
            raise errors.UnsupportedSchema(
                f"is {present}; there is no way from the engine {present.engine} to {target.engine}",
                operation="check",
                path=path,
                hint="Nothing was touched. Name a target of the same engine.",
            )
        return present, engine.survey(run, connection, present, target, refuse_rows=refuse_rows)


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
    candidates: list[Format] = []
    for candidate in [*unmarked, target]:
        same_engine = candidate.engine == engine.name
        if same_engine and not any(candidate.same_bytes_as(known) for known in candidates):
            candidates.append(candidate)
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


def _convert(
    run: Run,
    target: Format,
    decision: Decision,
    started: float,
    recoveries: tuple[Recovery, ...],
) -> Result:
    assert decision.survey is not None
    assert decision.present is not None
    work: WorkDirectory | None = None
    manifest: Manifest | None = None
    try:
        run.observer.phase(Phase.SETTLING)
        run.check_abort("settle")
        with os_errors("settle", run.primary):
            journal_mode = sqlitefile.settle(run.layout)
            if __debug__:
                run.failpoints.hit("settle.after")
            source = _note(run)
        marker = Marker(
            target, clock.new_conversion_id(), clock.now(), VERSION, previous=decision.present
        )
        manifest = Manifest(
            conversion_id=marker.conversion_id,
            database=run.primary.name,
            created_at=marker.converted_at,
            started_at=started,
            tool_version=VERSION,
            source_format=decision.present,
            target_format=target,
            source=source,
            retain_for=run.retention.retain_for,
            pinned=run.retention.pinned,
        )
        work = run.layout.work_directory(marker.conversion_id)
        with os_errors("prepare", work.path):
            durable.make_directory(run.layout.work)
            durable.fsync_directory(run.layout.state)  # also where a killed run made it
            durable.make_directory(work.path)
            if __debug__:
                run.failpoints.hit("prepare.after-directory")
            manifest.save(work)
            if __debug__:
                run.failpoints.hit("prepare.after-manifest")
        job = Job(
            run, run.primary, work.staging, decision.present, target, marker, journal_mode,
            decision.survey, work.path,
        )  # fmt: skip
        manifest = _build_and_verify(job, work, manifest)
        run.check_abort("swap")
        backup = ending.commit(run, work, manifest)
    except BaseException as error:
        ending.give_up(run, work, manifest, error)
        raise
    return Result.of(
        run, Outcome.CONVERTED, started, recoveries,
        source=decision.present, target=target, conversion_id=marker.conversion_id,
        rows=decision.survey.rows, bytes_before=source.size, backup=backup,
    )  # fmt: skip


def _note(run: Run) -> FileStat:
    """Stat of the source at rest; the lease tells that nobody has it open."""
    with lease.take(run.primary, operation="settle", unchecked=run.openers_unchecked) as held:
        return FileStat.of(held.stat())


def _build_and_verify(job: Job, work: WorkDirectory, manifest: Manifest) -> Manifest:
    run = job.run
    engine = registry.get(job.target.engine)
    # Outermost: its descriptor may be closed only when no connection holds a lock on the source any more.
    with _digest_beside(run, manifest) as source_digest:
        with _writers_locked_out(run, manifest), _temporary_files_in(work):
            run.observer.phase(Phase.BUILDING)
            engine.build(job)
            if __debug__:
                run.failpoints.hit("build.after-staging")
            run.observer.phase(Phase.SYNCING)
            run.check_abort("sync")
            with os_errors("sync", work.staging), _synced_beside(run, work) as synced:
                run.observer.phase(Phase.VERIFYING)
                engine.verify(job)
            if __debug__:
                run.failpoints.hit("build.after-fsync")
        if __debug__:
            run.failpoints.hit("verify.after")
        with os_errors("note", work.path):
            ready = manifest.ready(
                source_digest.result(),
                *_staging_at_rest(run, work, synced.result()),
                job.survey.rows,
            )
            ready.save(work)
    if __debug__:
        run.failpoints.hit("verify.after-ready")
    return ready


@contextmanager
def _digest_beside(run: Run, manifest: Manifest) -> Iterator[beside.Task[str]]:
    """The digest of the source, made while the copy is: nobody writes to it meanwhile (as noted, and locked)."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os_errors("settle", run.primary):
        descriptor = patiently(lambda: os.open(run.primary, flags))
    try:
        if FileStat.of(os.fstat(descriptor)) != manifest.source:
            raise _written_to(run)
        with beside.running(lambda stop: _digest(run, descriptor, stop)) as digest:
            yield digest
    finally:
        os.close(descriptor)


@contextmanager
def _synced_beside(run: Run, work: WorkDirectory) -> Iterator[beside.Task[tuple[FileStat, str]]]:
    """Owner, mode and attributes; then content and name made durable, and digested, while the body runs."""
    descriptor = os.open(work.staging, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def sync(stop: Abort) -> tuple[FileStat, str]:
        with os_errors("sync", work.staging):
            durable.fsync_descriptor(descriptor)
            return FileStat.of(os.fstat(descriptor)), _digest(run, descriptor, stop)

    try:
        # The source is open in SQLite here: its metadata is read by path, never by descriptor.
        durable.copy_metadata(run.primary, descriptor)
        with beside.running(sync) as synced:
            yield synced
    finally:
        os.close(descriptor)
    durable.fsync_directory(work.path)


def _digest(run: Run, descriptor: int, stop: Abort) -> str:
    def checkpoint() -> None:
        run.check_abort("digest")
        if stop.requested:
            raise InterruptedError(errno.EINTR, "what it was made for has failed")

    with os_errors("digest", run.primary):
        return durable.digest(descriptor, checkpoint)


def _staging_at_rest(
    run: Run, work: WorkDirectory, synced: tuple[FileStat, str]
) -> tuple[FileStat, str]:
    """Stat and digest of the verified copy, with nobody at it."""
    with lease.take(work.staging, operation="note", unchecked=run.openers_unchecked) as held:
        if FileStat.of(held.stat()) == synced[0]:
            return synced
        raise errors.Failed(
            "the converted copy was written to after it had been made",
            operation="note",
            path=work.staging,
            hint="The copy was discarded; the database is as it was. Find out who writes there.",
        )


@contextmanager
def _writers_locked_out(run: Run, manifest: Manifest) -> Iterator[None]:
    """Hold SQLite's write lock on the source while it is read, so that the copy cannot go stale unseen."""
    with (
        sqlitefile.sqlite_errors("lock source", run.primary),
        closing(sqlitefile.connect(run.primary)) as guard,
    ):
        guard.execute("BEGIN IMMEDIATE")
        # By path, not by a descriptor of our own: closing one would drop the lock just taken.
        if FileStat.of(os.lstat(run.primary)) != manifest.source:
            raise _written_to(run)
        yield
        guard.execute("ROLLBACK")


def _written_to(run: Run) -> errors.InUse:
    return errors.InUse(
        "the database was written to after it had been settled",
        operation="lock source",
        path=run.primary,
        hint="Nothing was changed. Stop the process that writes to it, and try again.",
    )


@contextmanager
def _temporary_files_in(work: WorkDirectory) -> Iterator[None]:
    """SQLite's own temporary files go beside the staging copy: /tmp may be missing or read-only."""
    before = os.environ.get("SQLITE_TMPDIR")
    os.environ["SQLITE_TMPDIR"] = os.fspath(work.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SQLITE_TMPDIR"]
        else:
            os.environ["SQLITE_TMPDIR"] = before


def pending(layout: Layout) -> tuple[str, ...]:
    """Ids of conversions that a recovery has to end."""
    with os_errors("inspect", layout.work):
        return tuple(work.conversion_id for work in layout.pending())


__all__ = ["Decision", "convert", "decide", "pending", "recover"]
