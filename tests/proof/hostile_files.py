"""Files that somebody damaged or made up: flipped bits, moved pages, foreign files, crafted schemas and markers."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from format_store import Format, convert, errors, inspect
from format_store.layout import Layout
from tests.proof.hostile_case import Case, attempt
from tests.support.databases import format_on_disk

_PAGE: Final = 4096
TARGETS: Final[tuple[dict[str, Any], ...]] = (
    {"sqlitedict": {"keyEncoding": "hierarchical"}},
    {"sqlitedict": {"valueCodec": "msgpack"}},
    {"sqlite": {"pageSize": 8192}, "sqlitedict": {}},
    {
        "sqlite": {
            "journalMode": "wal",
            "migrations": [{"number": 1, "sql": "CREATE TABLE new (a)"}],
        },
        "sqlitedict": {"keyEncoding": "hierarchical"},
    },
)
#: What a shared volume, a download or a mistake puts in a database's place.
FOREIGN: Final = (
    b"", b"\0", b"S" * 99, b"\x89PNG\r\n\x1a\n" * 600, b"\x1f\x8b\x08" + bytes(5000), b"PK\x03\x04" * 3000,
    b"orders: none\n" * 900, b"SQLite format 3\0", b"SQLite format 3\0" + bytes(84), b"SQLite format 3\0" * 700,
)  # fmt: skip
#: Schemas that would do something if they were believed (https://www.sqlite.org/security.html).
SCHEMAS: Final = (
    "CREATE VIEW v AS SELECT load_extension('/tmp/x')",
    "CREATE VIEW _storageformat AS SELECT load_extension('x') AS marker",
    "CREATE TRIGGER t AFTER INSERT ON log BEGIN SELECT writefile('/tmp/x', 'x'); END",
    "CREATE TABLE g (a, b AS (load_extension(a)))",
    "CREATE TABLE c (a CHECK (fts3_tokenizer('x') IS NULL))",
    "CREATE INDEX e ON log (abs(hex(line)))",
    "CREATE VIRTUAL TABLE d USING dbstat",
    'CREATE TABLE "a\'; DROP TABLE log; --" (key TEXT PRIMARY KEY, value BLOB)',
    'CREATE TABLE "a""b" (key TEXT PRIMARY KEY, value BLOB)',
    'CREATE TABLE a AS SELECT 1 AS "key", 2 AS value',
    "CREATE TRIGGER r BEFORE DELETE ON unnamed BEGIN SELECT raise(ABORT, 'no'); END",
)
#: The schema's own rows, written over: lies about where a table begins and what it looks like.
TRICKS: Final = (
    "UPDATE sqlite_schema SET rootpage = 99999 WHERE name = 'log'",
    "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'far') WHERE name = 'log'",
    "UPDATE sqlite_schema SET sql = 'CREATE TABLE log (id, line, size, raw, more)' WHERE name = 'log'",
    ("UPDATE sqlite_schema SET sql = 'CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB) -- ' || hex(zeroblob(9999))"
    " WHERE name = 'unnamed'"),
    "UPDATE sqlite_schema SET type = 'view' WHERE name = 'log'",
    "UPDATE sqlite_schema SET name = '_storageformat', tbl_name = '_storageformat' WHERE name = 'lines'",
    "UPDATE sqlite_schema SET sql = 'not SQL at all' WHERE name = 'lines'",
    "INSERT INTO sqlite_schema VALUES ('table', 'twice', 'twice', 2, 'CREATE TABLE twice (a)')",
    "DELETE FROM sqlite_schema WHERE name = 'sqlite_autoindex_unnamed_1'",
    "UPDATE sqlite_schema SET sql = NULL WHERE name = 'unnamed'",
)  # fmt: skip


# --- what is done to a file -------------------------------------------------------------------------------


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _flip_in_the_header(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(100)] = chance.randrange(256)


def _truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.choice((chance.randrange(len(data)), len(data) // _PAGE // 2 * _PAGE)) :]


def _extend(data: bytearray, chance: random.Random) -> None:
    data += chance.randbytes(chance.choice((1, 511, _PAGE, 3 * _PAGE)))


def _swap_pages(data: bytearray, chance: random.Random) -> None:
    one, other = (chance.randrange(len(data) // _PAGE) * _PAGE for _ in range(2))
    data[one : one + _PAGE], data[other : other + _PAGE] = (
        data[other : other + _PAGE],
        data[one : one + _PAGE],
    )


def _overwrite(data: bytearray, chance: random.Random) -> None:
    at, size = chance.randrange(len(data)), chance.choice((16, 512, _PAGE))
    size = min(size, len(data) - at)
    data[at : at + size] = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))


DAMAGES: Final = (_flip, _flip, _flip_in_the_header, _truncate, _extend, _swap_pages, _overwrite)


def _spoil(path: Path, chance: random.Random) -> str:
    """Do one thing to the file; what it was, in a word."""
    kind = chance.choice(("damage",) * 12 + ("foreign", "schema", "trick", "marker"))
    if kind == "damage":
        data = bytearray(path.read_bytes())
        damage = chance.choice(DAMAGES)
        damage(data, chance)
        path.write_bytes(data)
        return damage.__name__.strip("_")
    if kind == "foreign":
        path.write_bytes(chance.choice(FOREIGN))
        return kind
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if kind == "schema":
            connection.execute("PRAGMA writable_schema = ON")
            statement = chance.choice(SCHEMAS)
            name = f"z{chance.randrange(1000)}"
            try:
                connection.execute(statement)
            except sqlite3.Error:
                # What SQLite does not let anybody make by a statement can still be in a file.
                connection.execute(
                    "INSERT INTO sqlite_schema VALUES ('view', ?, ?, 0, ?)", (name, name, statement)
                )
        elif kind == "trick":
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(chance.choice(TRICKS))
        else:
            _mark(connection, chance)
    return kind


def _mark(connection: sqlite3.Connection, chance: random.Random) -> None:
    """A marker with something wrong in it: a field of another type, a byte that is none, half of it."""
    good: dict[str, Any] = {
        "markerVersion": 1,
        "format": {"sqlitedict": {}},
        "conversion": "20260101T000000Z-00000000",
        "convertedAt": "2026-01-01T00:00:00Z",
        "tool": "0.1.0",
    }
    field = chance.choice(sorted(good))
    wrong: Any = chance.choice(
        (None, [], {}, -1, 2, "", "x" * 5000, {"sqlite": {"migrations": [{}]}}, 1e999)
    )
    text = json.dumps(good | {field: wrong})
    text = chance.choice(
        (text, text[: chance.randrange(len(text))], text.replace(":", "'"), "[" * 9000)
    )
    quoted = text.replace("'", "''")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "INSERT INTO sqlite_schema VALUES ('view', '_storageformat', '_storageformat', 0, ?)",
        (f"CREATE VIEW _storageformat AS SELECT '{quoted}' AS marker",),
    )


# --- the judgement ----------------------------------------------------------------------------------------------


def _rows(path: Path) -> dict[str, list[str]] | None:
    """Every row of the tables that the pristine file has, values by type; None where SQLite cannot read it."""
    found: dict[str, list[str]] = {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.text_factory = bytes
            names = connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' "
                "AND lower(name) NOT IN ('unnamed', 'new') AND name NOT LIKE 'sqlite_stat%'"
            ).fetchall()
            for (name,) in names:
                quoted = name.decode("utf-8", "surrogateescape").replace('"', '""')
                found[quoted] = sorted(
                    map(repr, connection.execute(f'SELECT * FROM "{quoted}" NOT INDEXED'))
                )
            found["unnamed"] = [
                repr(row)
                for row in connection.execute(
                    "SELECT rowid, key, value FROM unnamed NOT INDEXED ORDER BY rowid"
                )
            ]
    except (sqlite3.Error, UnicodeError, OverflowError, MemoryError):
        return None
    return found


def _converted(path: Path, before: dict[str, list[str]] | None, *, was_hierarchical: bool) -> str:
    """What a database that was converted has otherwise than ``before``, in words."""
    after = _rows(path)
    if before is None:
        return ""  # also an empty file, which gets its marker
    if after is None:
        return "what was converted cannot be read"
    unnamed = before.pop("unnamed", [])
    records = after.pop("unnamed", [])
    if before != after:
        return "another table is not what it was"
    is_hierarchical = format_on_disk(path).get("keyEncoding") == "hierarchical"
    same = _keys(unnamed, hierarchical=was_hierarchical) == _keys(
        records, hierarchical=is_hierarchical
    )
    return "" if same else "the keys are not what they were"


def _keys(rows: list[str], *, hierarchical: bool) -> list[tuple[int, str]]:
    """By what the marker says: a bit that was flipped can make a key look like one of the other encoding."""
    found = []
    for row in rows:
        rowid, key, _ = eval(row, {"__builtins__": {}})  # noqa: S307 - made by repr above
        if hierarchical:
            key = key[2:].replace(b"\xff", b"/")
        found.append((rowid, os.fsdecode(key)))
    return found


def judge(case: Case) -> tuple[str, str]:
    """What came of it, and what was not as promised."""
    chance, path = case.chance, case.copy()
    was_hierarchical = chance.random() < 0.2
    if was_hierarchical:
        convert(path, Format.from_spec(TARGETS[0]))
    done = _spoil(path, chance)
    data, before = path.read_bytes(), _rows(path)
    target = Format.from_spec(chance.choice(TARGETS))
    outcome, error = attempt(lambda: convert(path, target))
    if isinstance(error, errors.NeedsAttention):
        return done, f"a person was asked for: {error}"
    if error is not None and path.read_bytes() != data:
        return done, f"{outcome} ({error}), and the file has changed"
    if outcome == "converted" and (
        wrong := _converted(path, before, was_hierarchical=was_hierarchical)
    ):
        return done, f"{outcome}, and {wrong}"
    attempt(lambda: inspect(path))
    return f"{done}: {outcome}", "work is pending" if Layout.of(path).pending() else ""
