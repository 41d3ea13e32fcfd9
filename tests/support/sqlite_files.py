"""SQLite files of every kind, and an oracle that tells all that is in one, without any code of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from format_store import Format

#: What applications make: each kind of table, column, index and object that SQLite has.
EVERY_KIND = """
CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT COLLATE NOCASE, size REAL, raw BLOB);
INSERT INTO log (line, size, raw) VALUES ('abc', 1, x'00'), ('ABC', 1.5, NULL), (NULL, -0.0, 'text');
DELETE FROM log WHERE id = 3;
CREATE TABLE pairs (a, b, PRIMARY KEY (a, b COLLATE NOCASE)) WITHOUT ROWID;
INSERT INTO pairs VALUES (1, 'x'), ('1', 'x'), (x'31', 1.0), (2, '');
CREATE TABLE strictly (n INTEGER, t TEXT, r REAL, b BLOB, a ANY) STRICT;
INSERT INTO strictly VALUES (1, 'é', 1.0, x'ff', 1), (2, '', 2.5, x'', '1');
CREATE TABLE loose (anything);
INSERT INTO loose VALUES (1), (1.0), ('1'), (x'31'), (NULL), (NULL), (9e999);
CREATE TABLE far (word TEXT);
INSERT INTO far (rowid, word) VALUES (-9223372036854775808, 'first'), (-3, 'b'), (0, 'c'), (17, 'd'),
  (9223372036854775807, 'last');
CREATE TABLE hidden (rowid TEXT, oid TEXT, _rowid_ TEXT);
INSERT INTO hidden VALUES ('a', 'b', 'c'), ('a', 'b', 'c');
CREATE TABLE computed (n INTEGER, twice AS (n * 2) STORED, thrice AS (n * 3));
INSERT INTO computed (n) VALUES (1), (2);
CREATE INDEX by_line ON log (line, size DESC) WHERE line IS NOT NULL;
CREATE INDEX by_expression ON log (length(raw));
CREATE UNIQUE INDEX by_word ON far (word COLLATE RTRIM);
CREATE VIEW lines AS SELECT line FROM log;
CREATE TRIGGER logged AFTER INSERT ON pairs BEGIN INSERT INTO log (line) VALUES (new.b); END;
CREATE VIRTUAL TABLE words USING fts5 (text);
INSERT INTO words (text) VALUES ('quick brown fox'), ('lazy dog');
CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1);
INSERT INTO boxes VALUES (1, 0.5, 1.5);
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (parent INTEGER REFERENCES parent (id));
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1), (404);
PRAGMA user_version = 7;
PRAGMA application_id = 1234;
"""
HEADER = ("encoding", "user_version", "application_id")


def sqlite_format(**parameters: Any) -> Format:
    """``{sqlite: {...}}``, with ``sqlitedict`` beside it if that is given."""
    part = {"sqlitedict": parameters.pop("sqlitedict")} if "sqlitedict" in parameters else {}
    return Format.from_spec({"sqlite": parameters} | part)


def write_sql(path: Path, script: str = EVERY_KIND, *, before: Iterable[str] = ()) -> Path:
    """A database made by a script; ``before``: pragmas that come first."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in before:
            connection.execute(statement)
        connection.executescript(script)
    return path


def everything(path: Path) -> dict[str, Any]:
    """Schema, the header's own numbers and every row with its rowid, our marker apart; values told by type."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        schema = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name <> '_storageformat' "
            "ORDER BY type, name"
        ).fetchall()
        found: dict[str, Any] = {"schema": schema}
        for pragma in HEADER:
            found[pragma] = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        for kind, name, _, sql in schema:
            if kind != "table":
                continue
            quoted = '"' + name.replace('"', '""') + '"'
            rowid = "" if "WITHOUT ROWID" in str(sql).upper() or name == "hidden" else "rowid, "
            rows = connection.execute(f"SELECT {rowid}* FROM {quoted}").fetchall()
            found[f"table {name}"] = sorted(map(repr, rows))
    return found


def pragma(path: Path, name: str) -> Any:
    """One that answers with a single value."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
