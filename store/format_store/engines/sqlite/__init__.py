"""The engine for any SQLite database: how the file lies, which migrations it has had, and sqlitedict's tables in it.

    pageSize        bytes, a power of two from 512 to 65536; left out: as it is
    autoVacuum      none | full | incremental; left out: as it is
    journalMode     wal | delete; left out: as it is
    migrations      numbered SQL, each with an optional ``down`` and ``checks``
    migrationsFrom  instead of these: {folder, upTo}, files of a folder
    sqlitedict      the parameters of a sqlitedict format, for tables of its shape in the same file

In a format's spec the last one stands beside the engine (``{sqlite: {...}, sqlitedict: {...}}``). Without it the
tables of sqlitedict's shape are tables like any others.

Whatever no migration and no sqlitedict format touches is compared with the source row for row.
"""

from __future__ import annotations

from format_store.engines.sqlite.engine import SqliteEngine

__all__ = ["SqliteEngine"]
