"""MessagePack."""

from __future__ import annotations

from types import NoneType

import msgpack

from format_store.codecs.base import Stored
from format_store.codecs.errors import Undecodable, Unencodable

_SINGLE = frozenset([*range(0x81), 0x90, 0xA0, 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)])


class MessagePack:
    """MessagePack with its ``str`` and ``bin`` types told apart, and map keys of any type.

    Strict: a tuple, an instance of a subclass or an int beyond 64 bits is refused, not turned into
    something else. Extension types are read and written as ``msgpack.ExtType`` and
    ``msgpack.Timestamp``; values that are only carried along (same codec) may hold them.

    The signature: small ints, nil, booleans and what is empty take exactly one byte; everything else
    is longer and begins with 0x81 to 0xDF. A pickle is longer than one byte and begins with 0x80 or with
    ASCII, a zlib stream and a zstd frame begin with ASCII: none of them fits.
    """

    name = "msgpack"
    text = False
    exact_types: frozenset[type] = frozenset({NoneType, bool, int, float, str, bytes, list, dict})
    exact_key_types: frozenset[type] = frozenset({NoneType, bool, int, float, str, bytes})

    def decode(self, stored: Stored) -> object:
        try:
            return msgpack.unpackb(stored, strict_map_key=False)
        except (ValueError, TypeError, OverflowError) as error:
            raise Undecodable(f"not MessagePack ({str(error) or type(error).__name__})") from error

    def encode(self, value: object) -> bytes:
        try:
            packed: bytes = msgpack.packb(value, strict_types=True)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unencodable(
                f"MessagePack cannot hold it ({error})", type_name=type(value).__name__
            ) from error
        return packed

    def doubtful(self, _encoded: Stored, /) -> bool:
        return False

    def plausible(self, data: bytes) -> bool:
        if len(data) == 1:
            return data[0] in _SINGLE
        return len(data) > 1 and 0x81 <= data[0] < 0xE0

    def signature_sql(self, column: str) -> str:
        return (
            f"(typeof({column})='blob' AND CASE length({column}) WHEN 0 THEN 0"
            f" WHEN 1 THEN {column}<=x'80' OR {column}>=x'e0'"
            f" OR {column} IN (x'90',x'a0',x'c0',x'c2',x'c3')"
            f" ELSE {column}>=x'81' AND {column}<x'e0' END)"
        )
