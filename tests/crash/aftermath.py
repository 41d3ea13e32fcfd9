"""What must hold after whatever happened: recover, compare every record, finish, compare again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from format_store import Format, convert, inspect, recover
from tests.support.databases import Records, format_on_disk, leftovers, records_on_disk

HIERARCHICAL: dict[str, Any] = {"sqlitedict": {"keyEncoding": "hierarchical"}}
PLAIN: dict[str, Any] = {"sqlitedict": {}}


def require_intact(
    path: Path, records: Records, target: dict[str, Any], *, tables: Sequence[str] = ("unnamed",)
) -> str:
    """Recover, and require that the database is wholly old or wholly new; then convert, wholly new.

    Returns which of the two it was after the recovery: ``old`` or ``new``.
    """
    recover(path)
    assert os.stat(path).st_nlink == 1
    for table in tables:
        assert records_on_disk(path, table) == records
    # After that reading, which as any opening does works off a journal that a killed process left.
    assert leftovers(path) == []
    assert inspect(path).pending == ()
    # Once more: recovery is idempotent, and with nothing pending it does nothing.
    before = path.read_bytes()
    assert recover(path).recoveries == ()
    assert path.read_bytes() == before
    where = "new" if format_on_disk(path) else "old"
    convert(path, Format.from_spec(target))
    assert leftovers(path) == []
    for table in tables:
        assert records_on_disk(path, table) == records
    assert format_on_disk(path) == Format.from_spec(target).to_spec()["sqlitedict"]
    return where
