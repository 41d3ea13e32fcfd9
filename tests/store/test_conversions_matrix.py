"""Every format into another and back: values of every kind that the target holds, keys of every shape."""

from __future__ import annotations

import itertools
import math
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from format_store import PLAIN_SQLITEDICT, Format, Outcome, convert
from tests.support.databases import (
    Records,
    leftovers,
    marker_of,
    read_table,
    records_on_disk,
    write_plain,
)

KEYS = ("natural", "hierarchical")
CODECS = ("pickle", "json", "msgpack", "raw")
COMPRESSIONS = ("none", "zlib", "zstd")
FORMATS = [
    Format.sqlitedict(key_encoding=keys, value_codec=codec, compression=compression)
    for keys, codec, compression in itertools.product(KEYS, CODECS, COMPRESSIONS)
]

#: Keys that an encoding could stumble over, in no order at all.
ODD_KEYS = [
    "/z", "", "/", "//", "///", "/a/", "/a//", "a", "/ü/ß", "/emoji/\U0001f600", "/nul/\x00/x", "__oxia/x",
    "/space here", "/quote'\"", "/" * 50, "/" + "k" * 3000, "/a/b/c", "/a/b", "/A", "/a", "\uffff", "\x7f",
    "/%2F", "0", "null",
]  # fmt: skip

_JSON_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 0.0, -0.0, 1.0, 1e308, 5e-324, math.inf, -math.inf,
    "", "abc", "ABC", "ü", "\U0001f600", "\x00", [], {}, [1, [2, [3, []]]], {"": {"": ""}},
    {"b": 1, "a": 2}, {"a": 2, "b": 1}, ["x"] * 100, "long " * 5000,
]  # fmt: skip
_MSGPACK_VALUES = [
    *_JSON_VALUES,
    math.nan,
    b"",
    b"\x00\xff",
    {1: "one", None: 2, b"k": 3},
    2**64 - 1,
]
_PICKLE_VALUES = [
    *_MSGPACK_VALUES, 2**200, (1, (2, 3)), (), {1, 2}, frozenset({3}), bytearray(b"x"), 1 + 2j, {(1, 2): "t"},
    "\ud800",
]  # fmt: skip
_RAW_VALUES = [
    b"",
    b"\x00",
    b"\x80\x04.",
    b"{}",
    b"\xc0",
    b"x\x9c",
    b"\x28\xb5\x2f\xfd",
    bytes(range(256)) * 40,
]
VALUES = {
    "json": _JSON_VALUES,
    "msgpack": _MSGPACK_VALUES,
    "pickle": _PICKLE_VALUES,
    "raw": _RAW_VALUES,
}


def exactly(records: Records) -> list[tuple[str, bytes]]:
    """Equal exactly when the records are, types, signs and order included."""
    return [(key, pickle.dumps(value, protocol=2)) for key, value in records]


def records_for(*codecs: str) -> Records:
    """Every key; every value that all the codecs hold."""
    smallest = min(codecs, key=["json", "msgpack", "pickle"].index)
    values = VALUES[smallest]
    count = max(len(values), len(ODD_KEYS))
    return [
        (ODD_KEYS[n] if n < len(ODD_KEYS) else f"/more/{n}", values[n % len(values)])
        for n in range(count)
    ]


def codec_of(declared: Format) -> str:
    return str(declared.parameters["valueCodec"])


def require(path: Path, expected: Format, records: Records) -> None:
    """The file says that it is in the format, is, and holds exactly the records, in their order."""
    marker = marker_of(path)
    assert marker is not None
    assert marker["format"] == expected.to_spec()
    assert exactly(records_on_disk(path)) == exactly(records)
    assert leftovers(path) == []


@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_from_plain_and_back(tmp_path: Path, target: Format) -> None:
    """What an ordinary application wrote comes back as it wrote it, byte for byte in its schema."""
    path = tmp_path / "orders.db"
    if codec_of(target) == "raw":
        # A pickle is no bytes value, unless it is the pickle of one.
        records = [(key, VALUES["raw"][n % len(VALUES["raw"])]) for n, key in enumerate(ODD_KEYS)]
        origin = PLAIN_SQLITEDICT
        write_plain(path, records)
        convert(path, origin)
    else:
        records = records_for(codec_of(target))
        write_plain(path, records)
    before = schema_of(path)
    convert(path, target)
    require(path, target, records)
    convert(path, PLAIN_SQLITEDICT)
    require(path, PLAIN_SQLITEDICT, records)
    assert {name: sql for name, sql in schema_of(path).items() if name != "_storageformat"} == {
        name: sql for name, sql in before.items() if name != "_storageformat"
    }


def schema_of(path: Path) -> dict[str, str | None]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, sql FROM sqlite_schema"))


#: Codec and compression: nine forms of a value that other codecs can hold as well.
FORMS = [pair for pair in itertools.product(CODECS, COMPRESSIONS) if pair[0] != "raw"]
#: Every encoding of keys follows every other one, itself included.
KEYS_IN_TURN = ("natural", "natural", "hierarchical", "hierarchical")


def in_turn(number: int, form: tuple[str, str]) -> Format:
    keys = KEYS_IN_TURN[number % len(KEYS_IN_TURN)]
    return Format.sqlitedict(key_encoding=keys, value_codec=form[0], compression=form[1])


@pytest.mark.parametrize("step", range(1, len(FORMS)))
def test_from_every_form_of_values_into_every_other(tmp_path: Path, step: int) -> None:
    """All pairs, forth in one case and back in another, while the keys change, and do not, in turn.

    Each case is a walk around the forms, so many of them on at a time. What comes out of one conversion
    goes into the next: whatever one lost would be missing at the end.
    """
    records = records_for("json")
    path = tmp_path / "orders.db"
    write_plain(path, records)
    circles = math.gcd(step, len(FORMS))
    turn = step
    for start in range(circles):
        source = in_turn(turn, FORMS[start])
        convert(path, source)
        for n in range(1, len(FORMS) // circles + 1):
            turn += 1
            target = in_turn(turn, FORMS[(start + n * step) % len(FORMS)])
            result = convert(path, target)
            assert (result.outcome, result.source, result.target) == (
                Outcome.CONVERTED,
                source,
                target,
            )
            assert result.rows == len(records)
            require(path, target, records)
            source = target


@pytest.mark.parametrize(
    ("one", "other"),
    list(itertools.combinations([f for f in FORMATS if codec_of(f) == "raw"], 2)),
    ids=str,
)
def test_raw_values(tmp_path: Path, one: Format, other: Format) -> None:
    """Raw bytes stay what they are under every compression and key encoding, forth and back."""
    path = tmp_path / "orders.db"
    records = [(key, VALUES["raw"][n % len(VALUES["raw"])]) for n, key in enumerate(ODD_KEYS)]
    write_plain(path, records, encode=sqlite3.Binary)
    convert(path, one, unmarked=(Format.sqlitedict(value_codec="raw"),))
    for target in (other, one):
        convert(path, target)
        require(path, target, records)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_the_widest_values_of_a_codec(tmp_path: Path, codec: str) -> None:
    """NaN, bytes, keys of any type and 64-bit numbers survive wherever the codec has a form for them."""
    path = tmp_path / "orders.db"
    records = records_for(codec)
    write_plain(path, records)
    for keys, compression in itertools.product(KEYS, COMPRESSIONS):
        target = Format.sqlitedict(key_encoding=keys, value_codec=codec, compression=compression)
        convert(path, target)
        require(path, target, records)
    convert(path, PLAIN_SQLITEDICT)
    assert exactly(read_table(path, {})) == exactly(records)


@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_the_same_format_again(tmp_path: Path, target: Format) -> None:
    """A database in the target format is left alone: not a byte, not even its time, changes."""
    path = tmp_path / "orders.db"
    write_plain(path, [])
    convert(path, target)
    before = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
    assert convert(path, target).outcome is Outcome.UNCHANGED
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
