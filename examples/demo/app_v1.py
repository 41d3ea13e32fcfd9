"""The app as it is today: plain sqlitedict, pickles, and no idea that formats change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlitedict import SqliteDict


def write(path: Path, tables: Mapping[str, Iterable[tuple[str, Any]]]) -> None:
    """Fill a database: a table at a time, record after record."""
    for name, records in tables.items():
        with SqliteDict(os.fspath(path), tablename=name, outer_stack=False) as table:
            for key, value in records:
                table[key] = value
            table.commit()
