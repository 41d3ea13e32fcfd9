"""The parameters of a ``sqlitedict`` format: validation, defaults, and what the bytes depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from format_store import codecs, errors, keys

_DEFAULTS: dict[str, Any] = {
    "keyEncoding": "natural",
    "valueCodec": "pickle",
    "compression": "none",
    "tables": None,
    "sharedReferences": "refuse",
}
SHARED_REFERENCES = ("refuse", "expand")


def parse(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in defaults and check every name. Raises InvalidFormat."""
    unknown = sorted(set(parameters) - set(_DEFAULTS))
    if unknown:
        raise _invalid(f"sqlitedict has no parameter {unknown[0]!r}; it has {', '.join(_DEFAULTS)}")
    parsed = _DEFAULTS | dict(parameters)
    _require_known(parsed, "keyEncoding", keys.get)
    _require_known(parsed, "valueCodec", codecs.require_codec)
    _require_known(parsed, "compression", codecs.require_compression)
    if parsed["sharedReferences"] not in SHARED_REFERENCES:
        raise _invalid(f"sharedReferences is one of {', '.join(SHARED_REFERENCES)}")
    tables = parsed["tables"]
    if tables is not None:
        if (
            not isinstance(tables, list | tuple)
            or not tables
            or not all(isinstance(name, str) and name for name in tables)
            or len(set(tables)) != len(tables)
        ):
            raise _invalid("tables is a list of distinct table names; leave it out for all tables")
        parsed["tables"] = tuple(tables)
    return parsed


def spec(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What ``parse`` would need to be told: everything that is not the default."""
    told = {
        name: value
        for name, value in parameters.items()
        if value != _DEFAULTS[name] or name in ("keyEncoding", "valueCodec")
    }
    if told.get("tables"):
        told["tables"] = list(told["tables"])
    return told


def on_disk(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """``sharedReferences`` says how to convert, not what lies on disk."""
    return {name: value for name, value in parameters.items() if name != "sharedReferences"}


def describe(parameters: Mapping[str, Any]) -> str:
    words = [parameters["keyEncoding"], parameters["valueCodec"]]
    if parameters["compression"] != "none":
        words.append(parameters["compression"])
    return " ".join(words)


def _require_known(parsed: Mapping[str, Any], parameter: str, get: Callable[[str], object]) -> None:
    name = parsed[parameter]
    try:
        if not isinstance(name, str):
            raise LookupError(f"{name!r} is not a name")
        get(name)
    except LookupError as error:
        raise _invalid(f"{parameter}: {error}") from error


def _invalid(message: str) -> errors.InvalidFormat:
    return errors.InvalidFormat(
        message,
        operation="parse format",
        path="formats",
        hint="Nothing was touched. Correct the format's declaration.",
    )
