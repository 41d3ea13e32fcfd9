"""The parameters of a ``sqlite`` format: validation, defaults, and what the bytes depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from format_store.engines.sqlite import migrations
from format_store.engines.sqlite.migrations import Migration, invalid
from format_store.engines.sqlitedict import parameters as sqlitedict

#: By the numbers that SQLite gives them (``PRAGMA auto_vacuum``).
AUTO_VACUUM = ("none", "full", "incremental")
JOURNAL_MODES = ("wal", "delete")
PAGE_SIZES = tuple(2**power for power in range(9, 17))
_FILE_LEVEL = ("pageSize", "autoVacuum", "journalMode")
_KNOWN = (*_FILE_LEVEL, "migrations", "migrationsFrom")


def parse(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in defaults, check every value, read the folder of ``migrationsFrom``. Raises InvalidFormat.

    In what is returned None means "as it is"; ``migrations`` holds all there are, wherever they came from.
    """
    unknown = sorted(set(parameters) - {*_KNOWN, "sqlitedict"})
    if unknown:
        raise invalid(f"sqlite has no parameter {unknown[0]!r}; it has {', '.join(_KNOWN)}")
    _require_one_of(parameters, "pageSize", PAGE_SIZES)
    _require_one_of(parameters, "autoVacuum", AUTO_VACUUM)
    _require_one_of(parameters, "journalMode", JOURNAL_MODES)
    inline, folder = parameters.get("migrations"), parameters.get("migrationsFrom")
    if inline is not None and folder is not None:
        raise invalid("migrations stand in the format or in a folder (migrationsFrom), not in both")
    part = parameters.get("sqlitedict")
    if part is not None and not isinstance(part, Mapping):
        raise invalid(f"the parameters of sqlitedict are a mapping, not {type(part).__name__}")
    return {
        **{name: parameters.get(name) for name in _FILE_LEVEL},
        "migrations": migrations.parse(() if inline is None else inline)
        if folder is None
        else migrations.from_folder(folder),
        "sqlitedict": None if part is None else sqlitedict.parse(part),
    }


def spec(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What ``parse`` would need to be told, without ``sqlitedict``, which stands beside it."""
    told = {name: parameters[name] for name in _FILE_LEVEL if parameters[name] is not None}
    if parameters["migrations"]:
        told["migrations"] = [one.to_spec() for one in parameters["migrations"]]
    return told


def on_disk(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A migration is what its number and its SQL say, whatever its name and its checks.

    Its way back counts: it is in the marker, where a mended one has to get, too.
    """
    part = parameters["sqlitedict"]
    return {
        **{name: parameters[name] for name in _FILE_LEVEL},
        "migrations": [(one.number, one.sql, one.down) for one in parameters["migrations"]],
        "sqlitedict": None if part is None else sqlitedict.on_disk(part),
    }


def describe(parameters: Mapping[str, Any]) -> str:
    words = []
    if parameters["pageSize"] is not None:
        words.append(f"pages of {parameters['pageSize']}")
    if parameters["autoVacuum"] is not None:
        words.append(f"auto-vacuum {parameters['autoVacuum']}")
    if parameters["journalMode"] is not None:
        words.append(f"journal {parameters['journalMode']}")
    numbers = [one.number for one in parameters["migrations"]]
    if numbers:
        words.append(f"migrations to {numbers[-1]}")
    if parameters["sqlitedict"] is not None:
        words.append(f"with sqlitedict {sqlitedict.describe(parameters['sqlitedict'])}")
    return ", ".join(words) or "as it is"


def applied(parameters: Mapping[str, Any]) -> tuple[Migration, ...]:
    """The migrations that a database in this format has had."""
    found: tuple[Migration, ...] = parameters["migrations"]
    return found


def _require_one_of(parameters: Mapping[str, Any], name: str, choices: tuple[object, ...]) -> None:
    value = parameters.get(name)
    if value is not None and (isinstance(value, bool) or value not in choices):
        raise invalid(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}")
