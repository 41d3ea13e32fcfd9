"""Signatures as SQLite sees them, and those of what is built in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from typing import Any

from format_store.codecs import Unencodable, ValueFormat, get_codec, get_compression
from format_store.testing.tools import SAMPLES, Stored

#: Without ``raw`` and ``none``, whose signature every blob satisfies.
CODECS = ("pickle", "json", "msgpack")
COMPRESSIONS = ("zlib", "zstd")


def satisfies(sql: str, stored: object) -> object:
    """What SQLite makes of the expression over a column called ``value``, whatever the encoding of the database.

    Where a blob is taken for text (``instr`` of a text and a blob does), its bytes mean something else in UTF-16.
    """
    found = []
    for encoding in ("UTF-8", "UTF-16le"):
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(f"PRAGMA encoding = '{encoding}'")
            query = f"SELECT {sql} FROM (SELECT ? AS value)"
            found.append(connection.execute(query, (stored,)).fetchone()[0])
    assert found[0] == found[1], f"in UTF-8 it is {found[0]}, in UTF-16 {found[1]}: {sql}"
    return found[0]


def require_check(sql: str, stored: Stored, other: Any) -> None:
    """As the CHECK of a column it takes ``stored`` and refuses ``other``."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE t (value BLOB CHECK ({sql}))")
        connection.execute("INSERT INTO t VALUES (?)", (stored,))
        try:
            connection.execute("INSERT INTO t VALUES (?)", (other,))
        except sqlite3.IntegrityError:
            return
    raise AssertionError(f"the CHECK takes {other!r}")


def built_in(name: str) -> str:
    """The signature of a built-in codec or compression, over ``value``."""
    layer = get_codec(name) if name in CODECS else get_compression(name)
    return layer.signature_sql("value")


@cache
def built_in_forms() -> tuple[tuple[str, Stored], ...]:
    """Stored values of every built-in format, with the name of the outermost layer."""
    forms: list[tuple[str, Stored]] = []
    for codec in CODECS:
        for compression in ("none", *COMPRESSIONS):
            layer = ValueFormat.named(codec, compression)
            for value in SAMPLES:
                try:
                    stored = layer.encode(value)
                except Unencodable:
                    continue
                forms.append((codec if compression == "none" else compression, stored))
    return tuple(forms)


def require_apart(name: str, sql: str, stored: Stored, overlaps: frozenset[str]) -> None:
    """No built-in signature takes ``stored``, but for ``name`` itself and those in ``overlaps``."""
    for other in (*CODECS, *COMPRESSIONS):
        if other != name and other not in overlaps:
            assert not satisfies(built_in(other), stored), f"{other} takes {stored!r} for its own"
    assert satisfies(sql, stored) == 1


def require_takes_no_other(name: str, sql: str, overlaps: frozenset[str]) -> None:
    """``sql`` is false for what the built-in formats store."""
    for other, stored in built_in_forms():
        if other != name and other not in overlaps:
            assert not satisfies(sql, stored), f"{name} takes a value of {other}: {stored!r}"
