"""One attempt to convert, from settling the database to the swap.

Until the swap every error discards the staging copy and leaves the primary as it was; after it, the work that
is left is ``recovery.complete``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from format_store import (
    beside,
    clock,
    durable,
    ending,
    errors,
    lease,
    sqlitefile,
)
from format_store.abort import Abort
from format_store.engines import registry
from format_store.engines.base import Engine, Job, Survey
from format_store.formats import Format, Marker
from format_store.layout import WorkDirectory
from format_store.manifest import FileStat, Manifest
from format_store.observer import Phase, Recovery
from format_store.patience import patiently
from format_store.results import Outcome, Result
from format_store.run import Run, os_errors
from format_store.version import VERSION


def attempt(
    run: Run,
    present: Format,
    target: Format,
    survey: Survey,
    started: float,
    recoveries: tuple[Recovery, ...],
) -> Result:
    """Convert the primary from ``present`` to ``target``. The caller holds the lock. Raises StoreError kinds."""
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
        marker = Marker(target, run.new_id(), clock.now(), VERSION, previous=present)
        manifest = Manifest(
            conversion_id=marker.conversion_id,
            database=run.primary.name,
            created_at=marker.converted_at,
            started_at=started,
            tool_version=VERSION,
            source_format=present,
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
        found = registry.common(present, target)
        assert found is not None, "a survey was made"
        engine, before, after = found
        job = Job(
            run, run.primary, work.staging, before, after, marker, journal_mode, survey, work.path,
        )  # fmt: skip
        manifest = _build_and_verify(engine, job, work, manifest)
        run.check_abort("swap")
        backup = ending.commit(run, work, manifest)
    except BaseException as error:
        ending.give_up(run, work, manifest, error)
        raise
    return Result.of(
        run, Outcome.CONVERTED, started, recoveries,
        source=present, target=target, conversion_id=marker.conversion_id,
        rows=survey.rows, bytes_before=source.size, backup=backup,
    )  # fmt: skip


def _note(run: Run) -> FileStat:
    """Stat of the source at rest; the lease tells that nobody has it open."""
    with lease.take(run.primary, operation="settle", unchecked=run.openers_unchecked) as held:
        return FileStat.of(held.stat())


def _build_and_verify(
    engine: Engine, job: Job, work: WorkDirectory, manifest: Manifest
) -> Manifest:
    run = job.run
    # Outermost: its descriptor may be closed only when no connection holds a lock on the source any more.
    with _digest_beside(run, manifest) as source_digest:
        with _writers_locked_out(run, manifest), _temporary_files_in(work):
            run.observer.phase(Phase.BUILDING)
            with os_errors("build", work.staging):
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
        with os_errors("settle", run.primary):
            found = FileStat.of(os.fstat(descriptor))
        if found != manifest.source:
            raise _written_to(run)
        with beside.running(lambda stop: _digest(run, descriptor, stop)) as digest:
            yield digest
    finally:
        durable.let_go(descriptor)


@contextmanager
def _synced_beside(run: Run, work: WorkDirectory) -> Iterator[beside.Task[tuple[FileStat, str]]]:
    """Owner, mode and attributes; then content and name made durable, and digested, while the body runs."""
    descriptor = os.open(work.staging, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def sync(stop: Abort) -> tuple[FileStat, str]:
        with os_errors("sync", work.staging):
            durable.fsync_descriptor(descriptor)
            return FileStat.of(os.fstat(descriptor)), _digest(run, descriptor, stop)

    try:
        if os.fstat(descriptor).st_nlink != 1:
            raise errors.UnsafeStateDirectory(
                "the converted copy is not a file of one name any more",
                operation="sync",
                path=work.staging,
                hint="The copy was discarded; the database is as it was. Find out who writes there.",
            )
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
        os_errors("lock source", run.primary),
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
