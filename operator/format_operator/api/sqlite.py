"""The `sqlite` part of a format: how any SQLite file is laid out, and its numbered migrations.

The bounds keep a format within what one object may hold (etcd takes 1.5 MiB) and each rule within the cost that
the API server allows; the server multiplies the bounds of lists that lie in one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from format_operator.api.schema import Choice, Integer, List, Object, Rule, String, prop
from format_operator.api.texts import MAX_PATH, PRINTABLE, SHORTEST, absolute, label

MAX_MIGRATIONS: Final = 64
MAX_SQL: Final = 65536
MAX_CHECKS: Final = 16
MAX_CHECK: Final = 4096
#: The largest whole number that every JSON reader keeps: dates such as 20260131120000 fit.
MAX_NUMBER: Final = 2**53 - 1

_PAGE_SIZES: Final = tuple(2**power for power in range(9, 17))

_SQL: Final = String(MAX_SQL, min_length=1)


@dataclass(frozen=True)
class Migration:
    """One numbered step of a schema."""

    number: int = prop(
        Integer(minimum=1, maximum=MAX_NUMBER, format="int64"),
        "Its place in the order, 1 or more. A database remembers the numbers that it has.",
    )
    sql: str = prop(
        _SQL,
        "The statements that take a database from the migration before to this one.",
    )
    name: str | None = prop(
        label("the name of a migration", "add-customers"),
        "What people call it. Changing it changes nothing.",
        default=None,
    )
    down: str | None = prop(
        _SQL,
        "The statements that take it back. Left out: there is no way back past this migration.",
        default=None,
    )
    checks: tuple[str, ...] = prop(
        List(String(MAX_CHECK, min_length=1), MAX_CHECKS, min_items=1),
        "Queries that must return true after the statements, or the conversion fails and the "
        "database stays as it was.",
        default=(),
    )


@dataclass(frozen=True)
class MigrationsFrom:
    """Migrations that are mounted beside the sidecar instead of written here."""

    folder: str = prop(
        String(
            MAX_PATH,
            min_length=1,
            rules=(absolute("as the sidecar sees it, such as /migrations"), SHORTEST, PRINTABLE),
        ),
        "Absolute path of a folder in the sidecar, such as a mounted ConfigMap. Its content is no "
        "part of this object: mount an immutable ConfigMap per release, named after the release.",
    )
    up_to: int | None = prop(
        Integer(minimum=0, maximum=MAX_NUMBER, format="int64"),
        "The number of the last one that counts; 0: none. Left out: all that are there.",
        default=None,
    )


@dataclass(frozen=True)
class SqliteParameters:
    """How a SQLite file is laid out, whatever its tables hold."""

    RULES: ClassVar = (
        Rule(
            cel="!(has(self.migrations) && has(self.migrationsFrom))",
            message="write either migrations or migrationsFrom, not both",
            holds=lambda sqlite: not (sqlite.migrations and sqlite.migrations_from),
        ),
    )

    page_size: int | None = prop(
        Integer(minimum=_PAGE_SIZES[0], maximum=_PAGE_SIZES[-1]),
        "Bytes of a page, a power of two from 512 to 65536. Left out: as it is.",
        default=None,
        rules=(
            Rule(
                cel=f"self in [{', '.join(str(size) for size in _PAGE_SIZES)}]",
                message="write a power of two from 512 to 65536, such as 4096 or 8192",
                holds=lambda size: size in _PAGE_SIZES,
            ),
        ),
    )
    auto_vacuum: str | None = prop(
        Choice(("none", "full", "incremental")),
        "What becomes of free pages: none keeps them in the file, full gives them back at each "
        "commit, incremental when the app asks. Left out: as it is.",
        default=None,
    )
    journal_mode: str | None = prop(
        Choice(("wal", "delete")),
        "wal: a write-ahead log. delete: a rollback journal, SQLite's default. Left out: as it is.",
        default=None,
    )
    migrations: tuple[Migration, ...] = prop(
        List(Object(Migration), MAX_MIGRATIONS, min_items=1, key="number"),
        "The migrations that a database in this format has had, all of them, in ascending order.",
        default=(),
        rules=(
            Rule(
                cel="self.map(one, one.number).isSorted()",
                message="write the migrations in ascending order of their numbers",
                holds=lambda migrations: (
                    list(migrations) == sorted(migrations, key=lambda one: one.number)
                ),
            ),
        ),
    )
    migrations_from: MigrationsFrom | None = prop(
        Object(MigrationsFrom), "Where migrations lie, instead of migrations.", default=None
    )
