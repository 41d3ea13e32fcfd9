"""Engines by name: our own, and those that installed packages declare as ``storageformat.engines``."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from format_store import errors

if TYPE_CHECKING:
    from format_store.engines.base import Engine
    from format_store.formats import Format

ENTRY_POINT_GROUP = "storageformat.engines"


@cache
def get(name: str) -> Engine:
    """The engine of this name. Raises InvalidFormat."""
    if name == "sqlitedict":
        from format_store.engines.sqlitedict import SqliteDictEngine

        return SqliteDictEngine()
    if name == "sqlite":
        from format_store.engines.sqlite import SqliteEngine

        return SqliteEngine()
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
        hint="Nothing was touched. Built in: sqlite and sqlitedict. Others are installed as packages.",
    )


def common(one: Format, another: Format) -> tuple[Engine, Format, Format] | None:
    """The engine that knows both formats, and each of them as it has it; None where there is none."""
    for name in (another.engine, one.engine):
        first, second = one.under(name), another.under(name)
        if first is not None and second is not None:
            return get(name), first, second
    return None
