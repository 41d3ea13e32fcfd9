"""What every engine offers to the protocol."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from format_store import errors
from format_store.formats import Format, Marker
from format_store.run import Run


@dataclass(frozen=True)
class Survey:
    """What a conversion would do.

    ``staging_bytes``: upper estimate of the staging copy's size, and of what SQLite sorts beside it meanwhile.
    ``steps``: what is done to the copy besides copying rows, in words for a plan.
    """

    tables: tuple[tuple[str, int], ...]
    staging_bytes: int
    steps: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.tables)


@dataclass(frozen=True)
class Obstacle:
    """A key or value that the target cannot hold, as ``plan`` lists them; ``column``: key or value."""

    column: str
    table: str
    rowid: int
    key: str
    what: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "table": self.table,
            "rowid": self.rowid,
            "key": self.key,
            "what": self.what,
        }


@dataclass(frozen=True)
class Job:
    """One staging copy to build: the source is at rest and locked against writers meanwhile."""

    run: Run
    source_path: Path
    staging_path: Path
    source: Format
    target: Format
    marker: Marker
    journal_mode: str
    survey: Survey
    temporary: Path = field(default_factory=Path)
    digests: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    """What the engine notes while it builds, for its own verification: by table, rows and digest of chunks."""
    notes: dict[str, set[str]] = field(default_factory=dict)
    """Likewise, by an engine's own words."""

    def wrong(self, what: str) -> errors.VerificationFailed:
        """The error for a copy that does not say what its source says."""
        return errors.VerificationFailed(
            f"the converted copy is wrong: {what}",
            operation="verify",
            path=self.source_path,
            hint="The copy was discarded; the database is as it was. Please report this with the formats.",
        )


def distinct(engine: str, formats: Iterable[Format]) -> list[Format]:
    """Those of an engine, in their order, without those that are the same on disk as an earlier one."""
    found: list[Format] = []
    for format in formats:
        if format.engine == engine and not any(format.same_bytes_as(known) for known in found):
            found.append(format)
    return found


class Engine(Protocol):
    """All methods raise ``StoreError`` kinds only; ``path`` is for their messages."""

    name: str

    def parse(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Validate and fill in defaults. Raises InvalidFormat."""
        ...

    def spec(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of ``parse``, without defaults."""
        ...

    def on_disk(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters that the bytes depend on."""
        ...

    def describe(self, parameters: Mapping[str, Any]) -> str:
        """A few words for messages."""
        ...

    def of_empty(self, target: Format) -> Format:
        """The format that a database without rows is taken for, which is to become ``target``."""
        ...

    def has_rows(self, connection: sqlite3.Connection) -> bool:
        """Whether the database holds anything whose format has to be known."""
        ...

    def require_as_marked(self, connection: sqlite3.Connection, format: Format, path: Path) -> None:
        """The tables are in the format that the marker tells. Raises MarkerMismatch."""
        ...

    def candidates(self, declared: Sequence[Format], target: Format) -> list[Format]:
        """What a file without a marker may be in, each format once: ``distinct`` is right for most engines."""
        ...

    def identify(
        self, run: Run, connection: sqlite3.Connection, candidates: Sequence[Format]
    ) -> tuple[Format, ...]:
        """Those of ``candidates`` that every row fits."""
        ...

    def misfit(self, connection: sqlite3.Connection, format: Format) -> str | None:
        """The first row that is not of ``format``, in words for a message; None if there is none."""
        ...

    def survey(
        self,
        run: Run,
        connection: sqlite3.Connection,
        source: Format,
        target: Format,
        *,
        refuse_rows: bool,
    ) -> Survey:
        """Measure, and refuse what can be refused without decoding. Raises Refused kinds.

        ``refuse_rows=False`` leaves rows of a wrong type to ``obstacles``, which lists all of them.
        """
        ...

    def obstacles(
        self, run: Run, connection: sqlite3.Connection, source: Format, target: Format, limit: int
    ) -> list[Obstacle]:
        """Every key and value (up to ``limit``) that the target cannot hold; decodes all of them."""
        ...

    def build(self, job: Job) -> None:
        """Write the staging copy, marker included, and close it. Durability is the caller's."""
        ...

    def verify(self, job: Job) -> None:
        """Compare the staging copy, opened anew, with the source. Raises VerificationFailed."""
        ...

    def check(
        self, run: Run, path: Path, format: Format, *, tolerate_forbidden: bool = False
    ) -> int:
        """Decode every row of ``path`` and check the file's structure; returns the number of rows.

        ``tolerate_forbidden``: a value that may not be decoded here (a pickle of an application's class) is
        then not looked into, rather than wrong.
        """
        ...
