"""Looking at a database without changing it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from format_store import conversion, durable, errors, lease, preflight, retained, sqlitefile
from format_store.formats import Format, Marker
from format_store.layout import Layout
from format_store.observer import Backup
from format_store.run import os_errors
from format_store.sqlitefile import quote_name


@dataclass(frozen=True)
class Inspection:
    """What is there. ``state``: absent, empty, unmarked, marked, foreign, or busy (it has a hot journal
    or a write-ahead log whose content only a recovery, or its application, brings into the file).
    """

    path: str
    state: str
    marker: Marker | None
    size: int
    journal_mode: str | None
    page_size: int | None
    tables: tuple[tuple[str, int], ...]
    pending: tuple[str, ...]
    backups: tuple[Backup, ...]
    note: str = ""

    @property
    def format(self) -> Format | None:
        return self.marker.format if self.marker else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "state": self.state,
            "format": self.format.to_spec() if self.format else None,
            "marker": self.marker.to_dict() if self.marker else None,
            "size": self.size,
            "journalMode": self.journal_mode,
            "pageSize": self.page_size,
            "tables": [{"name": name, "rows": rows} for name, rows in self.tables],
            "pending": list(self.pending),
            "backups": [backup.to_dict() for backup in self.backups],
            "note": self.note,
        }


def inspect(layout: Layout, *, count_rows: bool) -> Inspection:
    """See ``format_store.inspect``."""
    path = layout.primary
    with os_errors("inspect", path, "Nothing was touched."):
        pending = conversion.pending(layout)
        kept = tuple(backup for (_, backup) in retained.listed(layout))
        facts: dict[str, Any] = {"pending": pending, "backups": kept}
        if preflight.look(layout) is None:
            return _inspection(layout, "absent", **facts)
        size = os.stat(path).st_size
        if size == 0 and not any(durable.exists(sibling) for sibling in layout.siblings()):
            return _inspection(layout, "empty", size=0, **facts)
        try:
            return _look_inside(layout, size, facts, count_rows=count_rows)
        except errors.NotASQLiteDatabase as foreign:
            return _inspection(layout, "foreign", size=size, note=foreign.message, **facts)
        except sqlitefile.SQLITE_ERROR as error:
            wrapped = sqlitefile.wrap(error, "inspect", path)
            if isinstance(wrapped, errors.StorageError) and any(
                durable.exists(sibling) for sibling in layout.siblings()
            ):
                note = "its journal has to be worked off first: storageformat recover, or its application"
                return _inspection(layout, "busy", size=size, note=note, **facts)
            raise wrapped from error


def _look_inside(
    layout: Layout, size: int, facts: dict[str, Any], *, count_rows: bool
) -> Inspection:
    path = layout.primary
    # Read-only SQLite would leave -wal and -shm beside a database in WAL mode. Without either the file is
    # complete in itself, and `immutable` reads it without a trace. In other modes SQLite's locks are kept.
    # A database that this process has open is one that somebody may be writing to.
    quiet = not lease.is_open_here(path) and not any(
        durable.exists(sibling) for sibling in layout.siblings()
    )
    if quiet:
        header = sqlitefile.read_header(path, operation="inspect")
        quiet = header is not None and header.wal
    sqlitefile.require_plain_files(path)
    uri = sqlitefile.uri(path, "ro") + ("&immutable=1" if quiet else "")
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.execute("PRAGMA trusted_schema=OFF")
        sqlitefile.know_collations(connection)
        marker = sqlitefile.marker_of(connection, path)
        tables = _counted(connection) if count_rows else ()
        has_rows = (
            any(rows for _, rows in tables) if count_rows else sqlitefile.has_rows(connection)
        )
        state = "marked" if marker else "unmarked" if has_rows else "empty"
        return _inspection(
            layout,
            state,
            marker=marker,
            size=size,
            # With `immutable` SQLite does not even look for a log, and says "delete".
            journal_mode="wal"
            if quiet
            else str(connection.execute("PRAGMA journal_mode").fetchone()[0]),
            page_size=int(connection.execute("PRAGMA page_size").fetchone()[0]),
            tables=tables,
            **facts,
        )


def _counted(connection: sqlite3.Connection) -> tuple[tuple[str, int], ...]:
    return tuple(
        (name, int(connection.execute(f"SELECT count(*) FROM {quote_name(name)}").fetchone()[0]))
        for name in sqlitefile.tables_with_rows_of_their_own(connection)
    )


def _inspection(layout: Layout, state: str, **facts: Any) -> Inspection:
    defaults = {
        "marker": None, "size": 0, "journal_mode": None, "page_size": None, "tables": (), "note": "",
    }  # fmt: skip
    return Inspection(path=os.fspath(layout.primary), state=state, **(defaults | facts))


__all__ = ["Inspection", "inspect"]
