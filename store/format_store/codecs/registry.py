"""Codecs and compressions by name; the built-in ones are imported when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, cast

from format_store.codecs.base import Compression, ValueCodec
from format_store.codecs.errors import UnknownFormat

CODECS_GROUP = "storageformat.codecs"
COMPRESSIONS_GROUP = "storageformat.compressions"

_CODECS = {
    "pickle": "pickle_codec:Pickle",
    "json": "json_codec:Json",
    "msgpack": "msgpack_codec:MessagePack",
    "raw": "raw:Raw",
}
_COMPRESSIONS = {
    "none": "compressions:NoCompression",
    "zlib": "compressions:Zlib",
    "zstd": "zstd_compression:Zstd",
}


def get_codec(name: str, *, pickle_allow: Sequence[str] = ()) -> ValueCodec:
    """The codec of this name; ``pickle_allow`` is for ``pickle`` alone. Raises UnknownFormat."""
    if name == "pickle":
        return cast("ValueCodec", _built_in(_CODECS[name])(pickle_allow))
    found = _get(name, _CODECS, CODECS_GROUP, "codec", ValueCodec)
    return cast("ValueCodec", found)


def get_compression(name: str) -> Compression:
    """The compression of this name. Raises UnknownFormat."""
    found = _get(name, _COMPRESSIONS, COMPRESSIONS_GROUP, "compression", Compression)
    return cast("Compression", found)


def require_codec(name: str) -> None:
    """Make sure that ``get_codec`` knows the name, without loading what is built in. Raises UnknownFormat."""
    if name not in _CODECS:
        get_codec(name)


def require_compression(name: str) -> None:
    """As ``require_codec``, for ``get_compression``. Raises UnknownFormat."""
    if name not in _COMPRESSIONS:
        get_compression(name)


def codec_names() -> tuple[str, ...]:
    """All names that ``get_codec`` knows, the built-in ones first."""
    return _names(_CODECS, CODECS_GROUP)


def compression_names() -> tuple[str, ...]:
    """All names that ``get_compression`` knows, the built-in ones first."""
    return _names(_COMPRESSIONS, COMPRESSIONS_GROUP)


def _get(name: str, built_in: dict[str, str], group: str, what: str, protocol: Any) -> Any:
    if name in built_in:
        return _built_in(built_in[name])()
    found = _installed(group, name)
    if not isinstance(found, protocol) or getattr(found, "name", None) != name:
        known = ", ".join(built_in)
        raise UnknownFormat(f"there is no {what} {name!r}; there is {known}")
    return found


@cache
def _built_in(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return cast("Callable[..., Any]", getattr(import_module(f"format_store.codecs.{module}"), name))


@cache
def _installed(group: str, name: str) -> object:
    # Only for names that are not built in: this reads the metadata of every installed package.
    from importlib.metadata import entry_points

    for point in entry_points(group=group, name=name):
        loaded = point.load()
        return loaded() if isinstance(loaded, type) else loaded
    return None


def _names(built_in: dict[str, str], group: str) -> tuple[str, ...]:
    from importlib.metadata import entry_points

    return (*built_in, *sorted({point.name for point in entry_points(group=group)} - set(built_in)))
