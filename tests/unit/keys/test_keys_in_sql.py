"""Key encodings as SQL expressions: what Python says, SQL says, whatever the key."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from format_store import keys
from format_store.keys import Hierarchical, NotCanonical, SqlKeyEncoding

HIERARCHICAL = Hierarchical()
VECTORS = json.loads((Path(__file__).parent / "oxia_vectors.json").read_text("utf-8"))["vectors"]

any_key = st.one_of(
    st.text(st.sampled_from("/a_.\0é日😀"), max_size=9),
    st.text(max_size=20),
    st.text(st.sampled_from("/_ox"), max_size=12),
    st.text(st.sampled_from("/ab"), max_size=9).map("__oxia/".__add__),
)


def in_sql(key: str) -> object:
    """The expression's answer; where it would ask Python, Python's."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("python", 1, HIERARCHICAL.encode)
        connection.execute("CREATE TABLE t (key TEXT)")
        connection.execute("INSERT INTO t VALUES (?)", (key,))
        expression = HIERARCHICAL.encode_sql("key", "python(key)")
        (stored,) = connection.execute(
            f"SELECT {expression} FROM t", dict(HIERARCHICAL.sql_parameters)
        ).fetchone()
    return stored


def decodes(stored: object, key: str) -> object:
    def python(value: object) -> str | None:
        try:
            return HIERARCHICAL.decode(value)  # type: ignore[arg-type]
        except NotCanonical:
            return None

    with closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("python", 1, python)
        connection.execute("CREATE TABLE t (stored, key TEXT)")
        connection.execute("INSERT INTO t VALUES (?, ?)", (stored, key))
        expression = HIERARCHICAL.decodes_sql("stored", "key", "python(stored)")
        (true,) = connection.execute(
            f"SELECT count(*) FROM t WHERE {expression}", dict(HIERARCHICAL.sql_parameters)
        ).fetchone()
    return true


def test_only_hierarchical_speaks_sql() -> None:
    """What is said of an encoding in SQL is an offer: natural keys need none."""
    assert isinstance(keys.get("hierarchical"), SqlKeyEncoding)
    assert not isinstance(keys.get("natural"), SqlKeyEncoding)


@given(any_key)
@example("a\0//")
@example("a\0/b/c")
@example("__oxia/")
@example("__oxi/a")
@example("//")
@example("/" * 40_000)
@example("a/" * 16_383)
@example("/" * 32_767)
@example("")
def test_sql_encodes_as_python_does(key: str) -> None:
    """NUL, a double slash at the end, Oxia's own keys and great depths among them; the inverse agrees."""
    stored = HIERARCHICAL.encode(key)
    assert in_sql(key) == stored
    assert decodes(stored, key) == 1


def test_oxias_vectors() -> None:
    """The bytes are those of Oxia's encoder in SQL, too."""
    for vector in VECTORS:
        spec = vector["key"]
        key = spec if isinstance(spec, str) else "".join(unit * times for unit, times in spec)
        assert in_sql(key) == HIERARCHICAL.encode(key)


@given(any_key, st.data())
def test_nothing_but_the_stored_form_decodes(key: str, data: st.DataObject) -> None:
    """Another level, a slash that stayed, a byte more or less, text, NULL: SQL takes them as Python does."""
    stored = bytearray(HIERARCHICAL.encode(key))
    position = data.draw(st.integers(0, len(stored) - 1))
    change = data.draw(st.sampled_from(["flip", "drop", "insert", "slash"]))
    if change == "flip":
        stored[position] ^= data.draw(st.integers(1, 255))
    elif change == "drop":
        del stored[position]
    elif change == "insert":
        stored.insert(position, data.draw(st.integers(0, 255)))
    else:
        stored = bytearray(bytes(stored).replace(b"\xff", b"/"))
    changed = bytes(stored)
    try:
        expected = int(HIERARCHICAL.decode(changed) == key)
    except NotCanonical:
        expected = 0
    assert decodes(changed, key) == expected
    assert decodes(key, key) == 0
    assert decodes(None, key) == 0
