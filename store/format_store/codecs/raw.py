"""Bytes as they are."""

from __future__ import annotations

from format_store.codecs.base import Stored
from format_store.codecs.errors import Undecodable, Unencodable


class Raw:
    """The value is the BLOB. Only ``bytes``: TEXT, numbers and NULL are not raw values.

    Every BLOB is a raw value, so nothing can keep an unaware app from writing a pickle into such a table
    (the type of the keys may), and a file without a marker that is declared as raw *or* something else
    is ambiguous.
    """

    name = "raw"
    text = False
    exact_types: frozenset[type] = frozenset({bytes})
    exact_key_types: frozenset[type] = frozenset()

    def decode(self, stored: Stored) -> object:
        if not isinstance(stored, bytes):
            raise Undecodable(f"a raw value is a blob, not {type(stored).__name__}")
        return stored

    def encode(self, value: object) -> bytes:
        if type(value) is not bytes:
            kind = type(value).__name__
            raise Unencodable(f"a raw value is bytes, not {kind}", type_name=kind)
        return value

    def doubtful(self, _encoded: Stored, /) -> bool:
        return False

    def plausible(self, _data: bytes, /) -> bool:
        return True

    def signature_sql(self, column: str) -> str:
        return f"(typeof({column})='blob')"
