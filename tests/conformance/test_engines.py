"""The conformance suite over the engines that are built in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from format_store import PLAIN_SQLITEDICT, Format
from format_store.testing import EngineConformance
from tests.support.databases import records_on_disk, write_plain

Records = Sequence[tuple[str, Any]]


class PlainSource(EngineConformance):
    source = PLAIN_SQLITEDICT

    def write(self, path: Path, records: Records) -> None:
        write_plain(path, records)

    def read(self, path: Path) -> Records:
        return records_on_disk(path)


class TestSqlitedictKeys(PlainSource):
    target = Format.sqlitedict(key_encoding="hierarchical")


class TestSqlitedictKeysAndValues(PlainSource):
    target = Format.sqlitedict(
        key_encoding="hierarchical", value_codec="msgpack", compression="zstd"
    )


class TestSqlite(EngineConformance):
    source = Format.from_spec({"sqlite": {}})
    target = Format.from_spec(
        {
            "sqlite": {
                "pageSize": 8192,
                "migrations": [
                    {
                        "number": 1,
                        "sql": "CREATE TABLE later (a)",
                        "down": "DROP TABLE later",
                        "checks": ["SELECT count(*) FROM sqlite_schema WHERE name = 'later'"],
                    }
                ],
            }
        }
    )

    def write(self, path: Path, records: Records) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE pairs (key TEXT UNIQUE, value TEXT)")
            connection.executemany(
                "INSERT INTO pairs VALUES (?, ?)",
                [(key, json.dumps(value)) for key, value in records],
            )

    def read(self, path: Path) -> Records:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT key, value FROM pairs ORDER BY rowid").fetchall()
        return [(key, json.loads(value)) for key, value in found]
