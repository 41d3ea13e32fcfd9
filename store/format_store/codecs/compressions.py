"""The compressions none and zlib."""

from __future__ import annotations

import zlib

from format_store.codecs.errors import Undecodable, ValueTooLarge

_ZLIB_HEADERS = ("7801", "785e", "789c", "78da")


class NoCompression:
    """The codec's form as it is; never called by ``ValueFormat``, here to complete the set."""

    name = "none"

    def compress(self, data: bytes) -> bytes:
        return data

    def decompress(self, data: bytes, max_size: int) -> bytes:
        if len(data) > max_size:
            raise too_large(max_size)
        return data

    def signature_sql(self, column: str) -> str:
        return f"(typeof({column})='blob')"


class Zlib:
    """A zlib stream (RFC 1950), as ``zlib.compress(data)`` makes it and sqlitedict's README shows it.

    Recognised by its header: 32 KiB window, no preset dictionary. Other windows are readable only in
    theory; nothing in Python writes them unasked.
    """

    name = "zlib"
    level = 6

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data, self.level)

    def decompress(self, data: bytes, max_size: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            # One byte more than allowed: it tells "exactly the limit" from "beyond".
            plain = stream.decompress(data, max_size + 1)
        except zlib.error as error:
            raise Undecodable(f"not a zlib stream ({error})") from error
        if len(plain) > max_size:
            raise too_large(max_size)
        if not stream.eof:
            raise Undecodable("a zlib stream that is cut short")
        if stream.unused_data:
            raise Undecodable("bytes after the end of the zlib stream")
        return plain

    def signature_sql(self, column: str) -> str:
        headers = ",".join(f"x'{header}'" for header in _ZLIB_HEADERS)
        return f"(typeof({column})='blob' AND length({column})>7 AND substr({column},1,2) IN ({headers}))"


def too_large(max_size: int) -> ValueTooLarge:
    return ValueTooLarge(f"larger than {max_size} bytes once decompressed")
