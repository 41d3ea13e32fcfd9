"""Engines that are sqlitedict's but for one mistake each; installed for the tests of the suite itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from format_store import Format
from format_store.engines.base import Job
from format_store.engines.sqlitedict import SqliteDictEngine
from format_store.run import Run


class Unverified(SqliteDictEngine):
    """Takes every copy for right."""

    name = "broken-unverified"

    def verify(self, job: Job) -> None:
        pass


class LosesOne(Unverified):
    """Leaves the last row out, and does not look."""

    name = "broken-loses-one"

    def build(self, job: Job) -> None:
        super().build(job)
        with closing(sqlite3.connect(job.staging_path)) as connection, connection:
            connection.execute("DELETE FROM unnamed WHERE rowid = (SELECT max(rowid) FROM unnamed)")


class Credulous(SqliteDictEngine):
    """Takes a file without a marker for whatever is declared first."""

    name = "broken-credulous"

    def identify(
        self, run: Run, connection: sqlite3.Connection, candidates: Sequence[Format]
    ) -> tuple[Format, ...]:
        del run, connection
        return tuple(candidates[:1])


class Borrowing(SqliteDictEngine):
    """Puts the database aside while it is read: all is well as long as nothing dies."""

    name = "broken-borrowing"

    def build(self, job: Job) -> None:
        aside = job.source_path.with_suffix(".aside")
        job.source_path.rename(aside)
        super().build(replace(job, source_path=aside))
        aside.rename(job.source_path)


class Permissive(SqliteDictEngine):
    """Has every parameter."""

    name = "broken-permissive"

    def parse(self, parameters_: Mapping[str, Any]) -> dict[str, Any]:
        known = super().parse({})
        return super().parse({name: value for name, value in parameters_.items() if name in known})


class Careless(SqliteDictEngine):
    """Lets the errors of SQLite out."""

    name = "broken-careless"

    def identify(
        self, run: Run, connection: sqlite3.Connection, candidates: Sequence[Format]
    ) -> tuple[Format, ...]:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise ValueError("unexpected")
        return super().identify(run, connection, candidates)


class Demanding(SqliteDictEngine):
    """Wants to know the format of what holds nothing."""

    name = "broken-demanding"

    def has_rows(self, connection: sqlite3.Connection) -> bool:
        del connection
        return True


ENGINES: list[type[SqliteDictEngine]] = [
    Unverified, LosesOne, Credulous, Borrowing, Permissive, Careless, Demanding,
]  # fmt: skip
