"""Databases for tests, and an oracle that reads them back without any code of the store."""

from __future__ import annotations

import json
import pickle
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
from sqlitedict import SqliteDict

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Records = list[tuple[str, Any]]

_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "zlib": zlib.decompress,
    "zstd": zstd.decompress,
}
_DECODE: dict[str, Callable[[Any], Any]] = {
    "pickle": pickle.loads,
    "json": json.loads,
    "msgpack": lambda data: msgpack.unpackb(data, strict_map_key=False),
    "raw": bytes,
}


def sample(count: int, *, seed: int = 0) -> Records:
    """Records as an index of files has them, keys not in order: path to size, times, flags and a name."""
    return [
        (
            f"/srv/{(number * 7919 + seed) % 97:02d}/dir{number % 13}/file-{number:06d}.txt",
            {
                "size": number * 37 % 100_000,
                "mtime": 1.7e9 + number / 8,
                "mode": 0o644,
                "tags": ["a", "ü", number % 3 == 0, None],
                "digest": f"{number * 2654435761 % 2**32:08x}" * 4,
            },
        )
        for number in range(count)
    ]


def write_plain(
    path: Path,
    records: Iterable[tuple[str, Any]],
    *,
    table: str = "unnamed",
    journal_mode: str = "DELETE",
    encode: Callable[[Any], Any] | None = None,
) -> None:
    """Write records as an ordinary application of sqlitedict does."""
    options: dict[str, Any] = {} if encode is None else {"encode": encode}
    with SqliteDict(str(path), tablename=table, journal_mode=journal_mode, **options) as store:
        for key, value in records:
            store[key] = value
        store.commit()


def decode_hierarchical(stored: bytes) -> str:
    """The oracle's own inverse of the hierarchical encoding."""
    return stored[2:].replace(b"\xff", b"/").decode()


def read_table(path: Path, parameters: Mapping[str, Any], table: str = "unnamed") -> Records:
    """All records of a table, in the order in which they were inserted, by plain sqlite3.

    ``parameters`` are those of the sqlitedict format that the file is believed to be in.
    """
    decompress = _DECOMPRESS[parameters.get("compression", "none")]
    decode = _DECODE[parameters.get("valueCodec", "pickle")]
    natural = parameters.get("keyEncoding", "natural") == "natural"
    compressed = parameters.get("compression", "none") != "none"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute(f'SELECT key, value FROM "{table}" ORDER BY rowid').fetchall()
    return [
        (
            key if natural else decode_hierarchical(key),
            decode(decompress(value) if compressed else value),
        )
        for key, value in rows
    ]


def marker_of(path: Path) -> dict[str, Any] | None:
    """The marker's JSON as it lies in the schema, or None."""
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = '_storageformat' AND type = 'view'"
        ).fetchone()
    if row is None:
        return None
    text = row[0]
    parsed: dict[str, Any] = json.loads(
        text[text.index("'") + 1 : text.rindex("'")].replace("''", "'")
    )
    return parsed


def format_on_disk(path: Path) -> dict[str, Any]:
    """The parameters of the sqlitedict format that the file says it is in (plain, if it says nothing)."""
    marker = marker_of(path)
    return {} if marker is None else marker["format"]["sqlitedict"]


def records_on_disk(path: Path, table: str = "unnamed") -> Records:
    """All records, in whatever format the file says it is in."""
    return read_table(path, format_on_disk(path), table)


def leftovers(path: Path) -> list[str]:
    """What lies beside the database that must not be there once nothing is pending, relative to it."""
    state = path.parent / f".{path.name}.storageformat"
    allowed = {"lock", "history.jsonl", "desired.json"}
    found = [
        f"{path.name}{suffix}" for suffix in ("-wal", "-shm", "-journal")
        if path.with_name(path.name + suffix).exists()
    ]  # fmt: skip
    if state.exists():
        found += [
            str(entry.relative_to(state))
            for entry in sorted(state.rglob("*"))
            if entry.name not in allowed and not entry.is_dir()
        ]
        found += [f"work/{entry.name}" for entry in (state / "work").glob("*")]
    return found


def execute(path: Path, *statements: str) -> None:
    """Run SQL as somebody with a shell would, in one transaction."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query returns."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()
