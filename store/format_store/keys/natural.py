"""Keys as they are: TEXT, in the order of their UTF-8 bytes. What plain sqlitedict stores."""

from __future__ import annotations

from typing import Literal

from format_store.keys.base import NotCanonical, directory_of, utf8


class Natural:
    """The key itself.

    The children of a directory lie scattered among all its descendants, so their range has to be
    filtered. In a database whose text encoding is UTF-16, SQLite compares other bytes than the ones
    of UTF-8: the range is right only in UTF-8 databases.
    """

    name = "natural"
    affinity: Literal["TEXT"] = "TEXT"

    def encode(self, key: str) -> str:
        utf8(key)
        return key

    def decode(self, stored: str | bytes) -> str:
        if not isinstance(stored, str):
            raise NotCanonical(f"a natural key is stored as text, not as {type(stored).__name__}")
        try:
            stored.encode("utf-8")
        except UnicodeEncodeError as error:
            raise NotCanonical(
                "a natural key is valid Unicode, this one has a lone surrogate"
            ) from error
        return stored

    def guard(self, column: str) -> str:
        return f"typeof({column})='text'"

    def range_of_children(self, path: str) -> tuple[str | bytes, str | bytes]:
        utf8(path)
        directory = directory_of(path)
        # "0" is the character after "/", and every text sorts before the empty blob.
        return directory, directory[:-1] + "0" if directory else b""
