"""The engine for files of the ``sqlitedict`` package: key-value tables, one or more in a file.

    keyEncoding       natural (TEXT, as is) | hierarchical (BLOB, ordered by level) | a plug-in's
    valueCodec        pickle (what plain sqlitedict writes) | json | msgpack | raw | a plug-in's
    compression       none | zlib | zstd | a plug-in's
    tables            names; default: every table of sqlitedict's shape
    sharedReferences  refuse | expand: what to do with a value that contains the same list twice

A converted table carries CHECKs on the key's type and the value's first bytes, so that an application
that does not know the new format fails instead of mixing two formats in one table.
"""

from __future__ import annotations

from format_store.engines.sqlitedict.engine import SqliteDictEngine

__all__ = ["SqliteDictEngine"]
