"""The records that the measurements convert, and the ways to do without this project that they are compared to."""

from __future__ import annotations

import os
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any


def record(number: int) -> tuple[str, dict[str, Any]]:
    """A key of four levels and a small nested value, which pickle takes about 200 bytes for."""
    key = f"/data/{number % 997:03d}/{number // 997 % 97:02d}/record-{number:08d}"
    return key, {
        "id": number,
        "name": f"name-{number:012d}",
        "price": number / 8,
        "tags": ["a", "b", "c"],
        "note": "x" * 80,
    }


def fill(path: Path, count: int) -> None:
    """A sqlitedict file of that many records; written by sqlite3, which is faster."""

    def rows() -> Iterator[tuple[str, bytes]]:
        for number in range(count):
            key, value = record(number)
            yield key, pickle.dumps(value, protocol=5)

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
        connection.executemany("INSERT INTO unnamed VALUES (?, ?)", rows())


def loop(path: Path, key_encoding: str, value_codec: str) -> None:
    """What people write by hand: sqlitedict to sqlitedict, no verification, no backup, no fsync."""
    import msgpack
    from sqlitedict import SqliteDict

    from format_store.keys import get

    options: dict[str, Any] = {}
    if value_codec == "msgpack":
        options = {"encode": msgpack.packb, "decode": msgpack.unpackb}
    with (
        SqliteDict(str(path), flag="r") as old,
        SqliteDict(f"{path}.new", encode_key=get(key_encoding).encode, **options) as new,
    ):
        for key, value in old.items():
            new[key] = value
        new.commit()


def vacuum_into(path: Path) -> None:
    """SQLite's own way to write a database anew; not fsynced."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (f"{path}.new",))


def copy(path: Path, *, durable: bool) -> None:
    """``cp`` without a reflink; ``durable``: and an fsync of the copy."""
    with open(path, "rb") as source, open(f"{path}.new", "wb") as target:
        offset = 0
        while count := os.sendfile(target.fileno(), source.fileno(), offset, 1 << 24):
            offset += count
        if durable:
            os.fsync(target.fileno())


def unavoidable(path: Path, count: int = 50_000) -> dict[str, float]:
    """CPU seconds per record of what pickle → msgpack cannot do without, on one core.

    Each record is read with the restricted unpickler and written as MessagePack; that is read again, and both
    are brought into canonical form and compared. In chunks, as a conversion does it.
    """
    import gc
    import time

    from format_store.codecs.canonical import canonical
    from format_store.codecs.combined import ValueFormat

    # As in a worker, so that the collector's share is the same on both sides of the ratio.
    gc.set_threshold(100_000)
    source, target = ValueFormat.named("pickle"), ValueFormat.named("msgpack")
    with closing(sqlite3.connect(path)) as connection:
        stored = [
            value for (value,) in connection.execute(f"SELECT value FROM unnamed LIMIT {count}")
        ]
    spent = dict.fromkeys(
        ("restricted decode", "encode", "decode of the result", "comparison"), 0.0
    )
    for start in range(0, count, 1000):
        chunk = stored[start : start + 1000]
        marks = [time.process_time()]
        values = [source.codec.decode(one) for one in chunk]
        marks.append(time.process_time())
        encoded = [target.codec.encode(one) for one in values]
        marks.append(time.process_time())
        again = [target.codec.decode(one) for one in encoded]
        marks.append(time.process_time())
        assert canonical(values) == canonical(again)
        marks.append(time.process_time())
        for name, begin, end in zip(spent, marks, marks[1:], strict=False):
            spent[name] += (end - begin) / len(stored)
    return spent
