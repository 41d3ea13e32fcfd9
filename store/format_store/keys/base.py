"""What a key encoding is, and the two ways in which a key can be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

SEPARATOR = "/"
BINARY = "BINARY"


class InvalidKey(ValueError):
    """A key that cannot be stored: not a string, or not encodable as UTF-8 (a lone surrogate)."""


class NotCanonical(ValueError):
    """A stored key that this encoding never writes: another type, bytes that encode nothing."""


@runtime_checkable
class KeyEncoding(Protocol):
    """How a key, a string, lies in the key column.

    An encoding is a bijection between strings without surrogates and its canonical stored forms:
    ``decode(encode(key)) == key``, and ``decode`` refuses whatever ``encode`` does not return.
    The order of stored keys, as SQLite's BINARY collation sees it, is the encoding's key order.

    ``affinity`` is the declared type of the column. A stored key is ``str`` where it is TEXT and
    ``bytes`` where it is BLOB.
    """

    @property
    def name(self) -> str: ...

    @property
    def affinity(self) -> Literal["TEXT", "BLOB"]: ...

    def encode(self, key: str) -> str | bytes:
        """The stored form. Raises InvalidKey."""
        ...

    def decode(self, stored: str | bytes) -> str:
        """The key. Raises NotCanonical."""
        ...

    def guard(self, column: str) -> str | None:
        """A SQL expression for a CHECK that holds for every stored key; None: nothing to check.

        ``column`` is SQL (a quoted identifier). The expression is true or false, never NULL.
        """
        ...

    def range_of_children(self, path: str) -> tuple[str | bytes, str | bytes]:
        """A half-open range [start, end) of stored keys that holds every child of ``path``.

        It may hold other keys too: filter the decoded keys with ``is_child``. Both ends are meant
        to be bound as they are in ``key >= ? AND key < ?``; an end may be ``b""`` in a TEXT column,
        because SQLite sorts every text before every blob. Raises InvalidKey.
        """
        ...


@runtime_checkable
class SqlKeyEncoding(Protocol):
    """What an encoding may offer besides: itself in SQL, which spares a call of Python for each row.

    For databases with UTF-8 text. ``otherwise`` is SQL that asks ``encode`` or ``decode`` instead, for keys that
    the expression does not cover. ``sql_parameters`` are bound by name wherever an expression is used.
    """

    @property
    def sql_parameters(self) -> Mapping[str, bytes]: ...

    def encode_sql(self, key: str, otherwise: str) -> str:
        """SQL for the stored form of ``key``, SQL for a TEXT that is valid UTF-8."""
        ...

    def decodes_sql(self, stored: str, key: str, otherwise: str) -> str:
        """SQL that is true where ``stored`` is canonical and its inverse is ``key``, and for no other pair."""
        ...


@runtime_checkable
class ReadOnlyKeyEncoding(Protocol):
    """What an encoding says besides that is a source of conversions and never a target.

    ``collation``: that of the key column, by which tables in it are told from others. ``use_instead``: names
    of the encodings to convert to.
    """

    @property
    def collation(self) -> str: ...

    @property
    def use_instead(self) -> tuple[str, ...]: ...


def collation_of(encoding: KeyEncoding) -> str:
    """The collation that the key column of a table in this encoding is declared with."""
    return encoding.collation if isinstance(encoding, ReadOnlyKeyEncoding) else BINARY


def directory_of(path: str) -> str:
    """The prefix that all children of ``path`` begin with.

    ``"/a"`` and ``"/a/"`` name the same directory. ``""`` is the directory of the keys that have no
    separator, ``"/"`` the one of the keys with a single, leading separator.
    """
    return path if not path or path.endswith(SEPARATOR) else path + SEPARATOR


def is_child(path: str, key: str) -> bool:
    """Whether ``key`` lies directly in ``path``: its prefix and then a name, not empty, without separator.

    So a key is a child of at most one directory, and ``"/a/"`` (a directory's own entry) of none.
    """
    directory = directory_of(path)
    return (
        len(key) > len(directory)
        and key.startswith(directory)
        and key.find(SEPARATOR, len(directory)) < 0
    )


def utf8(key: str) -> bytes:
    """The key in UTF-8. Raises InvalidKey for what is not a string or has lone surrogates."""
    try:
        return key.encode()
    except AttributeError:
        raise InvalidKey(f"a key is a string, not {type(key).__name__}") from None
    except UnicodeEncodeError as error:
        raise InvalidKey(
            f"a key is valid Unicode, this one has a lone surrogate at character {error.start}"
        ) from error
