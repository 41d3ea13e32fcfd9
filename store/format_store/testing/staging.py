"""Ways to spoil a staging copy, by SQL and by bytes, for a verification to find."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from format_store.formats import MARKER_NAME
from format_store.sqlitefile import connect, quote_name

_FLIPPED_BITS = 8


class Corruption(NamedTuple):
    """``spoil`` changes the file at a path. ``must_be_found``: it changes content, not perhaps unused bytes."""

    name: str
    spoil: Callable[[Path], None]
    must_be_found: bool


def corruptions(path: Path) -> list[Corruption]:
    """What can be done to a copy that looks like the one at ``path``."""
    found = [
        Corruption("its marker is gone", _without_marker, must_be_found=True),
        Corruption("it is cut short", _cut_short, must_be_found=True),
    ]
    with closing(connect(path, mode="ro")) as connection:
        for table in _tables(connection):
            found += _of_table(connection, table)
    size = path.stat().st_size
    for number in range(_FLIPPED_BITS):
        at = 100 + (size - 101) * number // _FLIPPED_BITS
        found.append(Corruption(f"a bit of byte {at} is flipped", _flip(at), must_be_found=False))
    return found


def _tables(connection: sqlite3.Connection) -> list[str]:
    """Ordinary tables with rowids and rows."""
    names = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT wr "
        "AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name"
    ).fetchall()
    return [
        name
        for (name,) in names
        if connection.execute(f"SELECT EXISTS (SELECT 1 FROM {quote_name(name)})").fetchone()[0]
    ]


def _of_table(connection: sqlite3.Connection, table: str) -> Iterator[Corruption]:
    name = quote_name(table)
    first = f"(SELECT min(rowid) FROM {name})"
    yield Corruption(
        f"a row of {table} is missing",
        _run(f"DELETE FROM {name} WHERE rowid = {first}"),
        must_be_found=True,
    )
    columns = [
        str(row[1])
        for row in connection.execute(f"PRAGMA table_xinfo({name})")
        if not row[6] and not (row[5] and str(row[2]).upper() == "INTEGER")
    ]
    for column in columns:
        rows = connection.execute(
            f"SELECT rowid, {quote_name(column)} FROM {name} ORDER BY rowid"
        ).fetchall()
        rowid, value = rows[0]
        put = f"UPDATE {name} SET {quote_name(column)} = ? WHERE rowid = ?"
        yield Corruption(
            f"{column} of a row of {table} is another",
            _run(put, (_other(value), rowid)),
            must_be_found=True,
        )
        apart = next(((there, it) for there, it in rows if it != value), None)
        if apart is not None:
            between = (_aside(value), rowid)
            swap = [(put, between), (put, (value, apart[0])), (put, (apart[1], rowid))]
            yield Corruption(
                f"{column} of two rows of {table} is swapped", _run(*swap), must_be_found=True
            )


def _other(value: object) -> object:
    if isinstance(value, bytes):
        return bytes([*value[:-1], value[-1] ^ 1]) if value else b"\1"
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (int, float)):
        return value + 1
    return 1


def _aside(value: object) -> object:
    """A value that no row has: where a column is unique, two are swapped over a third."""
    if isinstance(value, bytes):
        return value + b"\0aside"
    if isinstance(value, str):
        return value + "\0aside"
    return b"\0aside"


def _run(*statements: Any) -> Callable[[Path], None]:
    """Statements, each with or without parameters, or one statement and its parameters."""
    if len(statements) == 2 and isinstance(statements[0], str):
        statements = (statements,)
    parts = [part if isinstance(part, tuple) else (part, ()) for part in statements]

    def spoil(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints=ON")
            for statement, parameters in parts:
                assert connection.execute(statement, parameters).rowcount == 1

    return spoil


def _without_marker(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"DROP VIEW {quote_name(MARKER_NAME)}")


def _cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _flip(at: int) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))

    return spoil
