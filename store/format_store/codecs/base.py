"""The two halves of a value format, as protocols: a codec and a compression."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

Stored: TypeAlias = "bytes | str"

#: SQLite's own default limit of a value, hence of what a value can be when it is not compressed.
MAX_VALUE_BYTES = 1_000_000_000


@runtime_checkable
class ValueCodec(Protocol):
    """Between a Python object and the form in which it is stored when nothing compresses it."""

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> bool:
        """Whether the stored form is TEXT (its UTF-8 is what gets compressed)."""
        ...

    @property
    def exact_types(self) -> frozenset[type]:
        """Types, containers included, that come back exactly as they were encoded.

        A value built of these alone needs no trial to know that it survives; of any other value the
        encoded form is decoded and compared. Empty: every value is tried.
        """
        ...

    @property
    def exact_key_types(self) -> frozenset[type]:
        """Types that come back exactly as keys of a dict."""
        ...

    def decode(self, stored: Stored) -> object:
        """The object. Raises Undecodable, MemoryError, RecursionError."""
        ...

    def encode(self, value: object) -> Stored:
        """The stored form, ``str`` where ``text`` is true, otherwise ``bytes``. Raises Unencodable."""
        ...

    def doubtful(self, encoded: Stored, /) -> bool:
        """Whether a form made of ``exact_types`` alone has to be tried all the same."""
        ...

    def plausible(self, data: bytes, /) -> bool:
        """``signature_sql`` in Python, for bytes that come out of a decompression."""
        ...

    def signature_sql(self, column: str) -> str:
        """A SQL expression that is true for every stored value of this codec, false, not NULL, else.

        It is the CHECK on what is written and the first test of what is found. So it is as narrow as
        the codec allows: no value of another built-in codec or compression satisfies it, with the
        exceptions told where they arise.
        """
        ...


@runtime_checkable
class Compression(Protocol):
    """Between bytes and fewer bytes."""

    @property
    def name(self) -> str: ...

    def compress(self, data: bytes) -> bytes: ...

    def decompress(self, data: bytes, max_size: int) -> bytes:
        """The bytes. Raises ValueTooLarge beyond ``max_size``, before that much memory is taken, and
        Undecodable for what is damaged, cut short or followed by something.
        """
        ...

    def signature_sql(self, column: str) -> str:
        """As with ``ValueCodec``."""
        ...
