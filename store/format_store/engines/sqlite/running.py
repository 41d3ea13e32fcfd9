"""Running migrations on the staging copy: each in a transaction of its own, under an authorizer.

Foreign keys are not enforced meanwhile (rebuilding a table that others refer to takes that,
https://www.sqlite.org/lang_altertable.html#otheralter); what they say is checked before the transaction ends.
A statement that fails ends the whole conversion, and the copy is discarded: nothing is ever rolled back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from format_store import errors
from format_store.engines.base import Job
from format_store.engines.sqlite.authorizer import Guard
from format_store.engines.sqlite.migrations import Migration, Step, statements
from format_store.engines.sqlitedict.schema import fold, other_objects
from format_store.sqlitefile import (
    SQLITE_ERROR,
    connect,
    quote_name,
    tables_with_rows_of_their_own,
    wrap,
)

_OPERATION = "migrate"
#: Errors of SQLite that are about the file or the volume, and not about what the migration asks for.
_NOT_ITS_FAULT = (
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM,
)  # fmt: skip
_MAX_SHOWN = 120
#: What is noted of every guard, by these names, for the verification.
NOTED = ("touched", "header", "altered")


def run(
    job: Job, staging: sqlite3.Connection, steps: Iterable[Step], protected: frozenset[str]
) -> None:
    """Run ``steps`` in turn; ``job.notes`` gets what they have changed (``Guard``), and the schema that they leave.

    Raises MigrationFailed, and what SQLite's errors about the file are (OutOfSpace, Aborted …).
    """
    staging.execute("PRAGMA foreign_keys=OFF")
    job.notes["shadows"] = _shadow_tables(staging)
    for step in steps:
        job.run.check_abort(_OPERATION)
        guard = Guard(protected)
        staging.execute("BEGIN IMMEDIATE")
        for statement in statements(step.sql):
            with _blamed(job, step, statement, guard), guard.over(staging):
                for _ in staging.execute(statement):
                    pass
        _require_foreign_keys(job, staging, step, guard.touched)
        if not step.back:
            _require_checks(job, staging, step)
        staging.execute("COMMIT")
        for kind in NOTED:
            job.notes.setdefault(kind, set()).update(getattr(guard, kind))
        if __debug__:
            job.run.failpoints.hit("build.after-migration")
    job.notes["schema"] = set(map(repr, other_objects(staging, [])))


def _shadow_tables(connection: sqlite3.Connection) -> set[str]:
    """Where virtual tables keep what they hold. Some write there when a transaction ends, and ask nobody."""
    rows = connection.execute("SELECT name FROM pragma_table_list WHERE type = 'shadow'")
    return {fold(str(name)) for (name,) in rows}


def _require_checks(job: Job, staging: sqlite3.Connection, step: Step) -> None:
    for check in step.migration.checks:
        guard = Guard()
        with _blamed(job, step, check, guard):
            answer = answer_of(staging, check, guard)
        if not is_true(answer):
            raise _failed(
                job,
                step,
                f"its check {_shown(check)} gives {_shown(repr(answer))}, which is not true",
            )


def answer_of(connection: sqlite3.Connection, query: str, guard: Guard) -> object:
    """The first column of a query's first row; None where there is none. Raises sqlite3.Error."""
    with guard.over(connection, reading=True):
        row = connection.execute(query).fetchone()
    return None if row is None else row[0]


def is_true(answer: object) -> bool:
    """As SQLite sees it: a number that is not 0."""
    return isinstance(answer, int | float) and answer != 0


def first_untrue(connection: sqlite3.Connection, migration: Migration) -> str | None:
    """Which of its checks tells that a migration has not been run on this database, in words."""
    for check in migration.checks:
        try:
            answer = answer_of(connection, check, Guard())
        except (*SQLITE_ERROR, sqlite3.Warning) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_ITS_FAULT:
                raise
            return f"the check {_shown(check)} of {migration}: {error}"
        if not is_true(answer):
            return f"the check {_shown(check)} of {migration} gives {_shown(repr(answer))}"
    return None


def _require_foreign_keys(
    job: Job, staging: sqlite3.Connection, step: Step, touched: set[str]
) -> None:
    """No row refers to nothing that did not so before. Raises MigrationFailed.

    A database may come with such rows: SQLite enforces foreign keys only where it is asked to.
    """
    tables = [
        table
        for table in tables_with_rows_of_their_own(staging)
        if touched & {fold(table), *_parents(staging, table)}
    ]
    found = _violations(staging, tables)
    if found:
        with closing(connect(job.source_path, mode="ro")) as source:
            found -= _violations(source, tables)
    if found:
        raise _failed(job, step, f"foreign_key_check: {_violation(min(found, key=str))}")


def _parents(connection: sqlite3.Connection, table: str) -> set[str]:
    listed = connection.execute(f"PRAGMA foreign_key_list({quote_name(table)})")
    return {fold(str(row[2])) for row in listed}


def _violations(connection: sqlite3.Connection, tables: Iterable[str]) -> set[tuple[object, ...]]:
    """Rows whose foreign keys lead nowhere, and tables whose foreign keys cannot be followed at all."""
    found: set[tuple[object, ...]] = set()
    for table in tables:
        try:
            found.update(connection.execute(f"PRAGMA foreign_key_check({quote_name(table)})"))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
                raise
            found.add((table, str(error)))
    return found


def _violation(found: tuple[object, ...]) -> str:
    if len(found) == 2:
        return f"{found[0]}: {found[1]}"
    table, rowid, parent, _ = found
    return f"row {rowid} of {table} has no row in {parent}"


@contextmanager
def _blamed(job: Job, step: Step, statement: str, guard: Guard) -> Iterator[None]:
    try:
        yield
    # Before Python 3.12 two statements in one are a Warning, which is no Error.
    except (*SQLITE_ERROR, sqlite3.Warning) as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if isinstance(error, SQLITE_ERROR) and code in _NOT_ITS_FAULT:
            raise wrap(error, _OPERATION, job.staging_path) from error
        why = str(error) if guard.denied is None else f"{guard.denied} is not allowed"
        raise _failed(job, step, f"{why}, in: {_shown(statement)}") from error


def _shown(text: str) -> str:
    """A statement in one line, and not all of a long one."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 1] + "…"


def _failed(job: Job, step: Step, why: str) -> errors.MigrationFailed:
    return errors.MigrationFailed(
        f"{step}: {why}",
        operation=_OPERATION,
        path=job.source_path,
        hint="The copy that it ran on was discarded; the database is as it was. Correct the migration, and try "
        "it: storageformat plan --rehearse.",
    )
