"""JSON for what pickles are mostly full of: plain data, and dates, decimals and UUIDs in it.

    ["tagged-json/1", {"due": {"$date": "2026-11-25"}, "size": {"$tuple": [3, 4]}}]

A value stays readable with any JSON tool and with SQLite's own ``->>``. What JSON has no form for is an object
with one name that begins with ``$``; a dict that could be taken for such an object, or whose keys are not all
strings, is a ``$dict`` of pairs. The first element makes a value unlike every other format's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any
from uuid import UUID

from format_store.codecs import Undecodable, Unencodable

_TAG = "tagged-json/1"
_BEGINNING = f'["{_TAG}",'.encode()

_WRITE: dict[type, tuple[str, Callable[[Any], object]]] = {
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode("ascii")),
    datetime: ("$datetime", datetime.isoformat),
    date: ("$date", date.isoformat),
    time: ("$time", time.isoformat),
    timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("$decimal", str),
    UUID: ("$uuid", str),
}
_READ: dict[str, Callable[[Any], object]] = {
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": lambda parts: timedelta(*parts),
    "$decimal": Decimal,
    "$uuid": UUID,
    "$tuple": tuple,
    "$dict": lambda pairs: _unique([(key, value) for key, value in pairs]),
}


class TaggedJson:
    """Implements ``format_store.codecs.ValueCodec``."""

    name = "tagged-json"
    text = True
    # Promises: of these alone the store does not try each value. A datetime is none of them, because its
    # ``fold`` and the name of its time zone do not survive; one that has neither does, and is tried.
    exact_types: frozenset[type] = frozenset(
        {NoneType, bool, int, float, str, bytes, list, tuple, dict}
    )
    exact_key_types: frozenset[type] = frozenset({NoneType, bool, int, float, str, bytes, tuple})

    def __init__(self) -> None:
        self._dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        self._loads = json.JSONDecoder(object_pairs_hook=_object).decode

    def encode(self, value: object) -> str:
        """The stored form. Raises Unencodable, RecursionError."""
        try:
            text = self._dumps([_TAG, _tagged(value)])
            text.encode("utf-8")
        except ValueError as error:  # a lone surrogate, an int of thousands of digits
            raise Unencodable(
                f"JSON cannot hold it ({error})", type_name=type(value).__name__
            ) from error
        return text

    def decode(self, stored: object) -> object:
        """The object. Raises Undecodable, RecursionError."""
        if not isinstance(stored, (str, bytes)):
            raise Undecodable(f"tagged JSON is text or a blob, not {type(stored).__name__}")
        try:
            text = stored if isinstance(stored, str) else stored.decode("utf-8")
            tag, value = self._loads(text)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # the parsers of dates and decimals have errors of their own
            raise Undecodable(f"not tagged JSON ({error})") from error
        if tag != _TAG:
            raise Undecodable(f"not tagged JSON: it begins with {tag!r}")
        return value

    def doubtful(self, encoded: object, /) -> bool:
        """JSON knows one NaN, Python many."""
        return "NaN" in str(encoded)

    def plausible(self, data: bytes, /) -> bool:
        return data.startswith(_BEGINNING) and data.endswith(b"]")

    def signature_sql(self, column: str) -> str:
        first, last = f"substr({column},1,{len(_BEGINNING)})", f"substr({column},-1)"
        # Text as text and blobs as blobs: a cast of the one to the other depends on the database's encoding. Of an
        # empty blob substr is NULL, which a CHECK would take.
        return (
            f"(length({column})>0 AND CASE typeof({column})"
            f" WHEN 'text' THEN {first}='{_BEGINNING.decode()}' AND {last}=']'"
            f" WHEN 'blob' THEN {first}=x'{_BEGINNING.hex()}' AND {last}=x'5d' ELSE 0 END)"
        )


def _tagged(value: object) -> object:
    kind = type(value)
    if kind in (NoneType, bool, int, float, str):
        return value
    if isinstance(value, list) and kind is list:
        return [_tagged(item) for item in value]
    if isinstance(value, tuple) and kind is tuple:
        return {"$tuple": [_tagged(item) for item in value]}
    if isinstance(value, dict) and kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _tagged(item) for key, item in value.items()}
        return {"$dict": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    if kind in _WRITE:
        tag, write = _WRITE[kind]
        return {tag: write(value)}
    raise Unencodable(f"there is no form for {kind.__name__}", type_name=kind.__name__)


def _object(pairs: list[tuple[str, Any]]) -> object:
    if len(pairs) == 1 and pairs[0][0].startswith("$"):
        ((tag, value),) = pairs
        return _READ[tag](value)
    if any(name.startswith("$") for name, _ in pairs):
        raise ValueError("a dict with a name that is a tag")
    return _unique(pairs)


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a dict with the same key twice")
    return found
