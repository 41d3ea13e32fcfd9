"""Looking before anything is written: what a file is in, what is to be done, and what stands in the way."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from format_store import errors
from format_store.engines import kept
from format_store.engines.base import Survey
from format_store.engines.sqlite import migrations, parameters, running
from format_store.engines.sqlite.migrations import Step
from format_store.engines.sqlitedict import fit
from format_store.engines.sqlitedict import schema as tables_of
from format_store.engines.sqlitedict import survey as sqlitedict
from format_store.formats import MARKER_NAME, Format
from format_store.run import Run
from format_store.sqlitefile import quote_name, tables_with_rows_of_their_own

_OPERATION = "check"
#: A page of a b-tree that has just been written is full to so much of it at least.
_GROWTH = 1.25


# --- what is to be done -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What takes a database from one format to another.

    ``part``: the formats of sqlitedict's tables before and after, where they differ. ``page_size`` and
    ``auto_vacuum`` are what they are to be (bytes; SQLite's number); ``repack``: that takes writing every page anew.
    """

    steps: tuple[Step, ...]
    part: tuple[Format, Format] | None
    page_size: int
    auto_vacuum: int
    repack: bool


def work(connection: sqlite3.Connection, source: Format, target: Format, path: Path) -> Work:
    """Find out. Raises MigrationsDiffer, NoWayBack, UnsupportedSchema."""
    before, after = part_of(source), part_of(target)
    if (before is None) != (after is None):
        told, silent = ("present format", "target") if before else ("target", "present format")
        raise errors.UnsupportedSchema(
            f"the {told} tells how sqlitedict's tables lie, and the {silent} does not",
            operation=_OPERATION,
            path=path,
            hint="Nothing was touched. Write `sqlitedict` beside `sqlite` in both formats, or in neither.",
        )
    steps = migrations.way(
        parameters.applied(source.parameters), parameters.applied(target.parameters), path
    )
    size, vacuum = (int(pragma(connection, name)) for name in ("page_size", "auto_vacuum"))
    wanted_size = target.parameters["pageSize"] or size
    mode = target.parameters["autoVacuum"]
    wanted_vacuum = vacuum if mode is None else parameters.AUTO_VACUUM.index(mode)
    differ = before is not None and after is not None and not before.same_bytes_as(after)
    return Work(
        steps,
        (before, after) if differ and before and after else None,
        wanted_size,
        wanted_vacuum,
        # Between full and incremental it is a word in the header; to or from none, pages of pointers come or go.
        repack=wanted_size != size or (wanted_vacuum == 0) != (vacuum == 0),
    )


def part_of(format: Format) -> Format | None:
    """How sqlitedict's tables lie, as a format of their own."""
    part: Mapping[str, Any] | None = format.parameters["sqlitedict"]
    return None if part is None else Format("sqlitedict", part)


def protected(connection: sqlite3.Connection, format: Format) -> frozenset[str]:
    """Tables (folded) that are sqlitedict's, where the format tells how these lie: migrations leave them alone."""
    part = part_of(format)
    if part is None:
        return frozenset()
    names = part.parameters["tables"]
    return frozenset(
        tables_of.fold(table.name)
        for table in tables_of.tables(connection)
        if names is None or table.name in names
    )


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    """The value of one that answers with a single one, of the database ``main``."""
    return connection.execute(f"PRAGMA main.{name}").fetchone()[0]


def survey(
    run: Run,
    connection: sqlite3.Connection,
    source: Format,
    target: Format,
    *,
    refuse_rows: bool,
) -> Survey:
    """Count rows, estimate bytes, refuse what can be refused now. Raises Refused kinds."""
    todo = work(connection, source, target, run.primary)
    converted: frozenset[str] = frozenset()
    staging = pragma(connection, "page_count") * pragma(connection, "page_size")
    if todo.part is not None:
        part = sqlitedict.survey(run, connection, *todo.part, refuse_rows=refuse_rows)
        converted = frozenset(name for name, _ in part.tables)
        staging = max(staging, part.staging_bytes)
    kept.refuse_unknown_words(connection, run.primary, converted, repacked=todo.repack)
    # A migration may write every table anew, before or after it drops the old one.
    staging = int(staging * _GROWTH) * (2 if todo.steps else 1)
    # Every table and every index takes a page at least.
    objects = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return Survey(
        counted(connection),
        staging + int(objects) * todo.page_size,
        (*_file_level(connection, target, todo), *(f"run {step}" for step in todo.steps)),
    )


def _file_level(connection: sqlite3.Connection, target: Format, todo: Work) -> list[str]:
    """How the file will lie otherwise than it does, in words."""
    size, vacuum = (int(pragma(connection, name)) for name in ("page_size", "auto_vacuum"))
    found = []
    if size != todo.page_size:
        found.append(f"pages of {todo.page_size:,} bytes instead of {size:,}")
    if vacuum != todo.auto_vacuum:
        names = parameters.AUTO_VACUUM
        found.append(f"auto-vacuum {names[todo.auto_vacuum]} instead of {names[vacuum]}")
    wanted, mode = target.parameters["journalMode"], pragma(connection, "journal_mode")
    if wanted is not None and (wanted == "wal") != (mode == "wal"):
        found.append(f"journal mode {wanted} instead of {mode}")
    return found


def counted(connection: sqlite3.Connection) -> tuple[tuple[str, int], ...]:
    """Every table that stores rows, and how many."""
    return tuple(
        (name, int(connection.execute(f"SELECT count(*) FROM {quote_name(name)}").fetchone()[0]))
        for name in tables_with_rows_of_their_own(connection)
    )


# --- what a file is in ------------------------------------------------------------------------------------


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the schema holds nothing, our marker apart: a file that no application has written to."""
    (others,) = connection.execute(
        "SELECT count(*) FROM sqlite_schema WHERE lower(name) <> ?", (MARKER_NAME,)
    ).fetchone()
    return int(others) == 0


def bare(target: Format) -> Format:
    """The format of a file that no migration has been run on, and which sqlitedict itself wrote, if it did."""
    part: dict[str, Any] = {} if part_of(target) is None else {"sqlitedict": {}}
    return Format("sqlite", parameters.parse(part))


def candidates(declared: Sequence[Format], target: Format) -> list[Format]:
    """What a file without a marker may be in: what is declared, with or without sqlitedict as the target has it.

    If no more than sqlitedict's formats are declared, or nothing is, then no migration has been run. The target
    counts where checks can tell that each of its migrations has been.
    """
    with_part = part_of(target) is not None
    lifted = [known for format in declared if (known := format.under("sqlite")) is not None]
    found = [
        _without_file_level(format)
        for format in lifted
        if (part_of(format) is not None) == with_part
    ]
    if not any(format.engine == "sqlite" for format in declared) and not with_part:
        found.append(bare(target))
    if all(one.checks for one in parameters.applied(target.parameters)):
        found.append(_without_file_level(target))
    return found


def _without_file_level(format: Format) -> Format:
    """Nobody has to know the page size of a file beforehand: it says so itself."""
    free = {"pageSize": None, "autoVacuum": None, "journalMode": None}
    return Format(format.engine, {**format.parameters, **free})


def identify(
    run: Run, connection: sqlite3.Connection, found: Sequence[Format]
) -> tuple[Format, ...]:
    """Those of the candidates that the file fits, the ones with most migrations.

    By checks, and where sqlitedict's tables have rows, by these rows.
    """
    fitting = [format for format in found if _first_untrue(connection, format) is None]
    parts = [part for format in fitting if (part := part_of(format)) is not None]
    if parts and fit.has_rows(connection) and tables_of.tables(connection):
        known = sqlitedict.identify(run, connection, _distinct(parts))
        fitting = [
            format
            for format in fitting
            if (part := part_of(format)) is not None
            and any(part.same_bytes_as(one) for one in known)
        ]
    elif parts:
        # Tables without rows, or none: sqlitedict's own, as far as anybody can tell.
        fitting = [
            Format(
                format.engine,
                {**format.parameters, "sqlitedict": bare(format).parameters["sqlitedict"]},
            )
            for format in fitting
        ]
    most = max((len(parameters.applied(format.parameters)) for format in fitting), default=0)
    return tuple(
        _distinct(
            [format for format in fitting if len(parameters.applied(format.parameters)) == most]
        )
    )


def _distinct(formats: Sequence[Format]) -> list[Format]:
    found: list[Format] = []
    for format in formats:
        if not any(format.same_bytes_as(known) for known in found):
            found.append(format)
    return found


def misfit(connection: sqlite3.Connection, format: Format) -> str | None:
    """What tells that a file is not in this format, in words."""
    found = _first_untrue(connection, format)
    part = part_of(format)
    return found or (None if part is None else fit.misfit(connection, part))


def _first_untrue(connection: sqlite3.Connection, format: Format) -> str | None:
    for migration in parameters.applied(format.parameters):
        found = running.first_untrue(connection, migration)
        if found is not None:
            return found
    return None
