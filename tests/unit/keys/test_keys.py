"""Key encodings: against Oxia's own vectors, against SQLite, and as properties."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_store import keys
from format_store.keys import InvalidKey, KeyEncoding, NotCanonical

ENCODINGS = [keys.get("natural"), keys.get("hierarchical")]
HIERARCHICAL = keys.get("hierarchical")
VECTORS = json.loads((Path(__file__).parent / "oxia_vectors.json").read_text("utf-8"))["vectors"]

paths = st.text(st.sampled_from("/ab.\0é日😀"), max_size=9) | st.text(max_size=20)
internal = paths.map("__oxia/".__add__)
any_key = paths | internal


def text_of(spec: str | list[Any]) -> str:
    return spec if isinstance(spec, str) else "".join(unit * times for unit, times in spec)


def bytes_of(spec: str | list[Any]) -> bytes:
    if isinstance(spec, str):
        return bytes.fromhex(spec)
    return b"".join(bytes.fromhex(unit) * times for unit, times in spec)


def in_sqlite_order(encoding: KeyEncoding, all_keys: Iterable[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE t (key {encoding.affinity} PRIMARY KEY)")
    rows = [(encoding.encode(key),) for key in all_keys]
    connection.executemany("INSERT OR IGNORE INTO t VALUES (?)", rows)
    return connection


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_hierarchical_is_byte_compatible_with_oxia(vector: dict[str, Any]) -> None:
    """The bytes are those of Oxia's encoder, in both directions."""
    key, encoded = text_of(vector["key"]), bytes_of(vector["encoded"])
    assert HIERARCHICAL.encode(key) == encoded
    assert HIERARCHICAL.decode(encoded) == key


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
@given(key=any_key)
def test_round_trip(encoding: KeyEncoding, key: str) -> None:
    """Every key comes back from its stored form, which has the column's type."""
    stored = encoding.encode(key)
    assert type(stored) is (str if encoding.affinity == "TEXT" else bytes)
    assert encoding.decode(stored) == key


@given(
    st.binary(max_size=12)
    | st.builds(
        lambda level, rest: bytes([0, level]) + rest, st.integers(0, 4), st.binary(max_size=6)
    )
)
def test_what_decodes_is_what_encodes(stored: bytes) -> None:
    """A blob is refused unless it is exactly what encoding its key gives."""
    try:
        key = HIERARCHICAL.decode(stored)
    except NotCanonical:
        return
    assert HIERARCHICAL.encode(key) == stored


@pytest.mark.parametrize(
    "stored",
    [b"", b"\0", b"\0\1a", b"\0\0/", b"\0\0a\xff", b"\0\1a\xff\xff\xff", b"\0\2a\xff\xff", b"\0\0\xc3",
     b"\0\0\xed\xa0\x80", b"\x80\0a", b"\x80\1a\xff", b"\0\1__oxia\xff", b"\x7f\xff", "a", 7, None],
)  # fmt: skip
def test_hierarchical_refuses_what_it_never_writes(stored: Any) -> None:
    """Too short, wrong level, "/" in the text, broken UTF-8, wrong internal bit, wrong type."""
    with pytest.raises(NotCanonical):
        HIERARCHICAL.decode(stored)


@pytest.mark.parametrize("stored", [b"a", "\ud800", None, 1, 1.5])
def test_natural_refuses_what_is_not_valid_text(stored: Any) -> None:
    """Blobs, numbers, NULL and lone surrogates are no natural keys."""
    with pytest.raises(NotCanonical):
        keys.get("natural").decode(stored)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("key", ["\ud800", "a/\udfff", b"a", 1, None])
def test_invalid_keys_are_refused(encoding: KeyEncoding, key: Any) -> None:
    """What UTF-8 cannot hold, and what is no string, is not encoded."""
    with pytest.raises(InvalidKey):
        encoding.encode(key)
    with pytest.raises(InvalidKey):
        encoding.range_of_children(key)


@given(st.lists(any_key, max_size=30))
def test_hierarchical_order_is_level_then_path(some: list[str]) -> None:
    """SQLite's order of stored keys: internal ones last, shallow before deep, then by path with "/" last."""

    def order(key: str) -> tuple[bool, int, bytes]:
        level = key.count("/") - key.endswith("//")
        return key.startswith("__oxia/"), level, key.encode().replace(b"/", b"\xff")

    connection = in_sqlite_order(HIERARCHICAL, some)
    stored = [row[0] for row in connection.execute("SELECT key FROM t ORDER BY key")]
    connection.close()
    assert [HIERARCHICAL.decode(item) for item in stored] == sorted(set(some), key=order)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
@given(path=any_key, others=st.lists(any_key, max_size=20), names=st.lists(paths, max_size=8))
def test_range_of_children_holds_every_child(
    encoding: KeyEncoding, path: str, others: list[str], names: list[str]
) -> None:
    """Against brute force: no child is missed, and hierarchically the range holds nothing else."""
    directory = keys.directory_of(path)
    stored_keys = {path, directory, directory + "/", *others}
    stored_keys |= {directory + name for name in names} | {
        directory + name + "//" for name in names
    }
    children = {
        key
        for key in stored_keys
        if key.startswith(directory) and key != directory and "/" not in key[len(directory) :]
    }
    assert {key for key in stored_keys if keys.is_child(path, key)} == children
    connection = in_sqlite_order(encoding, stored_keys)
    query = "SELECT key FROM t WHERE key >= ? AND key < ? ORDER BY key"
    rows = connection.execute(query, encoding.range_of_children(path)).fetchall()
    connection.close()
    found = {encoding.decode(row[0]) for row in rows}
    assert {key for key in found if keys.is_child(path, key)} == children
    if encoding.name == "hierarchical":
        assert found == children


@pytest.mark.parametrize("path", ["", "/", "/a", "/a/"])
def test_directories_with_and_without_trailing_separator(path: str) -> None:
    """The root, the keys without any separator, and "/a" like "/a/"."""
    everything = ["", "a", "b", "/", "/a", "/b", "/a/", "/a/x", "/a/y", "/a/x/z", "/a//", "a/x"]
    children = {"": ["a", "b"], "/": ["/a", "/b"], "/a": ["/a/x", "/a/y"], "/a/": ["/a/x", "/a/y"]}
    for encoding in ENCODINGS:
        connection = in_sqlite_order(encoding, everything)
        query = "SELECT key FROM t WHERE key >= ? AND key < ? ORDER BY key"
        rows = connection.execute(query, encoding.range_of_children(path)).fetchall()
        connection.close()
        found = [encoding.decode(row[0]) for row in rows]
        assert [key for key in found if keys.is_child(path, key)] == children[path]


def test_children_on_the_deepest_level_need_the_filter() -> None:
    """From 32767 separators on, levels are clamped: the range is a superset, ``is_child`` is exact."""
    base = "a/" * 32767
    everything = [base + "x", base + "y/z", base + "y//", base, base + "/", base + "y"]
    connection = in_sqlite_order(HIERARCHICAL, everything)
    query = "SELECT key FROM t WHERE key >= ? AND key < ?"
    rows = connection.execute(query, HIERARCHICAL.range_of_children(base)).fetchall()
    connection.close()
    found = {HIERARCHICAL.decode(row[0]) for row in rows}
    assert found > {base + "x", base + "y"}
    assert {key for key in found if keys.is_child(base, key)} == {base + "x", base + "y"}


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_guard_accepts_its_own_keys_and_refuses_the_other_encoding(encoding: KeyEncoding) -> None:
    """As a CHECK in SQLite: own keys pass, keys of the other encoding, NULL and fragments fail."""
    other = ENCODINGS[1 - ENCODINGS.index(encoding)]
    connection = sqlite3.connect(":memory:")
    guard = encoding.guard('"key"')
    connection.execute(f'CREATE TABLE t ("key" {encoding.affinity} PRIMARY KEY CHECK({guard}))')
    for key in ["", "a", "/", "a\0b", "/é//", "__oxia/x"]:
        connection.execute("INSERT INTO t VALUES (?)", (encoding.encode(key),))
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO t VALUES (?)", (other.encode(key),))
    for wrong in [None, b"", b"\0"]:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO t VALUES (?)", (wrong,))
    connection.close()


class Reversed:
    """A key encoding as another package would bring it."""

    name = "reversed"
    affinity = "TEXT"

    def encode(self, key: str) -> str:
        return key[::-1]

    def decode(self, stored: str | bytes) -> str:
        return str(stored)[::-1]

    def guard(self, _column: str) -> None:
        return None

    def range_of_children(self, _path: str) -> tuple[str, str]:
        return "", "\U0010ffff"


def test_registry_looks_at_entry_points_only_for_other_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Built-in names never search the installed packages; others are found through them."""
    import importlib.metadata

    point = importlib.metadata.EntryPoint(
        "reversed", f"{__name__}:Reversed", keys.ENTRY_POINT_GROUP
    )
    asked: list[str] = []

    def entry_points(*, group: str, name: str | None = None) -> list[Any]:
        asked.append(group)
        return [point] if name in (None, "reversed") else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda _: Reversed)
    assert keys.get("natural").name == "natural"
    assert asked == []
    assert keys.get("reversed").encode("ab") == "ba"
    assert asked == ["storageformat.keys"]
    assert keys.names() == ("natural", "hierarchical", "old-compare-hierarchical", "reversed")
    with pytest.raises(keys.UnknownKeyEncoding, match="no-such"):
        keys.get("no-such")
    keys._installed.cache_clear()
