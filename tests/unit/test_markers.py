"""The marker: what is written is what is read, and whatever else stands there is refused."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_store import Format, Marker, errors
from format_store.formats import parse_marker

FORMATS = st.builds(
    Format.sqlitedict,
    key_encoding=st.sampled_from(["natural", "hierarchical"]),
    value_codec=st.sampled_from(["pickle", "json", "msgpack", "raw"]),
    compression=st.sampled_from(["none", "zlib", "zstd"]),
    tables=st.none()
    | st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, unique=True
    ),
    shared_references=st.sampled_from(["refuse", "expand"]),
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
MARKERS = st.builds(Marker, FORMATS, WORDS, WORDS, WORDS)
MARKER = Marker(Format.sqlitedict(tables=["it's"]), "id", "2026-11-23T10:46:39Z", "0.1.0")


@given(MARKERS)
def test_round_trip(marker: Marker) -> None:
    """Whatever names it holds, quotes included, a marker reads back as it was written."""
    assert parse_marker(marker.create_statement(), path="orders.db") == marker


@given(MARKERS)
def test_round_trip_through_a_schema(marker: Marker) -> None:
    """SQLite takes the statement and hands out the very same text; run as SQL, it tells the marker too."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(marker.create_statement())
        (statement,) = connection.execute("SELECT sql FROM sqlite_schema").fetchone()
        (text,) = connection.execute("SELECT marker FROM _storageformat").fetchone()
    assert parse_marker(statement, path="orders.db") == marker
    assert json.loads(text) == marker.to_dict()


@given(FORMATS)
def test_formats_survive_their_spec(declared: Format) -> None:
    """``to_spec`` and ``from_spec`` are each other's inverse."""
    assert Format.from_spec(declared.to_spec()) == declared
    assert json.loads(json.dumps(declared.to_spec())) == declared.to_spec()


def test_the_marker_is_canonical() -> None:
    """The same marker is the same text: keys sorted, nothing between them."""
    assert MARKER.create_statement() == (
        "CREATE VIEW _storageformat AS SELECT '"
        '{"conversion":"id","convertedAt":"2026-11-23T10:46:39Z","format":{"sqlitedict":{"keyEncoding":'
        '"natural","tables":["it\'\'s"],"valueCodec":"pickle"}},"markerVersion":1,"tool":"0.1.0"}\' AS marker'
    )


@pytest.mark.parametrize("cut", range(0, len(MARKER.create_statement()), 7))
def test_cut_anywhere(cut: int) -> None:
    """A statement that is cut short is no marker, wherever the cut is."""
    with pytest.raises(errors.UnreadableMarker) as caught:
        parse_marker(MARKER.create_statement()[:cut], path="orders.db")
    assert "orders.db" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"markerVersion":2}', errors.NewerMarker),
        ('{"markerVersion":1}', errors.UnreadableMarker),
        ("{}' AS marker, 'x", errors.UnreadableMarker),
        ('"text"', errors.UnreadableMarker),
        (
            '{"markerVersion":1,"conversion":"i","convertedAt":"t","tool":"v","format":{"x":{}}}',
            errors.UnknownMarker,
        ),
    ],
)
def test_kinds_of_unreadable(text: str, kind: type[errors.StoreError]) -> None:
    """Newer, unknown and torn are told apart, and each is a kind of the same error."""
    with pytest.raises(errors.UnreadableMarker) as caught:
        parse_marker(f"CREATE VIEW _storageformat AS SELECT '{text}' AS marker", path="orders.db")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"sqlitedict": {"keyEncoding": "sorted"}}, "sorted"),
        ({"sqlitedict": {"valueCodec": None}}, "valueCodec"),
        ({"sqlitedict": {"tables": []}}, "tables"),
        ({"sqlitedict": {"tables": ["a", "a"]}}, "tables"),
        ({"sqlitedict": {"tables": "unnamed"}}, "tables"),
        ({"sqlitedict": {"sharedReferences": "ignore"}}, "sharedReferences"),
        ({"sqlitedict": {"level": 9}}, "level"),
        ({"leveldb": {}}, "leveldb"),
        ({"name": "v1"}, "names one engine"),
        ([], "mapping"),
    ],
)
def test_invalid_formats(spec: Any, says: str) -> None:
    """A declared format that does not exist is the caller's mistake: told by name, exit code 2."""
    with pytest.raises(errors.InvalidFormat, match=says) as caught:
        Format.from_spec(spec)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_options_that_are_not_on_disk() -> None:
    """How to convert is no part of what lies on disk; which tables is."""
    plain = Format.sqlitedict()
    assert plain.same_bytes_as(Format.sqlitedict(shared_references="expand"))
    assert plain != Format.sqlitedict(shared_references="expand")
    assert not plain.same_bytes_as(Format.sqlitedict(tables=["unnamed"]))
    assert not plain.same_bytes_as(Format.sqlitedict(compression="zlib"))
