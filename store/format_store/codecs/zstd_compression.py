"""Zstandard, by itself: its library is loaded by those alone who have such values."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from format_store.codecs.compressions import too_large
from format_store.codecs.errors import Undecodable

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd


class Zstd:
    """One Zstandard frame (RFC 8878) with its content's size in the header, and no dictionary.

    libzstd refuses windows of more than 128 MiB by itself, which bounds the memory of a decompression
    beside its result.
    """

    name = "zstd"
    level = 3

    def __init__(self) -> None:
        # Compressors can be used again and lock themselves; making one takes longer than a small value.
        self._compressor = zstd.ZstdCompressor(level=self.level)

    def compress(self, data: bytes) -> bytes:
        return self._compressor.compress(data, mode=zstd.ZstdCompressor.FLUSH_FRAME)

    def decompress(self, data: bytes, max_size: int) -> bytes:
        stream = zstd.ZstdDecompressor()
        try:
            plain = stream.decompress(data, max_size + 1)
        except (zstd.ZstdError, EOFError) as error:
            raise Undecodable(f"not a zstd frame ({error})") from error
        if len(plain) > max_size:
            raise too_large(max_size)
        if not stream.eof:
            raise Undecodable("a zstd frame that is cut short")
        if stream.unused_data:
            raise Undecodable("bytes after the end of the zstd frame")
        return plain

    def signature_sql(self, column: str) -> str:
        # Blobs sort after all text, so the comparison alone would do; typeof keeps NULL out.
        return f"(typeof({column})='blob' AND {column}>x'28b52ffd' AND {column}<x'28b52ffe')"
