"""The conformance suite over the engines that are built in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from format_store import PLAIN_SQLITEDICT, Format
from format_store.testing import EngineConformance
from tests.support.databases import records_on_disk, write_plain

Records = Sequence[tuple[str, Any]]


class PlainSource(EngineConformance):
    source = PLAIN_SQLITEDICT

    def write(self, path: Path, records: Records) -> None:
        write_plain(path, records)

    def read(self, path: Path) -> Records:
        return records_on_disk(path)


class TestSqlitedictKeys(PlainSource):
    target = Format.sqlitedict(key_encoding="hierarchical")


class TestSqlitedictKeysAndValues(PlainSource):
    target = Format.sqlitedict(
        key_encoding="hierarchical", value_codec="msgpack", compression="zstd"
    )
