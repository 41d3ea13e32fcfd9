"""The engine ``shelve``: files of ``shelve`` in Python 3.13 and later, which are SQLite databases of pickles."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from format_store import Format, errors
from format_store.codecs import BadValue
from format_store.engines.base import Job, Obstacle, Survey, distinct
from format_store.run import Run
from format_store.sqlitefile import connect, has_rows, marker_of, quote_text, sqlite_errors, uri
from shelve_formats import rows, table
from shelve_formats.table import TABLE

_BATCH_FAILPOINT = "build.after-batch"


class ShelveEngine:
    """Implements ``format_store.engines.base.Engine``. Parameters: ``valueCodec`` and ``compression``."""

    name = "shelve"

    # --- formats ----------------------------------------------------------------------------------

    def parse(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return table.parse(parameters)

    def spec(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return dict(parameters)

    def on_disk(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return parameters

    def describe(self, parameters: Mapping[str, Any]) -> str:
        packed = parameters["compression"]
        return str(parameters["valueCodec"]) + ("" if packed == "none" else f" {packed}")

    def of_empty(self, target: Format) -> Format:
        del target
        return Format(self.name, table.parse({}))

    # --- what a file is in --------------------------------------------------------------------------

    def has_rows(self, connection: sqlite3.Connection) -> bool:
        return has_rows(connection)

    def require_as_marked(self, connection: sqlite3.Connection, format: Format, path: Path) -> None:
        found = self.misfit(connection, format)
        if found is not None:
            raise errors.MarkerMismatch(
                f"the marker says {format}, but there is {found}",
                operation="check",
                path=path,
                hint="Nothing was touched. An application that does not know the format has written to it.",
            )

    def candidates(self, declared: Sequence[Format], target: Format) -> list[Format]:
        return distinct(self.name, [*declared, target])

    def identify(
        self, run: Run, connection: sqlite3.Connection, candidates: Sequence[Format]
    ) -> tuple[Format, ...]:
        fitting = [
            format
            for format in candidates
            if table.exists(connection) and self.misfit(connection, format) is None
        ]
        if len(fitting) < 2:
            return tuple(fitting)
        return tuple(
            format for format in fitting if rows.undecodable(run, connection, format) is None
        )

    def misfit(self, connection: sqlite3.Connection, format: Format) -> str | None:
        return table.rows_that_do_not_fit(connection, format) if table.exists(connection) else None

    # --- looking ahead ------------------------------------------------------------------------------

    def survey(
        self,
        run: Run,
        connection: sqlite3.Connection,
        source: Format,
        target: Format,
        *,
        refuse_rows: bool,
    ) -> Survey:
        table.require_nothing_else(connection, run.primary)
        if refuse_rows:
            self.require_as_marked(connection, source, run.primary)
        count = 0
        if table.exists(connection):
            count = int(connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0])
        pages, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "page_size")
        )
        # What is unpacked has to fit, too: five times is what text compresses to.
        unpacked = source.parameters["compression"] != target.parameters["compression"] == "none"
        return Survey(((TABLE, count),), pages * size * (6 if unpacked else 2))

    def obstacles(
        self, run: Run, connection: sqlite3.Connection, source: Format, target: Format, limit: int
    ) -> list[Obstacle]:
        if not table.exists(connection):
            return []
        return rows.obstacles(run, connection, source, target, limit)

    # --- the copy -----------------------------------------------------------------------------------

    def build(self, job: Job) -> None:
        with (
            sqlite_errors("build", job.staging_path),
            closing(connect(job.source_path, mode="ro")) as source,
            closing(connect(job.staging_path, mode="rwc")) as staging,
            job.run.abort.connection(source),
            job.run.abort.connection(staging),
        ):
            # Any error discards the copy, and whoever calls makes it durable: no journal, no fsync.
            staging.execute("PRAGMA main.journal_mode=OFF")
            staging.execute("PRAGMA main.synchronous=OFF")
            staging.execute("BEGIN")
            staging.execute(table.create_statement(job.target))
            if table.exists(source):
                self._fill(job, source, staging)
            staging.execute(job.marker.create_statement())
            staging.execute("COMMIT")
            if job.journal_mode == "wal":
                staging.execute("PRAGMA main.journal_mode=WAL")

    def _fill(self, job: Job, source: sqlite3.Connection, staging: sqlite3.Connection) -> None:
        done = 0
        keys = source.cursor().execute(f"SELECT key FROM {TABLE} ORDER BY rowid")
        for chunk in rows.recoded(job.run, source, job.source, job.target):
            staging.executemany(
                f"INSERT INTO {TABLE} (rowid, key, value) VALUES (?, ?, ?)",
                [(rowid, next(keys)[0], value) for rowid, value in chunk],
            )
            done += len(chunk)
            job.run.observer.progress(done, job.survey.rows)
            if __debug__:
                job.run.failpoints.hit(_BATCH_FAILPOINT)

    def verify(self, job: Job) -> None:
        with (
            sqlite_errors("verify", job.staging_path),
            closing(connect(job.staging_path)) as staging,
            job.run.abort.connection(staging),
        ):
            staging.execute("PRAGMA query_only=ON")
            if staging.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise _wrong(job, "integrity_check finds damage")
            if marker_of(staging, job.staging_path) != job.marker:
                raise _wrong(job, "its marker does not read back")
            staging.execute(f"ATTACH DATABASE {quote_text(uri(job.source_path, 'ro'))} AS source")
            table.require_nothing_else(staging, job.staging_path)
            if not table.exists(staging):
                raise _wrong(job, "its table is missing")
            if job.survey.rows or _count(staging, f"main.{TABLE}"):
                self._compare(job, staging)

    def _compare(self, job: Job, staging: sqlite3.Connection) -> None:
        expected = _count(staging, f"source.{TABLE}")
        # Keys by their bytes and types; plain equality would take 1 for 1.0.
        equal = _count(
            staging,
            f"main.{TABLE} AS a NOT INDEXED JOIN source.{TABLE} AS b NOT INDEXED ON a.rowid = b.rowid "
            "WHERE typeof(a.key) = typeof(b.key) AND a.key IS b.key AND typeof(a.value) = 'blob'",
        )
        if not expected == equal == _count(staging, f"main.{TABLE}"):
            raise _wrong(job, f"{expected:,} rows became {equal:,}")
        try:
            rows.compare(job.run, staging, job.source, job.target)
        except BadValue as error:
            raise _wrong(job, f"row {error.rowid}: {error.why}") from error

    def check(
        self, run: Run, path: Path, format: Format, *, tolerate_forbidden: bool = False
    ) -> int:
        with (
            sqlite_errors("verify", path),
            closing(connect(path)) as connection,
            run.abort.connection(connection),
        ):
            found = connection.execute("PRAGMA integrity_check(5)").fetchall()
            if found != [("ok",)]:
                raise errors.CorruptDatabase(
                    f"integrity_check: {found}",
                    operation="verify",
                    path=path,
                    hint="The database was left as it is; restore it from a backup.",
                )
            if not table.exists(connection):
                return 0
            bad = rows.undecodable(run, connection, format, tolerate_forbidden=tolerate_forbidden)
            if bad is not None:
                raise errors.VerificationFailed(
                    f"key {rows.key_of(connection, bad.rowid)}: {bad.why}",
                    operation="verify",
                    path=path,
                    hint="The file was left as it is. Restore the record, or the file, from a backup.",
                )
            return _count(connection, TABLE)


def _count(connection: sqlite3.Connection, of: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {of}").fetchone()[0])


def _wrong(job: Job, what: str) -> errors.VerificationFailed:
    return errors.VerificationFailed(
        f"the converted copy is wrong: {what}",
        operation="verify",
        path=job.source_path,
        hint="The copy was discarded; the database is as it was.",
    )
