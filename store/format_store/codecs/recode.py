"""Chunks of rows from one value format into another, and the comparison of what came out.

Pure functions over lists of rows. They run in worker processes (``pool``) or, for values that somebody
vouches for, in the caller's. A row whose value cannot be carried over is a ``BadValue``.

Two formats with the same codec never decode a value: its inner form is compressed anew, and compared as
bytes. Otherwise a value must come back the same, in the sense of ``canonical``, and be a tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import Any, NamedTuple

from format_store.codecs.base import MAX_VALUE_BYTES, Stored
from format_store.codecs.canonical import CONTAINERS, canonical, offender, same, survey
from format_store.codecs.combined import ValueFormat
from format_store.codecs.errors import BadValue, CodecError, Forbidden, Undecodable, Unencodable

Row = tuple[int, Stored]
Pair = tuple[int, Stored, Stored]


class Options(NamedTuple):
    """What a conversion of values depends on beside the two formats.

    ``shared_references``: ``refuse`` or ``expand``. ``memory_limit`` is only named in messages; the pool
    enforces it. ``tolerate_forbidden``: a decode that would need a class which is not allowed is no error.
    """

    pickle_allow: tuple[str, ...] = ()
    shared_references: str = "refuse"
    max_value_bytes: int = MAX_VALUE_BYTES
    memory_limit: int | None = None
    tolerate_forbidden: bool = False


DEFAULTS = Options()


def recode_chunk(
    rows: Sequence[Row], source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS
) -> list[Row]:
    """The rows with their values in the target format. Raises BadValue at the first that cannot be."""
    convert = _converter(source, target, options)
    result: list[Row] = []
    append = result.append
    for rowid, stored in rows:
        try:
            append((rowid, convert(stored)[1]))
        except (CodecError, MemoryError, RecursionError) as error:
            raise bad_value(rowid, error, options) from error
    return result


def convert_chunk(
    rows: Sequence[Row], source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS
) -> tuple[list[Row], bytes]:
    """As ``recode_chunk``, and the digest of what the rows' old values mean; see ``digest_chunk``."""
    rowids = [rowid for rowid, _ in rows]
    try:
        values, encoded = _all_at_once(source, target, options)([stored for _, stored in rows])
    except (CodecError, MemoryError, RecursionError):
        # Which row it is that cannot be converted, and whether it is one row, comes out one by one.
        convert = _converter(source, target, options)
        values, encoded = [], []
        for rowid, stored in rows:
            try:
                value, new = convert(stored)
            except (CodecError, MemoryError, RecursionError) as error:
                raise bad_value(rowid, error, options) from error
            values.append(value)
            encoded.append(new)
    return list(zip(rowids, encoded, strict=True)), _digest(rowids, values)


def digest_chunk(
    rows: Sequence[Row], source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS
) -> bytes:
    """SHA-256 over the canonical form of the rows (rowids and values) as read from the ``target`` format.

    It is the one that ``convert_chunk`` made of the old values if and only if every value is the same, but for
    sets, which may list their members in another order. Empty where there is no canonical form to be had:
    then, and where two differ, ``compare_chunk`` decides. Raises BadValue for a value that cannot be read.
    """
    read = target.plain_bytes if source.codec.name == target.codec.name else _decoder(target)
    values: list[object] = []
    for rowid, stored in rows:
        try:
            values.append(read(stored))
        except (CodecError, MemoryError, RecursionError) as error:
            raise bad_value(rowid, error, options) from error
    return _digest([rowid for rowid, _ in rows], values)


def _digest(rowids: list[int], values: list[object]) -> bytes:
    try:
        return hashlib.sha256(canonical((rowids, values))).digest()
    except (CodecError, MemoryError, RecursionError):
        return b""


def examine_chunk(
    rows: Sequence[Row],
    source: ValueFormat,
    target: ValueFormat,
    options: Options = DEFAULTS,
    *,
    limit: int = 1000,
) -> list[BadValue]:
    """All rows that ``recode_chunk`` would refuse, the first ``limit`` of them."""
    convert = _converter(source, target, options)
    bad: list[BadValue] = []
    for rowid, stored in rows:
        try:
            convert(stored)
        except (CodecError, MemoryError, RecursionError) as error:
            bad.append(bad_value(rowid, error, options))
            if len(bad) >= limit:
                break
    return bad


def compare_chunk(
    rows: Sequence[Pair], source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS
) -> None:
    """Make sure that every old value and its new form decode to the same. Raises BadValue.

    Both sides are decoded from what is stored; nothing is taken from the conversion.
    """
    if source.codec.name == target.codec.name:
        for rowid, old, new in rows:
            try:
                equal = source.plain_bytes(old) == target.plain_bytes(new)
            except (CodecError, MemoryError) as error:
                raise bad_value(rowid, error, options) from error
            if not equal:
                raise BadValue(rowid, "bytes", "the new value holds other bytes than the old one")
        return
    olds: list[object] = []
    news: list[object] = []
    decode_old, decode_new = _decoder(source), _decoder(target)
    for rowid, old, new in rows:
        try:
            olds.append(decode_old(old))
            news.append(decode_new(new))
        except (CodecError, MemoryError, RecursionError) as error:
            raise bad_value(rowid, error, options) from error
    try:
        if canonical(olds) == canonical(news):
            return
    except (CodecError, MemoryError, RecursionError):
        pass  # which row it is, and whether it is wrong at all, comes out below
    for (rowid, _, _), one, other in zip(rows, olds, news, strict=True):
        try:
            equal = same(one, other)
        except (CodecError, MemoryError, RecursionError) as error:
            raise bad_value(rowid, error, options) from error
        if not equal:
            raise bad_value(rowid, _changed(one, target), options)


def decode_chunk(rows: Sequence[Row], source: ValueFormat, options: Options = DEFAULTS) -> None:
    """Make sure that every value can be decoded. Raises BadValue at the first that cannot."""
    decode = _decoder(source)
    for rowid, stored in rows:
        try:
            decode(stored)
        except Forbidden as error:
            if not options.tolerate_forbidden:
                raise bad_value(rowid, error, options) from error
        except (CodecError, MemoryError, RecursionError) as error:
            raise bad_value(rowid, error, options) from error


def fit_chunk(rows: Sequence[Row], formats: Sequence[ValueFormat]) -> list[int | None]:
    """For each format the rowid of the first row without its signature, None where all rows have it."""
    misfits: list[int | None] = []
    for candidate in formats:
        fits = candidate.fits
        misfits.append(next((rowid for rowid, stored in rows if not fits(stored)), None))
    return misfits


def bad_value(rowid: int, error: BaseException, options: Options = DEFAULTS) -> BadValue:
    """The row together with what is wrong with it."""
    if isinstance(error, MemoryError):
        limit = options.memory_limit
        bound = "there is" if limit is None else f"the limit of {limit} bytes"
        return BadValue(rowid, "memory", f"the value needs more memory than {bound} to be decoded")
    if isinstance(error, RecursionError):
        return BadValue(rowid, "nesting", "the value is nested too deeply")
    name = error.type_name if isinstance(error, CodecError) else ""
    return BadValue(rowid, name or type(error).__name__, str(error))


# --- one value ------------------------------------------------------------------------------------------


def _decoder(source: ValueFormat) -> Callable[[Stored], object]:
    """``source.decode`` without the layer that does nothing."""
    return source.decode if source.compressed else source.codec.decode


#: From what is stored to what it means (for a codec that does not change: its inner bytes) and its new form.
_Converter = Callable[[Stored], tuple[object, Stored]]


def _converter(source: ValueFormat, target: ValueFormat, options: Options) -> _Converter:
    if source.codec.name == target.codec.name:
        return _recompressor(source, target)
    return _recoder(source, target, options)


def _recompressor(source: ValueFormat, target: ValueFormat) -> _Converter:
    codec = target.codec

    def convert(stored: Stored) -> tuple[object, Stored]:
        inner = source.plain_bytes(stored)
        if not codec.plausible(inner):
            raise Undecodable(f"not a value of the codec {codec.name}", type_name="bytes")
        if target.compressed:
            return inner, target.compression.compress(inner)
        if not codec.text:
            return inner, inner
        try:
            return inner, inner.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Undecodable(f"not a text in UTF-8 ({error})", type_name="bytes") from error

    return convert


def _recoder(source: ValueFormat, target: ValueFormat, options: Options) -> _Converter:
    unwrap, decode = source.unwrap if source.compressed else None, source.codec.decode
    carry = _carrier(target, options)

    def convert(stored: Stored) -> tuple[object, Stored]:
        inner = stored if unwrap is None else unwrap(stored)
        value = decode(inner)
        return value, carry(value, len(inner))

    return convert


def _carrier(target: ValueFormat, options: Options) -> Callable[[object, int], Stored]:
    """From a value, and how many bytes it was decoded from, to its new form."""
    types, key_types = target.codec.exact_types, target.codec.exact_key_types
    is_plain_tree = _plain_tree_test(types, key_types)
    encode, doubtful = target.codec.encode, target.codec.doubtful
    compress = target.wrap if target.compressed else None
    expand = options.shared_references == "expand"

    def carry(value: object, stored_bytes: int) -> Stored:
        exact = is_plain_tree(value)
        if not exact:
            exact = survey(value, types, key_types, stored_bytes=stored_bytes, expand=expand)
        try:
            encoded = encode(value)
        except Unencodable as error:
            raise _explained(error, value, target) from error
        if (not exact or doubtful(encoded)) and not same(value, target.codec.decode(encoded)):
            raise _changed(value, target)
        return encoded if compress is None else compress(encoded)

    return carry


def _all_at_once(
    source: ValueFormat, target: ValueFormat, options: Options
) -> Callable[[list[Stored]], tuple[list[object], list[Stored]]]:
    """A converter of many values, step by step for all of them: it costs half of one value after the other.

    It raises what any of them would raise; which one it was it does not tell.
    """
    if source.codec.name == target.codec.name:
        recompress = _recompressor(source, target)

        def recompress_all(stored: list[Stored]) -> tuple[list[object], list[Stored]]:
            both = [recompress(one) for one in stored]
            return [inner for inner, _ in both], [new for _, new in both]

        return recompress_all

    unwrap, decode = source.unwrap if source.compressed else None, source.codec.decode
    carry = _carrier(target, options)
    are_plain_trees = _plain_forest_test(target.codec.exact_types, target.codec.exact_key_types)
    encode, doubtful = target.codec.encode, target.codec.doubtful
    compress = target.wrap if target.compressed else None

    def convert(stored: list[Stored]) -> tuple[list[object], list[Stored]]:
        inner = stored if unwrap is None else [unwrap(one) for one in stored]
        values = [decode(one) for one in inner]
        if are_plain_trees(values):
            encoded = [encode(value) for value in values]
            if not any(map(doubtful, encoded)):
                return values, encoded if compress is None else [compress(one) for one in encoded]
        return values, [carry(value, len(one)) for value, one in zip(values, inner, strict=True)]

    return convert


def _plain_forest_test(
    types: frozenset[type], key_types: frozenset[type]
) -> Callable[[list[object]], bool]:
    """As ``_plain_tree_test``, of any depth, for many values together: level by level, in C.

    False says nothing; True is what it would be for each of them.
    """
    nests = frozenset({list, dict}) & types
    all_leaves = (types - CONTAINERS).issuperset
    all_known = (types - CONTAINERS | nests).issuperset
    all_keys = key_types.issuperset

    def test(values: list[object]) -> bool:
        seen: set[int] = set()
        level = values
        while not all_leaves(kinds := {*map(type, level)}):
            if not all_known(kinds):
                return False
            dicts = _those_of(dict, kinds, level)
            lists = _those_of(list, kinds, level)
            # Before they are followed: a few lists that hold each other are many, or endless, as a tree.
            count = len(seen) + len(dicts) + len(lists)
            seen.update(map(id, dicts), map(id, lists))
            if len(seen) != count or not all_keys(map(type, chain.from_iterable(dicts))):
                return False
            level = [*chain.from_iterable(map(dict.values, dicts)), *chain.from_iterable(lists)]
        return True

    return test


def _plain_tree_test(
    types: frozenset[type], key_types: frozenset[type]
) -> Callable[[object], bool]:
    """A quick look at what most records are: fields, and lists and dicts of fields, each of them once.

    False says nothing: ``survey`` then looks in earnest. True is what ``survey`` would say, found in C.
    """
    leaves = types - CONTAINERS
    nests = frozenset({list, dict}) & types
    all_leaves, all_keys = leaves.issuperset, key_types.issuperset
    all_known = (leaves | nests).issuperset

    def test(value: object) -> bool:
        if type(value) not in nests:
            return type(value) in leaves
        if type(value) is dict:
            if not all_keys(map(type, value)):
                return False
            children: Collection[object] = value.values()
        else:
            children = value  # type: ignore[assignment]  # a list
        kinds = {*map(type, children)}
        if all_leaves(kinds):
            return True
        if not all_known(kinds):
            return False
        nested = [child for child in children if type(child) in nests]
        for child in nested:
            if type(child) is dict:
                if not all_keys(map(type, child)):
                    return False
                child = child.values()  # noqa: PLW2901
            if not all_leaves(map(type, child)):  # type: ignore[call-overload]
                return False
        return len(nested) == 1 or len({*map(id, nested)}) == len(nested)

    return test


def _those_of(kind: type, kinds: set[type], level: list[object]) -> list[Any]:
    """The parts of exactly that type, where ``kinds`` are the types of all."""
    if kind not in kinds:
        return []
    return level if len(kinds) == 1 else [part for part in level if type(part) is kind]


def _explained(error: Unencodable, value: object, target: ValueFormat) -> Unencodable:
    found = offender(value, target.codec.exact_types, target.codec.exact_key_types)
    if found is None:
        return error
    name, where = found
    return Unencodable(f"{where}: {error}", type_name=name)


def _changed(value: object, target: ValueFormat) -> Unencodable:
    found = offender(value, target.codec.exact_types, target.codec.exact_key_types)
    name, where = found or (type(value).__name__, type(value).__name__)
    return Unencodable(f"{where}: it comes back different from {target.codec.name}", type_name=name)
