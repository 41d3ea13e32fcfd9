"""Migrations: numbered SQL, as a format lists them, and the way from one list to another.

The list in a database's marker says which ones it has had, and how they are taken back. Numbers only ever
grow: what would have to be run before something that has been run already is refused.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from format_store import errors

#: All texts of a format together: they are in the marker, and in the manifest of every conversion.
MAX_CHARACTERS = 1 << 20
#: The largest that every JSON reader keeps; times such as 20260131120000, which many tools number by, fit.
MAX_NUMBER = 2**53 - 1
_FIELDS = ("number", "name", "sql", "down", "checks")
#: ``0003_add-customers.sql``, with ``.up`` for those who write it, ``.down`` and ``.checks`` beside it.
_FILE = re.compile(r"(\d+)(?:[-_.](.+?))??(?:\.(up|down|checks))?\.sql", re.IGNORECASE)


@dataclass(frozen=True)
class Migration:
    """``down`` takes it back; ``checks`` are queries that return true where it has been run."""

    number: int
    sql: str
    name: str = ""
    down: str | None = None
    checks: tuple[str, ...] = ()

    def to_spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"number": self.number}
        if self.name:
            spec["name"] = self.name
        spec["sql"] = self.sql
        if self.down is not None:
            spec["down"] = self.down
        if self.checks:
            spec["checks"] = list(self.checks)
        return spec

    def __str__(self) -> str:
        return f"migration {self.number}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True)
class Step:
    """One migration to run, or to take back."""

    migration: Migration
    back: bool = False

    @property
    def sql(self) -> str:
        return (self.migration.down or "") if self.back else self.migration.sql

    def __str__(self) -> str:
        return f"the way back of {self.migration}" if self.back else str(self.migration)


# --- reading them ---------------------------------------------------------------------------------------


def parse(entries: object) -> tuple[Migration, ...]:
    """Migrations by their numbers. Raises InvalidFormat."""
    if not isinstance(entries, list | tuple):
        raise invalid(f"migrations is a list, not {type(entries).__name__}")
    found = tuple(_one(entry, index) for index, entry in enumerate(entries))
    numbers = [migration.number for migration in found]
    for earlier, later in pairwise(numbers):
        if later <= earlier:
            raise invalid(
                f"migration {later} stands after {earlier}: each number once, in their order"
            )
    texts = (text for one in found for text in (one.sql, one.down or "", *one.checks))
    if sum(map(len, texts)) > MAX_CHARACTERS:
        raise invalid(f"the migrations have more than {MAX_CHARACTERS:,} characters together")
    return found


def _one(entry: object, index: int) -> Migration:
    at = f"migrations[{index}]"
    if isinstance(entry, Migration):
        return entry
    if not isinstance(entry, Mapping):
        raise invalid(f"{at} is a mapping, not {type(entry).__name__}")
    unknown = sorted(set(map(str, entry)) - set(_FIELDS))
    if unknown:
        raise invalid(f"{at} has no field {unknown[0]!r}; it has {', '.join(_FIELDS)}")
    number = entry.get("number")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_NUMBER:
        raise invalid(
            f"{at}.number is a whole number from 1 on, up to {MAX_NUMBER}, not {number!r}"
        )
    name = entry.get("name") or ""
    if not isinstance(name, str):
        raise invalid(f"{at}.name is a string")
    down = entry.get("down")
    checks = entry.get("checks") or ()
    if not isinstance(checks, list | tuple):
        raise invalid(f"{at}.checks is a list of queries")
    return Migration(
        number,
        _sql(entry.get("sql"), f"{at}.sql"),
        name,
        None if down is None else _sql(down, f"{at}.down"),
        tuple(_query(check, f"{at}.checks[{place}]") for place, check in enumerate(checks)),
    )


def _sql(text: object, at: str) -> str:
    if not isinstance(text, str):
        raise invalid(f"{at} is SQL, not {type(text).__name__}")
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise invalid(f"{at} is empty")
    if "\0" in text:
        raise invalid(f"{at} contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"{at} is no Unicode text") from error
    return text


def _query(text: object, at: str) -> str:
    query = _sql(text, at)
    if len(list(statements(query))) != 1:
        raise invalid(f"{at} is one query, and no more")
    return query


def from_folder(source: object) -> tuple[Migration, ...]:
    """Migrations from files of ``{folder, upTo}``, up to that number. Raises InvalidFormat.

    ``0003_add-customers.sql`` is migration 3; ``0003_add-customers.down.sql`` takes it back, each statement of
    ``0003_add-customers.checks.sql`` is a check. Links are followed: that is how Kubernetes mounts a ConfigMap.
    """
    if not isinstance(source, Mapping) or not set(map(str, source)) <= {"folder", "upTo"}:
        raise invalid("migrationsFrom is a mapping with folder and, if you like, upTo")
    folder, up_to = source.get("folder"), source.get("upTo")
    if not isinstance(folder, str) or not os.path.isabs(folder):
        raise invalid(f"migrationsFrom.folder is an absolute path, not {folder!r}")
    if up_to is not None and (not isinstance(up_to, int) or isinstance(up_to, bool) or up_to < 0):
        raise invalid(f"migrationsFrom.upTo is a migration's number, not {up_to!r}")
    parts: dict[int, dict[str, str]] = {}
    names: dict[int, str] = {}
    for name in _listed(folder):
        matched = _FILE.fullmatch(name)
        if matched is None:
            raise invalid(
                f"{name!r} in {folder} is no migration's name, such as 0003_add-customers.sql"
            )
        number = int(matched[1])
        if up_to is not None and number > up_to:
            continue
        kind = (matched[3] or "up").lower()
        known = parts.setdefault(number, {})
        if kind in known or names.setdefault(number, matched[2] or "") != (matched[2] or ""):
            raise invalid(f"there are two files of migration {number} in {folder}")
        known[kind] = _read(Path(folder, name))
    if up_to and up_to not in parts:
        raise invalid(f"migrationsFrom.upTo is {up_to}, and {folder} has no such migration")
    found = []
    for number, known in sorted(parts.items()):
        if "up" not in known:
            raise invalid(f"migration {number} in {folder} has no SQL but {min(known)}")
        entry: dict[str, Any] = {"number": number, "name": names[number], "sql": known["up"]}
        entry["checks"] = list(statements(known.get("checks", "")))
        found.append(entry | ({"down": known["down"]} if "down" in known else {}))
    return parse(found)


def _listed(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.lower().endswith(".sql"))
    except OSError as error:
        raise invalid(
            f"the folder of migrations {folder} cannot be read: {error.strerror}"
        ) from error


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CHARACTERS + 1)
        if len(data) > MAX_CHARACTERS:
            raise invalid(f"{path} is larger than {MAX_CHARACTERS:,} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise invalid(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"{path} is not UTF-8: {error}") from error


def invalid(message: str) -> errors.InvalidFormat:
    return errors.InvalidFormat(
        message,
        operation="parse format",
        path="formats",
        hint="Nothing was touched. Correct the format's declaration.",
    )


def statements(script: str) -> Iterator[str]:
    """The statements of a script; the end of one is where SQLite says so (``sqlite3_complete``).

    A last one without its semicolon counts. Comments stay with what follows them.
    """
    begun = 0
    for at, character in enumerate(script):
        if character == ";" and sqlite3.complete_statement(script[begun : at + 1]):
            if not is_blank(script[begun:at]):
                yield script[begun : at + 1].strip()
            begun = at + 1
    if not is_blank(script[begun:]):
        yield script[begun:].strip()


_COMMENT = re.compile(r"\s+|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$)", re.DOTALL)


def is_blank(text: str) -> bool:
    """Whether there is nothing but white space and comments."""
    at = 0
    while at < len(text):
        matched = _COMMENT.match(text, at)
        if matched is None:
            return False
        at = matched.end()
    return True


# --- the way --------------------------------------------------------------------------------------------


def way(applied: Sequence[Migration], wanted: Sequence[Migration], path: Path) -> tuple[Step, ...]:
    """What is to be run on a database that has had ``applied``. Raises MigrationsDiffer, NoWayBack."""
    had = {one.number: one for one in applied}
    wants = {one.number: one for one in wanted}
    for number in sorted(had.keys() & wants.keys()):
        if had[number].sql != wants[number].sql:
            raise errors.MigrationsDiffer(
                f"{wants[number]} has other SQL than what was run under that number",
                operation="check",
                path=path,
                hint="Nothing was touched. A migration that has been run stays as it is: put its SQL back, and "
                "write what is to change into a new one.",
            )
    too_many = sorted(had.keys() - wants.keys())
    missing = sorted(wants.keys() - had.keys())
    last = max(had.keys() & wants.keys(), default=0)
    for number in (*too_many, *missing):
        if number < last:
            what = f"{wants[number]} is new" if number in wants else f"{had[number]} is gone"
            raise errors.MigrationsDiffer(
                f"{what}, and {last} after it has been run already",
                operation="check",
                path=path,
                hint="Nothing was touched. Migrations are added, and taken away, at the end of their list.",
            )
    for number in too_many:
        if had[number].down is None:
            raise errors.NoWayBack(
                f"{had[number]} has been run, is not in the target, and has no `down`",
                operation="check",
                path=path,
                hint="Nothing was touched. Keep the format that has it as the target; or restore a backup "
                "(storageformat backups), which loses what was written since.",
            )
    return (
        *(Step(had[number], back=True) for number in reversed(too_many)),
        *(Step(wants[number]) for number in missing),
    )
