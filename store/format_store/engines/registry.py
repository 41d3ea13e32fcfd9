"""Engines by name: our own, and those that installed packages declare as ``storageformat.engines``."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from format_store import errors

if TYPE_CHECKING:
    from format_store.engines.base import Engine

ENTRY_POINT_GROUP = "storageformat.engines"


@cache
def get(name: str) -> Engine:
    """The engine of this name. Raises InvalidFormat."""
    if name == "sqlitedict":
        from format_store.engines.sqlitedict import SqliteDictEngine

        return SqliteDictEngine()
    # Reading every installed package's metadata is slow: only for names that are not ours.
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        loaded = point.load()
        engine: Engine = loaded() if isinstance(loaded, type) else loaded
        return engine
    raise errors.InvalidFormat(
        f"there is no engine {name!r}",
        operation="parse format",
        path="formats",
        hint="Nothing was touched. Built in: sqlitedict. Others are installed as packages.",
    )
