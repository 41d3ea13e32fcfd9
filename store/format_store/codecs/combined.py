"""A value format: a codec and a compression, one inside the other."""

from __future__ import annotations

from collections.abc import Sequence

from format_store.codecs.base import MAX_VALUE_BYTES, Compression, Stored, ValueCodec
from format_store.codecs.errors import Undecodable
from format_store.codecs.registry import get_codec, get_compression


class ValueFormat:
    """How values lie in the value column.

    ``codec`` makes the inner form; unless ``compression`` is ``none``, the stored form is that one (a
    text's UTF-8) compressed, and always a BLOB.
    """

    __slots__ = ("codec", "compressed", "compression", "max_value_bytes")

    def __init__(
        self, codec: ValueCodec, compression: Compression, *, max_value_bytes: int = MAX_VALUE_BYTES
    ) -> None:
        self.codec = codec
        self.compression = compression
        self.compressed = compression.name != "none"
        self.max_value_bytes = max_value_bytes

    @classmethod
    def named(
        cls,
        codec: str,
        compression: str = "none",
        *,
        pickle_allow: Sequence[str] = (),
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> ValueFormat:
        """By the names that a format's parameters use. Raises UnknownFormat, and ValueError for a
        ``pickle_allow`` that cannot be.
        """
        return cls(
            get_codec(codec, pickle_allow=pickle_allow),
            get_compression(compression),
            max_value_bytes=max_value_bytes,
        )

    def encode(self, value: object) -> Stored:
        """The stored form. Raises Unencodable, MemoryError, RecursionError."""
        return self.wrap(self.codec.encode(value))

    def decode(self, stored: Stored) -> object:
        """The object. Raises Undecodable, MemoryError, RecursionError."""
        return self.codec.decode(self.unwrap(stored))

    def wrap(self, inner: Stored) -> Stored:
        """From the codec's form to the stored one."""
        if not self.compressed:
            return inner
        return self.compression.compress(inner.encode("utf-8") if isinstance(inner, str) else inner)

    def unwrap(self, stored: Stored) -> Stored:
        """From the stored form to one that the codec decodes. Raises Undecodable.

        A text codec's form is ``bytes`` after a decompression: it decodes both.
        """
        if not self.compressed:
            if not isinstance(stored, (bytes, str)):
                raise Undecodable(f"a value is text or a blob, not {type(stored).__name__}")
            return stored
        if not isinstance(stored, bytes):
            raise Undecodable(f"a compressed value is a blob, not {type(stored).__name__}")
        return self.compression.decompress(stored, self.max_value_bytes)

    def plain_bytes(self, stored: Stored) -> bytes:
        """What is compressed, whether it is or not: equal exactly when the inner forms are."""
        inner = self.unwrap(stored)
        return inner.encode("utf-8", "surrogatepass") if isinstance(inner, str) else inner

    def fits(self, stored: Stored) -> bool:
        """Whether a value has the signature of this format, the inner one included.

        ``check_sql`` sees the outermost layer; this tells pickles from MessagePack in a zstd frame.
        """
        try:
            if not self.compressed and isinstance(stored, str) and not self.codec.text:
                return False
            return self.codec.plausible(self.plain_bytes(stored))
        except Undecodable:
            return False

    def check_sql(self, column: str) -> str:
        """A CHECK that every stored value passes and none of another built-in format's outer form does.

        ``column`` is SQL (a quoted identifier). True or false, never NULL. ``raw`` without compression
        accepts every blob. The same expression counts the rows that fit a declared format.
        """
        layer = self.compression if self.compressed else self.codec
        return layer.signature_sql(column)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ValueFormat):
            return NotImplemented
        return (self.codec.name, self.compression.name) == (
            other.codec.name,
            other.compression.name,
        )

    def __hash__(self) -> int:
        return hash((self.codec.name, self.compression.name))

    def __repr__(self) -> str:
        return f"ValueFormat({self.codec.name!r}, {self.compression.name!r})"
