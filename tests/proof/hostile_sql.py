"""SQL of a format that tries to get out: to other files, to functions of the shell, to the marker, or to no end."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from format_store import Abort, Format, convert, errors
from format_store.layout import Layout
from tests.proof.hostile_case import Case, attempt, forget_peak, peak_memory, plant_victim

#: ``{out}`` is a path outside the database's own, ``{db}`` another database.
ESCAPES: Final = (
    "ATTACH '{out}' AS x", "ATTACH DATABASE '{db}' AS x", "ATTACH 'file:{out}?mode=rwc' AS x", "ATTACH ':memory:' AS x",
    "ATTACH printf('%s', '{out}') AS x", "DETACH main", "VACUUM", "VACUUM INTO '{out}'", "VACUUM main INTO 'file:{out}?mode=rwc'",
    "SELECT load_extension('{out}')", "SELECT load_extension('{out}', 'main')", "SELECT writefile('{out}', 'x')",
    "SELECT readfile('{db}')", "SELECT edit('x', 'touch {out}')", "SELECT fts3_tokenizer('x', x'00')", "SELECT sqlar_uncompress('', 1)",
    "PRAGMA writable_schema = ON", "PRAGMA main.writable_schema = 1", "SELECT * FROM pragma_writable_schema(1)",
    "PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", "PRAGMA locking_mode = EXCLUSIVE", "PRAGMA temp_store_directory = '{out}'",
    "PRAGMA data_store_directory = '{out}'", "PRAGMA lock_proxy_file = '{out}'", "PRAGMA mmap_size = 1000000000", "PRAGMA trusted_schema = ON",
    "PRAGMA page_size = 512", "PRAGMA hard_heap_limit = 1", "PRAGMA soft_heap_limit = 1", "PRAGMA query_only = ON", "PRAGMA schema_version = 1",
    "PRAGMA ignore_check_constraints = ON", "PRAGMA recursive_triggers = ON", "PRAGMA encoding = 'UTF-16'", "PRAGMA secure_delete = ON", "PRAGMA optimize",
    "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA incremental_vacuum", "PRAGMA max_page_count = 1", "PRAGMA analysis_limit = 1", "PRAGMA case_sensitive_like = 1",
    "BEGIN", "BEGIN EXCLUSIVE", "COMMIT", "END", "ROLLBACK", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s", "COMMIT AND CHAIN",
    "INSERT INTO sqlite_schema VALUES ('view', 'v', 'v', 0, 'CREATE VIEW v AS SELECT 1')", "UPDATE sqlite_master SET sql = ''",
    "DELETE FROM sqlite_schema", "UPDATE sqlite_sequence SET seq = 1", "DROP TABLE sqlite_schema",
    "CREATE VIEW _storageformat AS SELECT '{{}}' AS marker", "CREATE TABLE _storageformat (a)", 'CREATE TABLE "_StorageFormat" (a)',
    "CREATE TEMP VIEW _storageformat AS SELECT 1", "ALTER TABLE far RENAME TO _storageformat", "DROP VIEW _storageformat", "CREATE INDEX _storageformat ON far (word)",
    "DELETE FROM unnamed", "UPDATE unnamed SET value = x''", "INSERT INTO unnamed VALUES ('x', x'80')", "REPLACE INTO main.unnamed VALUES ('x', x'80')",
    "DROP TABLE unnamed", 'DROP TABLE IF EXISTS "UNNAMED"', "ALTER TABLE unnamed RENAME TO x", "ALTER TABLE unnamed ADD COLUMN x", "ALTER TABLE [unnamed] DROP COLUMN value",
    "CREATE TRIGGER t AFTER INSERT ON unnamed BEGIN SELECT 1; END", "CREATE TEMP TRIGGER t BEFORE DELETE ON unnamed BEGIN SELECT 1; END",
    "CREATE TRIGGER t AFTER INSERT ON far BEGIN DELETE FROM unnamed; END; INSERT INTO far (word) VALUES ('x')",
    "CREATE VIEW w AS SELECT * FROM far; CREATE TRIGGER t INSTEAD OF DELETE ON w BEGIN DELETE FROM unnamed; END; DELETE FROM w",
    "CREATE TABLE p (a PRIMARY KEY REFERENCES unnamed (key) ON DELETE CASCADE)", "CREATE INDEX i ON unnamed (value)", "CREATE TABLE made (key TEXT PRIMARY KEY, value BLOB)",
    "CREATE VIRTUAL TABLE v USING dbstat", "CREATE VIRTUAL TABLE v USING csv(filename='{db}')", "CREATE VIRTUAL TABLE v USING fts3tokenize", "CREATE VIRTUAL TABLE v USING zipfile('{out}')",
    "CREATE VIRTUAL TABLE v USING fts5(a, content='unnamed')", "CREATE VIRTUAL TABLE v USING fts4(content='unnamed')", "CREATE VIRTUAL TABLE v USING fts5vocab(unnamed, 'row')",
    "CREATE TABLE x AS SELECT * FROM unnamed", "CREATE TEMP TABLE unnamed AS SELECT 1 AS key, 2 AS value", "CREATE TABLE temp.far (word)",
    ".shell touch {out}", ".import {db} far", ".output {out}", "\\! touch {out}", "EXPLAIN SELECT 1", "REINDEX", "ANALYZE", "SELECT 1;\0 DELETE FROM unnamed",
    "\ufeffSELECT 1", "SELECT '\ud800'", "/* unfinished", "-- nothing", ";;;", "'", 'SELECT "', "CREATE TRIGGER t AFTER INSERT ON far BEGIN SELECT 1;",
    "SELECT * FROM far WHERE word = ?", "SELECT :a, @b, $c", "SELECT zeroblob(2000000000)", "SELECT printf('%.*c', 20000000, 'x')", "SELECT randomblob(1 << 40)",
    "WITH RECURSIVE b(x) AS (SELECT 1 UNION ALL SELECT x || x || x FROM b WHERE length(x) < 1e7) SELECT length(x) FROM b",
)  # fmt: skip
#: What has no end but the caller's: ``Abort``.
ENDLESS: Final = (
    "WITH RECURSIVE e(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM e) SELECT count(*) FROM e",
    "INSERT INTO far (word) WITH RECURSIVE e(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM e) SELECT n FROM e WHERE n < 0",
    ("SELECT count(*) FROM sqlite_schema a, sqlite_schema b, sqlite_schema c, sqlite_schema d, sqlite_schema e, sqlite_schema f, "
    "sqlite_schema g, sqlite_schema h, sqlite_schema i, sqlite_schema j, sqlite_schema k, sqlite_schema l, sqlite_schema m"),
    ("CREATE TRIGGER t AFTER INSERT ON far BEGIN SELECT count(*) FROM (WITH RECURSIVE e(n) AS (SELECT 1 UNION ALL SELECT n + 1 "
    "FROM e) SELECT n FROM e); END; INSERT INTO far (word) VALUES ('x')"),
)  # fmt: skip
#: Where the SQL stands otherwise, so that it is asked for by another way.
AROUND: Final = (
    "{sql}", "{sql}", "{sql};", "/* */ {sql} -- ", "SELECT 1; {sql}", "CREATE TABLE fine (a); {sql}; SELECT 1", "{sql}; {sql}",
    "CREATE TRIGGER tt AFTER INSERT ON far BEGIN {sql}; END; INSERT INTO far (word) VALUES ('y')", "CREATE VIEW vv AS {sql}; SELECT * FROM vv",
    "CREATE TABLE gg AS {sql}", "EXPLAIN {sql}", "WITH q AS ({sql}) SELECT * FROM q", "CREATE INDEX ii ON far (({sql}))", "{sql}\r\n;\r\n",
)  # fmt: skip
#: A migration may make values of up to a gigabyte, which is SQLite's limit; these here ask for a few megabytes.
_OWN_MEMORY: Final = 256 << 20
_STOP_SECONDS: Final = 5.0


def _rest(path: Path) -> list[tuple[Any, ...]]:
    """sqlitedict's table, to which no migration may do anything where the format tells how it lies."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT rowid, * FROM unnamed ORDER BY rowid").fetchall()


def _wrapped(chance: random.Random, sql: str) -> str:
    around = chance.choice(AROUND).replace("{sql}", sql)
    if chance.random() < 0.2:
        around = "".join(map(chance.choice, zip(around.upper(), around.lower(), strict=False)))
    if chance.random() < 0.1:
        around = around.replace(" ", chance.choice(("\n", "\t", "/**/", " -- x\n")))
    return around


def _migrations(case: Case, sql: str) -> tuple[str, list[dict[str, Any]]]:
    """Where it stands: in a migration, in its check, in its way back, or in the second of two."""
    where = case.chance.choice(("sql", "sql", "sql", "checks", "second"))
    harmless = {"number": 1, "sql": "CREATE TABLE one (a)"}
    if where == "checks":
        return where, [harmless | {"checks": [sql]}]
    if where == "second":
        return where, [harmless, {"number": 2, "sql": sql}]
    return where, [{"number": 1, "sql": sql}]


def judge(case: Case) -> tuple[str, str]:
    """What came of it, and what was not as promised."""
    chance, path = case.chance, case.copy()
    victim = plant_victim(case.folder)
    other = victim / "other.db"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE theirs (a)")
    outside = {name: (victim / name).read_bytes() for name in os.listdir(victim)}
    endless = chance.random() < 0.04
    sql = chance.choice(ENDLESS if endless else ESCAPES)
    sql = sql.format(out=case.canary, db=other) if not endless else sql
    where, migrations = _migrations(case, sql if endless else _wrapped(chance, sql))
    spec: dict[str, Any] = {"sqlite": {"migrations": migrations}}
    guarded = chance.random() < 0.8
    if guarded:
        spec["sqlitedict"] = {}
    data, before = path.read_bytes(), _rest(path)
    abort = Abort()
    stop = threading.Timer(0.05, abort.request) if endless else None
    begun, since = forget_peak(), time.monotonic()
    if stop is not None:
        stop.start()
    outcome, error = attempt(lambda: convert(path, Format.from_spec(spec), abort=abort))
    if stop is not None:
        stop.join()
    word = f"SQL in {where}: {outcome}"
    if endless:
        word = f"SQL without end: {outcome}"
        if time.monotonic() - since > _STOP_SECONDS:
            return word, f"it was not stopped in {_STOP_SECONDS} seconds: {sql}"
    told = f"{migrations[-1]}: {error}"
    if {name: (victim / name).read_bytes() for name in os.listdir(victim)} != outside:
        return word, f"something outside was changed: {told}"
    if set(os.listdir(case.folder)) - {path.name, Layout.of(path).state.name, "victim"}:
        return word, f"something was made: {sorted(os.listdir(case.folder))} by {told}"
    if peak_memory() - begun > _OWN_MEMORY:
        return word, f"it took {(peak_memory() - begun) >> 20} MB: {told}"
    if error is not None:
        known = isinstance(
            error, errors.MigrationFailed | errors.InvalidFormat | errors.Aborted | errors.Failed
        )
        if not known:
            return word, f"{error.reason}: {told}"
        return word, "the file has changed: " + told if path.read_bytes() != data else ""
    if guarded and _rest(path) != before:
        return word, f"sqlitedict's table was changed by {told}"
    return word, "work is pending" if Layout.of(path).pending() else ""
