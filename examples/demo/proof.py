"""The proof: what is in a database afterwards is what the app wrote, record by record, in the order in which it did."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from examples.demo.tree import Records, Shard
from format_store import Format, inspect, open_store

_END = ("(the end)", None)


class Different(Exception):
    """The database does not hold what was written."""


def compare_database(path: Path, written: Shard, wanted: Format) -> int:
    """The number of records, all tables together. Raises Different, StoreError kinds."""
    found = inspect(path)
    if found.format is None or not found.format.same_bytes_as(wanted):
        raise Different(f"it is in {found.format or 'no format'}, not in {wanted}")
    tables = {name for name, _ in found.tables}
    if tables != set(written.tables):
        raise Different(f"its tables are {sorted(tables)}, not {sorted(written.tables)}")
    return sum(compare(records, _stored(path, table)) for table, records in written.tables.items())


def compare(written: Records, found: Iterable[tuple[str, Any]]) -> int:
    """The number of records, when they are the same in the same order. Raises Different."""
    count = 0
    for number, (want, have) in enumerate(zip_longest(written, found, fillvalue=_END), 1):
        if want[0] != have[0]:
            raise Different(f"record {number} is {have[0]!r}, not {want[0]!r}")
        # repr tells what == does not: 1 from 1.0 and True, and the order of a dict's keys.
        if repr(want[1]) != repr(have[1]):
            raise Different(f"{want[0]!r} is {have[1]!r}, not {want[1]!r}")
        count = number
    return count


def compare_listing(written: Shard, directory: str, answer: dict[str, Any]) -> int:
    """The number of entries that the app listed, when they are those of the directory. Raises Different."""
    expected = [[key, one["kind"], one["size"]] for key, one in written.children(directory)]
    if answer["children"] != expected:
        missing = {key for key, *_ in expected} ^ {key for key, *_ in answer["children"]}
        raise Different(f"{directory}: {len(missing)} names differ: {sorted(missing)[:3]}")
    if answer["directory"]["entries"] != len(expected):
        raise Different(f"{directory} has {answer['directory']}, not {len(expected)} entries")
    return len(expected)


def left_over(database: Path, state: Path) -> list[str]:
    """What lies beside the database and should not, once nothing is under way and no backup is kept."""
    known = {database.name, state.name}
    strangers = [name for name in os.listdir(database.parent) if name not in known]
    return strangers + [
        os.path.relpath(found, database.parent)
        for place in ("work", "backups", "quarantine")
        for found in state.glob(f"{place}/*")
    ]


def _stored(path: Path, table: str) -> Iterator[tuple[str, Any]]:
    """A table as the app sees it: in the order in which records were inserted."""
    with open_store(path, table, flag="r") as store:
        yield from store.items()
