"""When two values are the same, and which values are trees.

Two values are the same when their canonical bytes are: a pickle without a memo. Unlike ``==``, that tells
True from 1 and 1.0, 0.0 from -0.0, one NaN from another, a str from an instance of its subclass, a tuple
from a list, bytes from bytearray, and the order of a dict's keys. It does not see whether two parts of a
value are one object, which is why ``survey`` looks for that.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator

from format_store.codecs.errors import SharedReference, Unencodable

#: Exact types that hold other values or can be changed in place; what else is built in is neither.
CONTAINERS: frozenset[type] = frozenset({dict, list, tuple, set, frozenset, bytearray})
_IMMUTABLE: frozenset[type] = frozenset({tuple, frozenset})

#: How many items a value may have, when every shared part is counted each time, beyond its stored size
#: in bytes (an item takes at least one).
EXPANSION_ALLOWANCE = 10_000_000

#: How far ``offender`` looks: it only words an error.
_LOOK_AT = 100_000


def canonical(value: object) -> bytes:
    """The canonical bytes. Raises Unencodable for cycles and what no pickle can hold, RecursionError."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 4)
    pickler.fast = True
    try:
        pickler.dump(value)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        kind = type(value).__name__
        raise Unencodable(f"it has no canonical form ({error})", type_name=kind) from error
    return buffer.getvalue()


def same(one: object, other: object) -> bool:
    """Whether two values are the same. Raises as ``canonical`` does."""
    left, right = canonical(one), canonical(other)
    if left == right:
        return True
    # Equal sets may list their members in different orders. Rare enough to be looked at last.
    if len(left) != len(right) or not _has_set(one):
        return False
    return canonical(_ordered(one)) == canonical(_ordered(other))


def survey(
    value: object,
    types: frozenset[type],
    key_types: frozenset[type],
    *,
    stored_bytes: int,
    expand: bool = False,
) -> bool:
    """Make sure that a value is a tree, and tell whether it consists of these types alone.

    ``types`` may hold containers; ``key_types`` are those of dict keys. A mutable object that is reached
    twice raises SharedReference unless ``expand``; a cycle always does, and so does a value with more
    items than ``stored_bytes`` and the allowance, when shared parts count each time. RecursionError for
    values that are nested too deeply.
    """
    return _Survey(types, key_types, stored_bytes + EXPANSION_ALLOWANCE, expand).run(value)


class _Survey:
    """One walk over the containers of a value; leaves are looked at in bulk."""

    def __init__(
        self, types: frozenset[type], key_types: frozenset[type], limit: int, expand: bool
    ) -> None:
        self._types = types
        self._leaves = types - CONTAINERS
        self._key_types = key_types
        self._limit = limit
        self._expand = expand
        self._exact = True
        self._sizes: dict[int, int] = {}  # by id; 0: under way
        self._frozen: set[int] = set()  # ids of what holds nothing mutable

    def run(self, value: object) -> bool:
        if type(value) in CONTAINERS:
            self._walk(value)
        elif type(value) not in self._types:
            self._exact = False
        return self._exact

    def _walk(self, value: object) -> int:
        marker = id(value)
        known = self._sizes.get(marker)
        if known is not None:
            return self._again(value, marker, known)
        self._sizes[marker] = 0
        kind = type(value)
        if kind not in self._types:
            self._exact = False
        children: Iterable[object] = ()
        size = 1
        if isinstance(value, dict):
            children = value.values()
            size += len(value)
            if not self._key_types.issuperset(map(type, value)):
                self._exact = False
        elif isinstance(value, (list, tuple, set, frozenset)):
            children = value
            size += len(value)
        frozen = kind in _IMMUTABLE
        if not self._leaves.issuperset(map(type, children)):
            for child in children:
                child_kind = type(child)
                if child_kind in CONTAINERS:
                    size += self._walk(child)
                    if id(child) not in self._frozen:
                        frozen = False
                elif child_kind not in self._leaves:
                    self._exact = False
        if size > self._limit:
            raise SharedReference(
                f"it has more than {self._limit} items once shared parts are expanded",
                type_name=kind.__name__,
            )
        if frozen:
            self._frozen.add(marker)
        self._sizes[marker] = size
        return size

    def _again(self, value: object, marker: int, size: int) -> int:
        kind = type(value).__name__
        if not size:
            raise SharedReference(f"a {kind} that contains itself", type_name=kind)
        if marker not in self._frozen and not self._expand:
            raise SharedReference(f"a {kind} that is referred to more than once", type_name=kind)
        return size


def offender(
    value: object, types: frozenset[type], key_types: frozenset[type]
) -> tuple[str, str] | None:
    """The first part of a value that has another type than these: its type's name, and where it is.

    ``("tuple", "tuple at ['a'][3]")``; None where there is none, or none among the first parts.
    """
    for count, (path, part, allowed) in enumerate(_parts(value, types, key_types)):
        kind = type(part)
        if kind not in allowed:
            name = kind.__name__
            return name, f"{name} at {path}" if path else name
        if count > _LOOK_AT:
            break
    return None


def _parts(
    value: object, types: frozenset[type], key_types: frozenset[type]
) -> Iterator[tuple[str, object, frozenset[type]]]:
    pending: list[tuple[str, object]] = [("", value)]
    while pending:
        path, part = pending.pop()
        yield path, part, types
        below: list[tuple[str, object]] = []
        if isinstance(part, dict):
            for key, child in part.items():
                yield f"{path} key {_short(key)}".lstrip(), key, key_types
                below.append((f"{path}[{_short(key)}]", child))
        elif isinstance(part, (list, tuple)):
            below = [(f"{path}[{index}]", child) for index, child in enumerate(part[:_LOOK_AT])]
        pending.extend(reversed(below))


def _short(key: object) -> str:
    if not isinstance(key, (str, bytes, int, float, bool)) or (isinstance(key, int) and key >> 64):
        return type(key).__name__
    text = repr(key[:40] if isinstance(key, (str, bytes)) else key)
    return text if len(text) <= 44 else text[:43] + "…"


def _has_set(value: object) -> bool:
    if isinstance(value, (set, frozenset)):
        return True
    if isinstance(value, dict):
        return any(map(_has_set, value)) or any(map(_has_set, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_set, value))


def _ordered(value: object) -> object:
    """The value with its exact sets as sorted lists of canonical bytes, marked by their type's name."""
    kind = type(value)
    if kind in (set, frozenset):
        assert isinstance(value, (set, frozenset))
        return (kind.__name__, sorted(canonical(_ordered(item)) for item in value))
    if kind is dict:
        assert isinstance(value, dict)
        return {_ordered_key(key): _ordered(item) for key, item in value.items()}
    if kind in (list, tuple):
        assert isinstance(value, (list, tuple))
        items = [_ordered(item) for item in value]
        return items if kind is list else tuple(items)
    return value


def _ordered_key(key: object) -> object:
    ordered = _ordered(key)
    return canonical(ordered) if _has_set(key) else ordered
