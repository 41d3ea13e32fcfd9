"""Oxia's first order of keys, against a reference, against Oxia's own cases, and inside SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_store import keys
from format_store.keys import NotCanonical, ReadOnlyKeyEncoding, compare_with_slash

OLD = keys.get("old-compare-hierarchical")

any_key = st.text(st.sampled_from("/ab.\0é日😀\uffff"), max_size=9) | st.text(max_size=20)

#: The cases of Oxia's compare_with_slash_test.go.
OXIA = [
    ("aaaaa", "aaaaa", 0), ("aaaaa", "zzzzz", -1), ("bbbbb", "aaaaa", 1), ("aaaaa", "", 1),
    ("", "aaaaaa", -1), ("", "", 0), ("aaaaa", "aaaaaaaaaaa", -1), ("aaaaaaaaaaa", "aaa", 1),
    ("a", "/", -1), ("/", "a", 1), ("/aaaa", "/bbbbb", -1), ("/aaaa", "/aa/a", -1),
    ("/aaaa/a", "/aaaa/b", -1), ("/aaaa/a/a", "/bbbbbbbbbb", 1), ("/aaaa/a/a", "/aaaa/bbbbbbbbbb", 1),
    ("/a/b/a/a/a", "/a/b/a/b", 1),
]  # fmt: skip


def sort_key(key: str) -> list[tuple[bool, bytes]]:
    """The order in another way: a key is a list of spans, of which those before a slash sort last."""
    *spans, last = key.encode().split(b"/")
    return [*((True, span) for span in spans), (False, last)]


def sign(number: int) -> int:
    return (number > 0) - (number < 0)


@pytest.mark.parametrize(("one", "other", "expected"), OXIA)
def test_oxias_own_cases(one: str, other: str, expected: int) -> None:
    """The answers are those that Oxia's tests ask for."""
    assert sign(compare_with_slash(one, other)) == expected


@given(any_key, any_key)
def test_the_reference_agrees(one: str, other: str) -> None:
    """The comparison is the order of the lists of spans, and only equal keys are equal."""
    left, right = sort_key(one), sort_key(other)
    assert sign(compare_with_slash(one, other)) == (left > right) - (left < right)
    assert (compare_with_slash(one, other) == 0) == (one == other)


@given(st.lists(any_key, unique=True, max_size=30))
def test_sqlite_sorts_by_it(some: list[str]) -> None:
    """As a collation, over text in either encoding, SQLite's index has the reference's order and is sound."""
    for encoding in ("UTF-8", "UTF-16le"):
        if encoding == "UTF-16le":
            some = [
                key for key in some if "\uffff" not in key
            ]  # SQLite stores another character for it
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(f"PRAGMA encoding = '{encoding}'")
            connection.create_collation(keys.SLASH_SPAN, compare_with_slash)
            connection.execute("CREATE TABLE t (key TEXT COLLATE slash_span PRIMARY KEY)")
            connection.executemany("INSERT INTO t VALUES (?)", [(key,) for key in some])
            found = [key for (key,) in connection.execute("SELECT key FROM t ORDER BY key")]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert found == sorted(some, key=sort_key)


@given(any_key)
def test_a_key_is_stored_as_it_is(key: str) -> None:
    """The stored form is the key; what is no text is refused."""
    assert OLD.decode(OLD.encode(key)) == OLD.encode(key) == key
    with pytest.raises(NotCanonical):
        OLD.decode(key.encode())


def test_it_says_that_it_is_read_only() -> None:
    """Of the built-in encodings it is the one that is no target, and it names those that are."""
    read_only = [name for name in keys.names() if isinstance(keys.get(name), ReadOnlyKeyEncoding)]
    assert read_only == ["old-compare-hierarchical"]
    assert isinstance(OLD, ReadOnlyKeyEncoding)
    assert not any(isinstance(keys.get(name), ReadOnlyKeyEncoding) for name in OLD.use_instead)
    assert [keys.collation_of(keys.get(name)) for name in ("natural", OLD.name)] == [
        "BINARY",
        "slash_span",
    ]
