"""Key encodings: how a key, a string, lies in the key column.

What belongs here: pure functions between strings and their stored form, and what SQLite has to know of
it (column type, CHECK, range). No I/O, and nothing of the rest of the store is imported.

Others add theirs as an entry point of the group ``storageformat.keys`` that names a ``KeyEncoding`` or a
class that makes one without arguments. A built-in name cannot be replaced: it is on disk in markers.
"""

from __future__ import annotations

from functools import cache

from format_store.keys.base import (
    InvalidKey,
    KeyEncoding,
    NotCanonical,
    ReadOnlyKeyEncoding,
    SqlKeyEncoding,
    collation_of,
    directory_of,
    is_child,
)
from format_store.keys.hierarchical import Hierarchical
from format_store.keys.natural import Natural
from format_store.keys.old_compare import SLASH_SPAN, OldCompareHierarchical, compare_with_slash

ENTRY_POINT_GROUP = "storageformat.keys"

_BUILT_IN: dict[str, KeyEncoding] = {
    encoding.name: encoding for encoding in (Natural(), Hierarchical(), OldCompareHierarchical())
}


class UnknownKeyEncoding(LookupError):
    """No built-in key encoding and no installed entry point has this name."""


def get(name: str) -> KeyEncoding:
    """The key encoding of this name. Raises UnknownKeyEncoding.

    Installed packages are searched only for names that are not built in: the search reads the metadata
    of every one of them.
    """
    encoding = _BUILT_IN.get(name)
    return encoding if encoding is not None else _installed(name)


def names() -> tuple[str, ...]:
    """All names that ``get`` knows, the built-in ones first."""
    from importlib.metadata import entry_points

    found = sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - set(_BUILT_IN))
    return (*_BUILT_IN, *found)


@cache
def _installed(name: str) -> KeyEncoding:
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        loaded = point.load()
        encoding = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(encoding, KeyEncoding) or encoding.name != name:
            raise UnknownKeyEncoding(
                f"the entry point {point.value} is not a key encoding called {name!r}"
            )
        return encoding
    raise UnknownKeyEncoding(f"there is no key encoding {name!r}; there is {', '.join(_BUILT_IN)}")


__all__ = [
    "ENTRY_POINT_GROUP",
    "SLASH_SPAN",
    "Hierarchical",
    "InvalidKey",
    "KeyEncoding",
    "Natural",
    "NotCanonical",
    "OldCompareHierarchical",
    "ReadOnlyKeyEncoding",
    "SqlKeyEncoding",
    "UnknownKeyEncoding",
    "collation_of",
    "compare_with_slash",
    "directory_of",
    "get",
    "is_child",
    "names",
]
