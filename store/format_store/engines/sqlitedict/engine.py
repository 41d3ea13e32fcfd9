"""The engine's face to the protocol; each method is a few lines over the modules beside it.

They are loaded on first use: to see that there is nothing to do, a start needs the parameters and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from format_store.engines.sqlitedict import parameters
from format_store.formats import Format

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from format_store.engines.base import Job, Obstacle, Survey
    from format_store.run import Run


class SqliteDictEngine:
    """Implements ``format_store.engines.base.Engine``."""

    name = "sqlitedict"

    def parse(self, parameters_: Mapping[str, Any]) -> dict[str, Any]:
        return parameters.parse(parameters_)

    def spec(self, parameters_: Mapping[str, Any]) -> dict[str, Any]:
        return parameters.spec(parameters_)

    def on_disk(self, parameters_: Mapping[str, Any]) -> dict[str, Any]:
        return parameters.on_disk(parameters_)

    def describe(self, parameters_: Mapping[str, Any]) -> str:
        return parameters.describe(parameters_)

    def of_empty(self, target: Format) -> Format:
        del target
        return Format(self.name, parameters.parse({}))

    def has_rows(self, connection: sqlite3.Connection) -> bool:
        from format_store.engines.sqlitedict import fit

        return fit.has_rows(connection)

    def require_as_marked(self, connection: sqlite3.Connection, format: Format, path: Path) -> None:
        from format_store.engines.sqlitedict import fit

        fit.require_as_marked(connection, format, path)

    def candidates(self, declared: Sequence[Format], target: Format) -> list[Format]:
        from format_store.engines.base import distinct

        return distinct(self.name, [*declared, target])

    def identify(
        self, run: Run, connection: sqlite3.Connection, candidates: Sequence[Format]
    ) -> tuple[Format, ...]:
        from format_store.engines.sqlitedict import survey

        return survey.identify(run, connection, candidates)

    def misfit(self, connection: sqlite3.Connection, format: Format) -> str | None:
        from format_store.engines.sqlitedict import fit

        return fit.misfit(connection, format)

    def survey(
        self,
        run: Run,
        connection: sqlite3.Connection,
        source: Format,
        target: Format,
        *,
        refuse_rows: bool,
    ) -> Survey:
        from format_store.engines.sqlitedict import survey

        return survey.survey(run, connection, source, target, refuse_rows=refuse_rows)

    def obstacles(
        self, run: Run, connection: sqlite3.Connection, source: Format, target: Format, limit: int
    ) -> list[Obstacle]:
        from format_store.engines.sqlitedict import survey

        return survey.obstacles(run, connection, source, target, limit)

    def build(self, job: Job) -> None:
        from format_store.engines.sqlitedict import build

        build.build(job)

    def verify(self, job: Job) -> None:
        from format_store.engines.sqlitedict import check

        check.verify(job)

    def check(
        self, run: Run, path: Path, format: Format, *, tolerate_forbidden: bool = False
    ) -> int:
        from format_store.engines.sqlitedict import check

        return check.check(run, path, format, tolerate_forbidden=tolerate_forbidden)
