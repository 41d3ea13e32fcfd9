"""Codecs, compressions and their combinations: round trips, limits, and what SQLite sees of them."""

from __future__ import annotations

import json
import math
import pickle
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlitedict import SqliteDict

from format_store.codecs import (
    Undecodable,
    Unencodable,
    UnknownFormat,
    ValueFormat,
    ValueTooLarge,
    codec_names,
    compression_names,
    get_codec,
    get_compression,
)
from format_store.codecs.canonical import canonical

CODECS = ("pickle", "json", "msgpack", "raw")
COMPRESSIONS = ("none", "zlib", "zstd")
FORMATS = [
    ValueFormat.named(codec, compression) for codec in CODECS for compression in COMPRESSIONS
]

scalars = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=20)
    | st.integers(-(2**63), 2**64 - 1)
)
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
)
plain_values = st.recursive(
    scalars | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(scalars | st.binary(max_size=3), inner, max_size=4)
    ),
)
pickle_values = st.recursive(
    scalars | st.binary(max_size=20) | st.complex_numbers() | st.integers() | st.binary().map(bytearray)
    | st.frozensets(st.integers(), max_size=1) | st.sets(st.text(), max_size=1),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)  # fmt: skip
values_of = {
    "pickle": pickle_values,
    "json": json_values,
    "msgpack": plain_values,
    "raw": st.binary(),
}


def nan_free(value: Any) -> bool:
    """JSON has one NaN only; which one a value holds is for ``recode`` to look at."""
    return b"G\x7f\xf8" not in canonical(value) and b"G\xff" not in canonical(value)


def evaluate(sql: str, value: Any) -> Any:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (value BLOB)")
    connection.execute("INSERT INTO t VALUES (?)", (value,))
    result = connection.execute(f"SELECT {sql} FROM t").fetchone()[0]
    connection.close()
    return result


@pytest.mark.parametrize("value_format", FORMATS, ids=repr)
@given(data=st.data())
def test_round_trip_and_signature(value_format: ValueFormat, data: st.DataObject) -> None:
    """A value comes back the same, its stored form satisfies the CHECK, and Python agrees with the SQL."""
    value = data.draw(values_of[value_format.codec.name])
    if value_format.codec.name == "json" and not nan_free(value):
        return
    stored = value_format.encode(value)
    assert type(stored) is (
        str if value_format.codec.text and not value_format.compressed else bytes
    )
    assert canonical(value_format.decode(stored)) == canonical(value)
    assert evaluate(value_format.check_sql('"value"'), stored) == 1
    assert value_format.fits(stored)


@pytest.mark.parametrize("stored", [None, 0, 1, 1.5, -1, 10**12])
@pytest.mark.parametrize("value_format", FORMATS, ids=repr)
def test_numbers_and_null_fit_no_format(value_format: ValueFormat, stored: Any) -> None:
    """The CHECK is false, never NULL (which SQLite would accept), and decoding refuses."""
    assert evaluate(value_format.check_sql("value"), stored) == 0
    with pytest.raises(Undecodable):
        value_format.decode(stored)


@given(value=json_values | plain_values | pickle_values)
def test_no_outer_form_is_taken_for_another(value: Any) -> None:
    """Every stored value satisfies the CHECKs of its own outer form and of raw, of no other."""
    layers = {"pickle": "pickle", "json": "json", "msgpack": "msgpack"}
    for codec in layers:
        for compression in COMPRESSIONS:
            try:
                stored = ValueFormat.named(codec, compression).encode(value)
            except Unencodable:
                continue
            own = codec if compression == "none" else compression
            fitting = {
                name
                for name in (*layers, "zlib", "zstd")
                if evaluate(
                    (get_codec(name) if name in layers else get_compression(name)).signature_sql(
                        "value"
                    ),
                    stored,
                )
            }
            assert fitting == {own}


@given(
    st.binary(max_size=6)
    | st.sampled_from([b"\x80", b"\xc1", b"5", b"\x90", b"N.", b"\x80.", b"x\x9c"])
)
def test_python_and_sql_agree_on_any_blob(stored: bytes) -> None:
    """``plausible`` is ``signature_sql`` in Python."""
    for name in CODECS:
        codec = get_codec(name)
        assert evaluate(codec.signature_sql("value"), stored) == codec.plausible(stored), name


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read_and_recognised(protocol: int) -> None:
    """Also 0 and 1, which sqlitedict reads; also what plain data needs globals for."""
    value = {
        "a": [1, 2.5, None, True],
        "b": b"\0\xff",
        "c": {1, 2},
        "d": bytearray(b"x"),
        "e": 1 + 2j,
        "": b"",
    }
    value["f"] = frozenset([(1, "x")])
    stored = pickle.dumps(value, protocol)
    codec = get_codec("pickle")
    assert canonical(codec.decode(stored)) == canonical(value)
    assert evaluate(codec.signature_sql("value"), stored) == 1
    assert codec.decode(pickle.dumps(7, protocol)) == 7


def test_pickles_written_are_those_of_sqlitedict() -> None:
    """Byte for byte: a value that was converted back looks as if it had never been away."""
    value = {"a": [1, "x", None], "b": {"c": b"\0"}}
    assert get_codec("pickle").encode(value) == pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def test_json_is_compact_text_and_escapes_only_lone_surrogates() -> None:
    """SQLite can store what is written, and reading accepts blobs too."""
    codec = get_codec("json")
    assert codec.encode({"ü": [1, "日"]}) == '{"ü":[1,"日"]}'
    assert codec.encode(["ü", "\ud800"]) == '["\\u00fc","\\ud800"]'
    assert codec.decode(b'["\\ud800"]') == ["\ud800"]
    assert math.isnan(codec.decode(codec.encode(math.nan)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codec", "value"),
    [("msgpack", (1, 2)), ("msgpack", 2**64), ("msgpack", {1}), ("msgpack", "\ud800"), ("msgpack", object()),
     ("json", b"x"), ("json", {1}), ("json", {(1, 2): 3}), pytest.param("json", 10**5000, id="json-long-int"), ("raw", "x"),
     ("raw", bytearray(b"x")), ("raw", None), ("pickle", object()), ("pickle", len), ("pickle", int)],
)  # fmt: skip
def test_what_a_codec_cannot_hold_is_refused(codec: str, value: Any) -> None:
    """With the codec's own error, whatever the library raises."""
    with pytest.raises(Unencodable):
        get_codec(codec).encode(value)


@pytest.mark.parametrize(
    ("codec", "stored"),
    [("msgpack", b""), ("msgpack", b"\xc1"), ("msgpack", b"\x01\x02"), ("msgpack", b"\xdd\xff\xff\xff\xff"),
     ("msgpack", b"\x81\x90\x01"), ("msgpack", b"\xa1\xff"), ("msgpack", b"\x91" * 5000 + b"\xc0"),
     ("json", ""), ("json", "{"), ("json", b"\xff"), ("json", "1 2"), ("json", "[" + "1" * 5000 + "]"),
     ("raw", "text"), ("pickle", b""), ("pickle", b"\x80"), ("pickle", b"\x80\x05."), ("pickle", "N."),
     ("pickle", pickle.dumps([1])[:-1]), ("pickle", pickle.dumps([1]) + b"N."), ("pickle", b"\x80\xff."),
     ("pickle", b"N.."), ("pickle", pickle.dumps(1, 2) + b"."), ("pickle", b"\x80\x05(.")],
)  # fmt: skip
def test_damaged_values_are_refused(codec: str, stored: Any) -> None:
    """Cut short, followed by something, of another type: one kind of error."""
    with pytest.raises(Undecodable):
        get_codec(codec).decode(stored)


@pytest.mark.parametrize("name", ["zlib", "zstd"])
def test_decompression_is_bounded_and_exact(name: str) -> None:
    """A bomb stops at the limit; the limit itself is fine; short, damaged or longer input is refused."""
    compression = get_compression(name)
    bomb = compression.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(ValueTooLarge):
        compression.decompress(bomb, 1000)
    data = compression.compress(b"x" * 1000)
    assert compression.decompress(data, 1000) == b"x" * 1000
    with pytest.raises(ValueTooLarge):
        compression.decompress(data, 999)
    for wrong in [b"", data[:-1], data[:5], data + b"\0", data + data, b"\xff" * 20]:
        with pytest.raises(Undecodable):
            compression.decompress(wrong, 10_000)
    assert compression.decompress(compression.compress(b""), 0) == b""


@pytest.mark.parametrize("level", range(10))
def test_zlib_of_any_level_is_recognised(level: int) -> None:
    """Apps choose their own level; the header tells it."""
    stored = zlib.compress(pickle.dumps([1, 2, 3]), level)
    value_format = ValueFormat.named("pickle", "zlib")
    assert evaluate(value_format.check_sql("value"), stored) == 1
    assert value_format.decode(stored) == [1, 2, 3]


def test_fits_looks_through_the_compression() -> None:
    """SQL sees the outer frame; Python tells what is in it."""
    stored = ValueFormat.named("pickle", "zstd").encode([1])
    fitting = {item for item in FORMATS if item.fits(stored)}
    assert {repr(item) for item in fitting} == {
        "ValueFormat('pickle', 'zstd')", "ValueFormat('raw', 'zstd')", "ValueFormat('raw', 'none')",
    }  # fmt: skip


@pytest.mark.parametrize(
    "value_format", [item for item in FORMATS if (item.codec.name, item.compression.name)
                     not in {("pickle", "none"), ("raw", "none")}], ids=repr,
)  # fmt: skip
@pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning")
def test_plain_sqlitedict_cannot_write_into_a_guarded_table(
    tmp_path: Path, value_format: ValueFormat
) -> None:
    """An app that knows nothing of the format gets an IntegrityError; the old value stays."""
    path = tmp_path / "db"
    connection = sqlite3.connect(path)
    check = value_format.check_sql('"value"')
    connection.execute(f'CREATE TABLE "unnamed" (key TEXT PRIMARY KEY, value BLOB CHECK({check}))')
    own = value_format.encode(b"payload" if value_format.codec.name == "raw" else "payload")
    connection.execute("INSERT INTO unnamed VALUES ('a', ?)", (own,))
    connection.commit()
    values: list[object] = [None, 1, -5, "text", {"a": 1}, [], {}, b"", "x" * 5000]
    for value in values:
        for protocol in range(2, 6):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(
                    "REPLACE INTO unnamed VALUES ('a', ?)", (pickle.dumps(value, protocol),)
                )
    connection.close()
    with SqliteDict(str(path), autocommit=False, outer_stack=False) as database:
        database["a"] = {"unaware": True}
        with pytest.raises(sqlite3.IntegrityError):
            database.commit(blocking=True)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT value FROM unnamed").fetchall() == [(own,)]
    connection.close()


def test_json_app_of_sqlitedict_can_write_into_a_json_table() -> None:
    """``encode=json.dumps`` stores TEXT with spaces: the guard lets it pass."""
    check = get_codec("json").signature_sql("value")
    for value in [{"a": 1}, [], "x", 1, -1.5, None, True, False, math.nan, -math.inf]:
        assert evaluate(check, json.dumps(value)) == 1
        assert evaluate(check, json.dumps(value).encode()) == 1
    for other in ["", " ", "x", "hello", "\0", b""]:
        assert evaluate(check, other) == 0


def test_msgpack_extension_types_are_carried() -> None:
    """They are read as what the library has for them, and written again."""
    codec = get_codec("msgpack")
    stored = msgpack.packb([msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2)])
    assert codec.encode(codec.decode(stored)) == stored


def test_unknown_names_are_refused() -> None:
    """With what there is in the message."""
    assert codec_names()[:4] == CODECS
    assert compression_names()[:3] == COMPRESSIONS
    with pytest.raises(UnknownFormat, match="msgpack"):
        get_codec("no-such")
    with pytest.raises(UnknownFormat, match="zstd"):
        get_compression("no-such")
    with pytest.raises(UnknownFormat):
        ValueFormat.named("raw", "lz77")


class Shouting:
    """A compression as another package would bring it."""

    name = "shouting"

    def compress(self, data: bytes) -> bytes:
        return b"!" + data

    def decompress(self, data: bytes, max_size: int) -> bytes:
        return data[1 : max_size + 1]

    def signature_sql(self, column: str) -> str:
        return f"(typeof({column})='blob' AND substr({column},1,1)=x'21')"


def test_other_packages_add_compressions_and_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through entry points, which are looked at for names that are not built in only."""
    import importlib.metadata

    asked: list[tuple[str, str | None]] = []

    class Point:
        value = "elsewhere:Shouting"

        def load(self) -> type:
            return Shouting

    def entry_points(*, group: str, name: str | None = None) -> list[Any]:
        asked.append((group, name))
        return [Point()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert get_compression("zstd").name == "zstd"
    assert asked == []
    value_format = ValueFormat.named("json", "shouting")
    assert asked == [("storageformat.compressions", "shouting")]
    assert value_format.encode([1]) == b"![1]"
    assert value_format.decode(b"![1]") == [1]
    with pytest.raises(UnknownFormat):  # what the entry point names is no codec
        get_codec("shouting")
