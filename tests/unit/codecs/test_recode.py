"""Chunks from one format into another: the same, or refused with the row and the type."""

from __future__ import annotations

import json
import math
import pickle
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_store.codecs import BadValue, ValueFormat
from format_store.codecs.canonical import canonical, offender, same, survey
from format_store.codecs.jobs import chunks
from format_store.codecs.recode import (
    DEFAULTS,
    Options,
    _digest,
    _plain_forest_test,
    _plain_tree_test,
    compare_chunk,
    convert_chunk,
    decode_chunk,
    digest_chunk,
    examine_chunk,
    fit_chunk,
    recode_chunk,
)

PICKLE = ValueFormat.named("pickle")
MSGPACK = ValueFormat.named("msgpack")
JSON = ValueFormat.named("json")
RAW = ValueFormat.named("raw")
EXPAND = Options(shared_references="expand")

anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers() | st.binary(max_size=5)
    | st.text(st.characters(categories=["Cs", "Lu"]), max_size=3) | st.binary(max_size=3).map(bytearray)
    | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=3) | st.integers(0, 2) | st.booleans() | st.none(), inner, max_size=3),
)  # fmt: skip


def why(value: Any, target: ValueFormat, options: Options = DEFAULTS) -> BadValue:
    with pytest.raises(BadValue) as caught:
        recode_chunk(
            [
                (1, PICKLE.encode(b"") if target is RAW else PICKLE.encode(1)),
                (77, pickle.dumps(value)),
            ],
            PICKLE,
            target,
            options,
        )
    assert caught.value.rowid == 77
    return caught.value


@pytest.mark.parametrize(
    "target", [MSGPACK, JSON, RAW, ValueFormat.named("msgpack", "zstd")], ids=repr
)
@given(value=anything)
def test_a_value_comes_back_the_same_or_is_refused(target: ValueFormat, value: Any) -> None:
    """Whatever is let through by the quick look at types passes the full comparison, there and back."""
    rows = [(5, PICKLE.encode(value))]
    try:
        new = recode_chunk(rows, PICKLE, target)
    except BadValue as bad:
        assert examine_chunk(rows, PICKLE, target) == [bad]  # noqa: PT017 - refusal is one of two outcomes
        return
    assert canonical(target.decode(new[0][1])) == canonical(value)
    compare_chunk([(5, rows[0][1], new[0][1])], PICKLE, target)
    back = recode_chunk(new, target, PICKLE)
    assert canonical(PICKLE.decode(back[0][1])) == canonical(value)
    assert examine_chunk(rows, PICKLE, target) == []


@pytest.mark.parametrize(
    ("target", "value", "type_name", "where"),
    [
        (MSGPACK, {"a": [0, 1, 2, (3,)]}, "tuple", "tuple at ['a'][3]"),
        (MSGPACK, (1, 2), "tuple", "tuple"),
        (MSGPACK, {"x": {"y": {1}}}, "set", "set at ['x']['y']"),
        (MSGPACK, {"x": bytearray(b"1")}, "bytearray", "bytearray at ['x']"),
        (MSGPACK, {(1, 2): 3}, "tuple", "tuple at key tuple"),
        (MSGPACK, [2**64], "list", "MessagePack cannot hold it"),
        (JSON, {"a": b"x"}, "bytes", "bytes at ['a']"),
        (JSON, {1: "x"}, "int", "int at key 1"),
        (JSON, [{"k": {None: 1}}], "NoneType", "NoneType at [0]['k'] key None"),
        (JSON, [1, (2,)], "tuple", "tuple at [1]"),
        (JSON, "\ud83d\ude00", "str", "comes back different"),
        (JSON, -math.nan, "float", "comes back different"),
        (RAW, "text", "str", "raw value is bytes"),
    ],
)
def test_what_is_refused_names_the_type_and_where_it_is(
    target: ValueFormat, value: Any, type_name: str, where: str
) -> None:
    """The reader can find the value and the part of it."""
    bad = why(value, target)
    assert bad.type_name == type_name
    assert where in bad.why


def test_types_that_compare_equal_are_told_apart() -> None:
    """Each of these is equal in Python to the other, and not the same value."""
    different: list[tuple[Any, Any]] = [
        (True, 1), (1, 1.0), (0.0, -0.0), ((1,), [1]), (b"a", bytearray(b"a")), ({1}, frozenset({1})),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (1, 1 + 0j),
        (struct.unpack("<d", b"\1\0\0\0\0\0\xf8\x7f")[0], math.nan),
        ([{"k": True}], [{"k": 1}]),
    ]  # fmt: skip
    for one, other in different:
        assert not same(one, other)
        assert same(one, pickle.loads(pickle.dumps(one)))
    assert same(math.nan, math.nan)


class Text(str):
    """A subclass that compares equal to its base."""

    __slots__ = ()


def test_subclasses_are_told_apart() -> None:
    """They pickle by the name of their class."""
    assert not same(Text("a"), "a")
    assert same(Text("a"), Text("a"))


def test_equal_sets_with_another_order_inside_are_the_same() -> None:
    """The order in which a set lists its members depends on its history."""
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)
    for wrap in (lambda x: x, lambda x: [x], lambda x: {"k": (x,)}, lambda x: {frozenset(x): 1}):
        assert same(wrap(one), wrap(other))
    assert not same({0, 8}, {0, 9})
    assert not same({0, 1}, {0, True})
    assert not same([{0, 8}, 1], [{8, 0}, True])


def test_shared_references_are_refused_or_expanded() -> None:
    """A mutable object that is reached twice; immutable ones may be."""
    shared = [1]
    for value in ([shared, shared], {"a": shared, "b": {"c": shared}}, [[shared], [shared]]):
        assert "list that is referred to more than once" in why(value, MSGPACK).why
        (row,) = recode_chunk([(1, pickle.dumps(value))], PICKLE, MSGPACK, EXPAND)
        assert MSGPACK.decode(row[1]) == value
    inner = ("x", 1)
    with pytest.raises(BadValue, match="tuple"):  # a tuple is refused as such, not as shared
        recode_chunk([(1, pickle.dumps([inner, inner]))], PICKLE, MSGPACK)
    texts: list[Any] = ["same text", "same text", b"b", b"b"]
    assert recode_chunk([(1, pickle.dumps([texts, list(texts)]))], PICKLE, MSGPACK)


@given(st.integers(0, 3))
def test_shared_mutables_inside_shared_tuples_are_found(depth: int) -> None:
    """A tuple that holds a list is as good as the list."""
    shared: Any = []
    for _ in range(depth + 1):
        shared = (shared,)
    types = frozenset({list, tuple, int})
    with pytest.raises(ValueError, match="more than once"):
        survey([shared, shared], types, types, stored_bytes=10)
    frozen = ((1,), (2, 3))
    assert survey([frozen, frozen], types, types, stored_bytes=10)


def test_cycles_are_refused_always() -> None:
    """Through lists and dicts, in both modes."""
    ring: list[Any] = [1]
    ring.append({"ring": [ring]})
    for options in (Options(), EXPAND):
        assert "contains itself" in why(ring, MSGPACK, options).why


@pytest.mark.parametrize("options", [Options(), EXPAND], ids=["refuse", "expand"])
@pytest.mark.parametrize("kind", [list, tuple])
def test_billion_laughs_are_refused_quickly(kind: Any, options: Options) -> None:
    """A few hundred bytes that stand for 2^60 items are counted, not built."""
    value = kind(["ha"])
    for _ in range(60):
        value = kind([value, value])
    bad = why(value, MSGPACK, options)
    assert "items" in bad.why or "more than once" in bad.why


@pytest.mark.parametrize("target", [MSGPACK, JSON], ids=repr)
def test_deep_nesting_is_a_bad_value(target: ValueFormat) -> None:
    """Not a crash, for any depth; nor when it is compared, decoded or examined."""
    for depth in (2_000, 200_000):
        stored = b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b"."
        with pytest.raises(BadValue) as caught:
            recode_chunk([(3, stored)], PICKLE, target)
        assert caught.value.rowid == 3
        assert len(examine_chunk([(3, stored)], PICKLE, target)) == 1
        with pytest.raises(BadValue):
            compare_chunk([(3, stored, target.encode([]))], PICKLE, target)
        with pytest.raises(BadValue):
            decode_chunk([(3, b"[" * depth)], JSON)


def test_same_codec_is_never_decoded() -> None:
    """Another compression only: even a pickle that could not be read keeps its bytes."""
    stored = b"\x80\x04cos\nsystem\n."
    zstd = ValueFormat.named("pickle", "zstd")
    rows = recode_chunk([(1, stored)], PICKLE, zstd)
    compare_chunk([(1, stored, rows[0][1])], PICKLE, zstd)
    assert recode_chunk(rows, zstd, PICKLE) == [(1, stored)]
    with pytest.raises(BadValue, match="other bytes"):
        compare_chunk([(1, stored, zstd.wrap(stored + b"."))], PICKLE, zstd)
    with pytest.raises(BadValue, match="not a value of the codec pickle"):
        recode_chunk([(1, zstd.wrap(b"[]"))], zstd, PICKLE)


@pytest.mark.parametrize("compression", ["none", "zlib", "zstd"])
def test_json_text_and_bytes_are_one(compression: str) -> None:
    """TEXT and BLOB hold the same JSON; what is written uncompressed is TEXT."""
    target = ValueFormat.named("json", compression)
    text = '{"a": "ü"}'
    for stored in (text, text.encode()):
        rows = recode_chunk([(1, stored)], JSON, target)
        compare_chunk([(1, stored, rows[0][1])], JSON, target)
        assert recode_chunk(rows, target, JSON) == [(1, text)]
    with pytest.raises(BadValue, match="UTF-8"):
        recode_chunk([(1, b'"\xff"')], JSON, JSON)


def test_examine_finds_all_bad_rows_up_to_the_limit() -> None:
    """``plan`` tells everything at once."""
    rows = [(i, PICKLE.encode((i,) if i % 2 else i)) for i in range(100)]
    assert [bad.rowid for bad in examine_chunk(rows, PICKLE, MSGPACK)] == list(range(1, 100, 2))
    assert len(examine_chunk(rows, PICKLE, MSGPACK, limit=7)) == 7


def test_compare_finds_the_row_that_differs() -> None:
    """Also when the difference is one that == does not see."""
    rows = [(i, PICKLE.encode({"n": i}), MSGPACK.encode({"n": i})) for i in range(50)]
    compare_chunk(rows, PICKLE, MSGPACK)
    for wrong in ({"n": 17.0}, {"n": 18}, {"m": 17}, [17]):
        broken = list(rows)
        broken[17] = (17, rows[17][1], MSGPACK.encode(wrong))
        with pytest.raises(BadValue) as caught:
            compare_chunk(broken, PICKLE, MSGPACK)
        assert caught.value.rowid == 17
    broken[17] = (17, rows[17][1], b"\xc1")
    with pytest.raises(BadValue, match="row 17: not MessagePack"):
        compare_chunk(broken, PICKLE, MSGPACK)


def test_fit_tells_formats_apart() -> None:
    """Per format the first row that does not have its signature."""
    formats = [ValueFormat.named(codec, "zlib") for codec in ("pickle", "msgpack", "json")]
    rows = [(i, formats[0].encode(i)) for i in range(5)] + [(9, formats[2].encode("x"))]
    assert fit_chunk(rows[:5], formats) == [None, 0, 0]
    assert fit_chunk(rows, formats) == [9, 0, 0]
    assert fit_chunk([], formats) == [None, None, None]
    assert fit_chunk([(1, '"text"'), (2, b"\x05")], [MSGPACK, JSON, PICKLE, RAW]) == [1, 2, 1, 1]


def test_rows_of_wrong_types_are_bad_values() -> None:
    """NULL, numbers and TEXT where a blob belongs; nothing crashes."""
    for stored in (None, 1, 1.5, "text"):
        for source in (PICKLE, RAW, ValueFormat.named("json", "zstd")):
            with pytest.raises(BadValue):
                recode_chunk([(1, stored)], source, MSGPACK)  # type: ignore[list-item]


def test_offender_keeps_messages_short() -> None:
    """Keys can be long."""
    found = offender({"k" * 10_000: [(1,)]}, frozenset({dict, list, int}), frozenset({str}))
    assert found is not None
    assert found[0] == "tuple"
    assert len(found[1]) < 100


def test_chunks_end_at_rows_or_bytes() -> None:
    """Whichever comes first; a large value ends its chunk; numbers and NULL count nothing."""
    rows: list[tuple[Any, ...]] = [(i, b"x" * 10) for i in range(10)]
    assert [len(chunk) for chunk in chunks(rows, max_rows=4, max_bytes=1000)] == [4, 4, 2]
    assert [len(chunk) for chunk in chunks(rows, max_rows=100, max_bytes=25)] == [3, 3, 3, 1]
    assert list(chunks([])) == []
    assert [len(chunk) for chunk in chunks([(1, None), (2, 5), (3, "x" * 99)], max_bytes=50)] == [3]
    taken = chunks(iter([(1, b"x" * 100), (2, b"y")]), max_bytes=50)
    assert next(taken) == [(1, b"x" * 100)]


def test_sqlitedict_and_json_numbers_survive() -> None:
    """Large ints and floats as JSON has them."""
    for text in ("1e400", "123456789012345678901234567890", "1.10", "-0.0"):
        rows = recode_chunk([(1, text)], JSON, PICKLE)
        assert same(PICKLE.decode(rows[0][1]), json.loads(text))
    assert msgpack.unpackb(recode_chunk([(1, "-0.0")], JSON, MSGPACK)[0][1]) == 0


# --- digests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [MSGPACK, JSON, ValueFormat.named("pickle", "zstd")], ids=repr)
def test_digests_tell_whether_values_are_the_same(target: ValueFormat) -> None:
    """That of the old values is that of the new ones as read back; one value, type or rowid less, and it is not."""
    values = [{"a": [1, 2.0, "x"], "b": None}, ["", 0, False], 7, {"n": {"m": []}}]
    old = [(10 + number, PICKLE.encode(value)) for number, value in enumerate(values)]
    new, digest = convert_chunk(old, PICKLE, target)
    assert new == recode_chunk(old, PICKLE, target)
    assert len(digest) == 32
    assert digest_chunk(new, PICKLE, target) == digest
    if target.codec.name != "pickle":
        for number, other in ((0, {"a": [1, 2, "x"], "b": None}), (1, ["", 0, 0]), (2, 7.0)):
            changed = [*new[:number], (new[number][0], target.encode(other)), *new[number + 1 :]]
            assert digest_chunk(changed, PICKLE, target) != digest
    assert digest_chunk([(rowid + 1, stored) for rowid, stored in new], PICKLE, target) != digest
    assert digest_chunk(new[1:], PICKLE, target) != digest


def test_no_digest_where_there_is_no_canonical_form() -> None:
    """Nested too deeply to be written down: no digest, which leaves the chunk to the comparison."""
    value: Any = []
    for _ in range(100_000):
        value = [value]
    assert _digest([1], [value]) == b""
    assert _digest([1], [[]]) != b""


@given(anything, st.data())
def test_the_quick_look_says_nothing_that_the_long_one_does_not(
    value: Any, data: st.DataObject
) -> None:
    """Where it takes a value for a plain tree, ``survey`` does; shared parts it never overlooks."""
    types, key_types = MSGPACK.codec.exact_types, MSGPACK.codec.exact_key_types
    look = _plain_tree_test(types, key_types)
    shared = data.draw(
        st.sampled_from([value, [value, value], {"a": value, "b": value}, [[value], value]])
    )
    if look(shared):
        assert survey(shared, types, key_types, stored_bytes=1000)


@pytest.mark.parametrize("shared", [[1], {"a": 1}, []], ids=repr)
def test_the_quick_look_sees_what_is_shared(shared: Any) -> None:
    """One list under two fields is not a tree, however flat."""
    types, key_types = MSGPACK.codec.exact_types, MSGPACK.codec.exact_key_types
    look = _plain_tree_test(types, key_types)
    assert not look([shared, shared])
    assert not look({"a": shared, "b": shared})
    assert look([shared, type(shared)(shared)])


@given(st.lists(anything, max_size=4), st.data())
def test_the_quick_look_at_many_is_that_at_each(values: list[Any], data: st.DataObject) -> None:
    """Where it takes all values together for plain trees, ``survey`` takes each of them for one."""
    types, key_types = MSGPACK.codec.exact_types, MSGPACK.codec.exact_key_types
    look = _plain_forest_test(types, key_types)
    shared = data.draw(st.sampled_from([values, [*values, [values]], [{"a": values}, *values]]))
    if look(shared):
        assert all(survey(one, types, key_types, stored_bytes=1000) for one in shared)
    each = _plain_tree_test(types, key_types)
    # Drawn values may be one object: copies are not.
    assert look([pickle.loads(pickle.dumps(value)) for value in values if each(value)])


def test_the_quick_look_at_many_ends_soon() -> None:
    """A list that holds itself, and lists that hold each other often, are seen before they are followed."""
    look = _plain_forest_test(MSGPACK.codec.exact_types, MSGPACK.codec.exact_key_types)
    endless: list[Any] = []
    endless.append(endless)
    laughs: list[Any] = [1]
    for _ in range(60):
        laughs = [laughs, laughs]
    assert not look([endless])
    assert not look([1, laughs])
    assert not look([{"a": [{(): 1}]}])
    assert look([{"a": [{"b": [[2.0, {}]]}]}, 1, []])


@pytest.mark.parametrize("target", [MSGPACK, JSON, ValueFormat.named("msgpack", "zstd")], ids=repr)
@given(values=st.lists(anything, max_size=4))
def test_many_at_once_are_what_each_is(target: ValueFormat, values: list[Any]) -> None:
    """``convert_chunk`` goes step by step for all rows; it makes, and refuses, what ``recode_chunk`` does."""
    rows = [(number, pickle.dumps(value)) for number, value in enumerate(values)]

    def outcome(convert: Callable[[], Any]) -> Any:
        try:
            return convert()
        except BadValue as error:
            return error.rowid, error.type_name, error.why

    assert outcome(lambda: convert_chunk(rows, PICKLE, target)[0]) == outcome(
        lambda: recode_chunk(rows, PICKLE, target)
    )
