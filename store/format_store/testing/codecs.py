"""The checks of a codec."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from format_store.codecs import (
    BadValue,
    CodecError,
    Undecodable,
    Unencodable,
    ValueFormat,
    compression_names,
    get_compression,
)
from format_store.codecs.base import ValueCodec
from format_store.codecs.canonical import canonical, same
from format_store.codecs.pickle_codec import ALLOWABLE, Pickle
from format_store.codecs.recode import compare_chunk, recode_chunk
from format_store.testing.signatures import (
    require_apart,
    require_check,
    require_takes_no_other,
    satisfies,
)
from format_store.testing.tools import (
    Stored,
    Values,
    damaged,
    for_all,
    in_time,
    raw,
    values_of,
)


class _Stranger:
    """An object of an application's class: no codec can hold it."""


class CodecConformance:
    """Set ``codec``, and name the class ``Test…``.

    ``values``: a hypothesis strategy of values that the codec is for; by default made of its ``exact_types``.
    ``overlaps``: names of built-in codecs or compressions that the codec's signature cannot be told from.
    """

    codec: ClassVar[Any]
    values: ClassVar[Values | None] = None
    overlaps: ClassVar[frozenset[str]] = frozenset()

    def _values(self) -> Values:
        found = self.values
        if found is None:
            found = values_of(self.codec.exact_types, self.codec.exact_key_types)
        assert found is not None, "set `values`: none can be made of the codec's exact_types"
        return found

    def _encoded(self, value: object) -> Stored:
        """The stored form; a value that the codec may refuse is no example."""
        try:
            stored: Stored = self.codec.encode(value)
        except Unencodable:
            assume(False)
            raise
        return stored

    def _decoded(self, stored: object) -> object:
        """The value, or the error that refuses it. Anything else fails."""
        try:
            return in_time("decode", lambda: self.codec.decode(stored))
        except (Undecodable, MemoryError, RecursionError) as error:
            return error

    def test_protocol(self) -> None:
        """It has every part of ``ValueCodec``, of the right type, and a class that needs no argument."""
        codec = self.codec
        assert isinstance(codec, ValueCodec)
        assert isinstance(codec.name, str)
        assert codec.name
        assert codec.name == codec.name.strip()
        assert isinstance(codec.text, bool)
        for types in (codec.exact_types, codec.exact_key_types):
            assert isinstance(types, frozenset)
            assert all(isinstance(kind, type) for kind in types)
        assert type(codec)().name == codec.name

    def test_values_come_back(self) -> None:
        """What is encoded decodes to the same value, types and order included, and is left as it was.

        A form that is ``doubtful`` need not: the store tries it, and refuses what comes back different.
        """

        def check(value: object) -> None:
            before = canonical(value)
            stored = self._encoded(value)
            assert type(stored) is (str if self.codec.text else bytes)
            assert canonical(value) == before
            if not self.codec.doubtful(stored):
                assert same(self.codec.decode(stored), value)

        for_all(check, value=self._values())

    def test_exact_types_come_back_exactly(self) -> None:
        """A value of ``exact_types`` alone, whose form is not doubtful, is the same without being tried."""
        exact = values_of(self.codec.exact_types, self.codec.exact_key_types)
        if exact is None:
            pytest.skip("the codec claims no exact types")

        def check(value: object) -> None:
            stored = self._encoded(value)
            if not self.codec.doubtful(stored):
                assert same(self.codec.decode(stored), value)

        for_all(check, value=exact)

    def test_conversion_there_and_back(self) -> None:
        """From pickles into the codec, under every compression, and back: the same value, or a refusal."""
        pickled = ValueFormat(
            Pickle(f"{module}.{name}" for module, names in ALLOWABLE.items() for name in names),
            get_compression("none"),
        )
        targets = [ValueFormat(self.codec, get_compression(name)) for name in compression_names()]

        def check(value: object) -> None:
            try:
                before = pickled.encode(value)
            except CodecError:
                assume(False)
                raise
            for target in targets:
                try:
                    rows = recode_chunk([(1, before)], pickled, target)
                except BadValue:
                    continue
                ((_, stored),) = rows
                assert target.fits(stored)
                compare_chunk([(1, before, stored)], pickled, target)
                ((_, after),) = recode_chunk(rows, target, pickled)
                assert same(pickled.decode(after), value)

        for_all(check, value=self._values())

    def test_damaged_values_are_refused_in_time(self) -> None:
        """Cut short, flipped, spliced, random: ``Undecodable`` or a value, never another error, never a hang."""

        def check(value: object, data: st.DataObject) -> None:
            changed = data.draw(damaged(raw(self._encoded(value))))
            self._decoded(changed)
            if self.codec.text:
                self._decoded(changed.decode("utf-8", "replace"))

        for_all(check, value=self._values(), data=st.data())

    def test_nothing_after_the_value_is_passed_over(self) -> None:
        """With a NUL behind it, a stored form is not taken for the same value: part of it would be lost."""

        def check(value: object) -> None:
            stored = raw(self._encoded(value))
            found = self._decoded(stored + b"\0")
            assert isinstance(found, Exception) or not same(found, self.codec.decode(stored))

        for_all(check, value=self._values())

    def test_truncated_values_are_not_taken_for_the_whole(self) -> None:
        """Without its last byte, a stored form is not taken for the same value."""

        def check(value: object) -> None:
            stored = raw(self._encoded(value))
            found = self._decoded(stored[:-1])
            assert not stored or isinstance(found, Exception) or not same(found, value)

        for_all(check, value=self._values())

    @pytest.mark.parametrize("stored", [None, 0, 1, -1, 1.5, 2**62])
    def test_numbers_and_null_are_no_values(self, stored: object) -> None:
        """What else a column can hold does not decode, and the signature is false for it, never NULL."""
        with pytest.raises(Undecodable):
            self.codec.decode(stored)
        assert satisfies(self.codec.signature_sql("value"), stored) == 0

    def test_text_is_no_value_of_a_binary_codec(self) -> None:
        """Where the stored form is bytes, text is refused."""
        if self.codec.text:
            pytest.skip("the codec stores text")
        for stored in ("", "a", "{}", "\0"):
            with pytest.raises(Undecodable):
                self.codec.decode(stored)
            assert satisfies(self.codec.signature_sql("value"), stored) == 0

    def test_what_it_cannot_hold_is_refused(self) -> None:
        """An application's object, a cycle, endless nesting, a lone surrogate: refused, or held unchanged."""
        cycle: list[object] = []
        cycle.append(cycle)
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]
        strangers: list[object] = [_Stranger(), [_Stranger()], {"a": _Stranger()}]
        for value in strangers:
            with pytest.raises(Unencodable):
                self.codec.encode(value)
        for value in (cycle, deep, "\ud800", 10**5000, {(): 1}, {1: 2, "1": 3}):
            try:
                stored = in_time("encode", partial(self.codec.encode, value))
            except (Unencodable, RecursionError, MemoryError):
                continue
            if value is not cycle and value is not deep:
                self._decoded(stored)

    def test_signature_is_true_for_its_own(self) -> None:
        """``signature_sql`` and ``plausible`` hold for every stored form, the CHECK takes it and no NULL."""
        sql = self.codec.signature_sql("value")

        def check(value: object) -> None:
            stored = self._encoded(value)
            assert satisfies(sql, stored) == 1
            assert self.codec.plausible(raw(stored)) is True
            require_check(sql, stored, None)

        for_all(check, value=self._values())

    def test_signature_is_apart_from_the_built_in_ones(self) -> None:
        """No other format's values satisfy it, and its values satisfy no other's, ``overlaps`` apart."""
        sql = self.codec.signature_sql("value")
        require_takes_no_other(self.codec.name, sql, self.overlaps)

        def check(value: object) -> None:
            require_apart(self.codec.name, sql, self._encoded(value), self.overlaps)

        for_all(check, value=self._values())

    def test_python_and_sql_agree(self) -> None:
        """``plausible`` is ``signature_sql`` in Python, for every blob."""
        sql = self.codec.signature_sql("value")

        def check(value: object, data: st.DataObject) -> None:
            changed = data.draw(damaged(raw(self._encoded(value))))
            assert satisfies(sql, changed) == int(self.codec.plausible(changed))

        for_all(check, value=self._values(), data=st.data())
