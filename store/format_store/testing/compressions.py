"""The checks of a compression."""

from __future__ import annotations

import tracemalloc
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st

from format_store.codecs import Undecodable, ValueTooLarge
from format_store.codecs.base import Compression
from format_store.testing.signatures import (
    require_apart,
    require_check,
    require_takes_no_other,
    satisfies,
)
from format_store.testing.tools import damaged, for_all, in_time

_BOMB_BYTES = 64 << 20
_LIMIT = 1000
#: What refusing a bomb may take beside the limit: windows and buffers, and no part of what it unpacks to.
_ALLOWANCE = 8 << 20

_contents = st.binary(max_size=200) | st.builds(
    lambda piece, times: piece * times, st.binary(min_size=1, max_size=9), st.integers(1, 4000)
)


class CompressionConformance:
    """Set ``compression``, and name the class ``Test…``.

    ``overlaps``: names of built-in codecs or compressions that the signature cannot be told from.
    """

    compression: ClassVar[Any]
    overlaps: ClassVar[frozenset[str]] = frozenset()

    def _unpacked(self, data: bytes, limit: int) -> bytes | None:
        """The bytes; None where they are refused. Anything else fails."""
        try:
            plain: bytes = in_time("decompress", lambda: self.compression.decompress(data, limit))
        except Undecodable:
            return None
        assert len(plain) <= limit
        return plain

    def test_protocol(self) -> None:
        """It has every part of ``Compression``, and a class that needs no argument."""
        assert isinstance(self.compression, Compression)
        assert isinstance(self.compression.name, str)
        assert self.compression.name
        assert type(self.compression)().name == self.compression.name

    def test_bytes_come_back(self) -> None:
        """What is compressed decompresses to the same bytes, also when the limit is exactly their number."""

        def check(data: bytes) -> None:
            packed = self.compression.compress(data)
            assert type(packed) is bytes
            assert self.compression.decompress(packed, len(data)) == data
            assert self.compression.decompress(packed, len(data) + 1) == data

        for_all(check, data=_contents)

    def test_the_size_limit_holds(self) -> None:
        """One byte beyond the limit is ``ValueTooLarge``."""

        def check(data: bytes) -> None:
            packed = self.compression.compress(data)
            if data:
                with pytest.raises(ValueTooLarge):
                    self.compression.decompress(packed, len(data) - 1)

        for_all(check, data=_contents)

    def test_a_bomb_is_refused_before_it_is_unpacked(self) -> None:
        """A few bytes that stand for many are refused without that much memory."""
        packed = self.compression.compress(bytes(_BOMB_BYTES))
        tracemalloc.start()
        try:
            with pytest.raises(ValueTooLarge):
                self.compression.decompress(packed, _LIMIT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < _ALLOWANCE

    def test_damaged_data_is_refused_in_time(self) -> None:
        """Cut short, flipped, spliced, random: ``Undecodable`` or other bytes, never another error or a hang."""

        def check(data: bytes, choice: st.DataObject) -> None:
            self._unpacked(choice.draw(damaged(self.compression.compress(data))), 100_000)

        for_all(check, data=_contents, choice=st.data())

    def test_truncated_data_is_not_taken_for_the_whole(self) -> None:
        """However much is cut off, the rest does not pass for all."""

        def check(data: bytes, choice: st.DataObject) -> None:
            packed = self.compression.compress(data)
            if packed:
                kept = choice.draw(st.integers(0, len(packed) - 1))
                assert self._unpacked(packed[:kept], 100_000) != data

        for_all(check, data=_contents, choice=st.data())

    def test_nothing_after_the_end_is_passed_over(self) -> None:
        """Bytes behind the end, or a second copy, are not dropped."""

        def check(data: bytes, more: bytes) -> None:
            packed = self.compression.compress(data)
            assert self._unpacked(packed + more, 100_000) != data
            if packed:
                assert self._unpacked(packed + packed, 100_000) != data

        for_all(check, data=_contents, more=st.binary(min_size=1, max_size=4))

    @pytest.mark.parametrize("stored", [None, 0, 1, -1, 1.5, "", "text"])
    def test_signature_is_false_for_what_is_no_blob(self, stored: object) -> None:
        """Numbers, text and NULL: false, never NULL."""
        assert satisfies(self.compression.signature_sql("value"), stored) == 0

    def test_signature_is_true_for_its_own(self) -> None:
        """It holds for all that is compressed, and the CHECK takes it and no NULL."""
        sql = self.compression.signature_sql("value")

        def check(data: bytes) -> None:
            packed = self.compression.compress(data)
            assert satisfies(sql, packed) == 1
            require_check(sql, packed, None)

        for_all(check, data=_contents)

    def test_signature_is_apart_from_the_built_in_ones(self) -> None:
        """No other format's values satisfy it, and its own satisfy no other's, ``overlaps`` apart."""
        sql = self.compression.signature_sql("value")
        require_takes_no_other(self.compression.name, sql, self.overlaps)

        def check(data: bytes) -> None:
            packed = self.compression.compress(data)
            require_apart(self.compression.name, sql, packed, self.overlaps)

        for_all(check, data=_contents)
