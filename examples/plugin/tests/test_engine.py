"""The engine keeps to what the store asks of one, on files as ``shelve`` makes them."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from format_store import Format, Outcome, convert, errors, inspect, plan
from format_store.codecs import ValueFormat
from format_store.testing import EngineConformance

Records = Sequence[tuple[str, Any]]

#: What ``dbm.sqlite3`` of Python 3.13 executes; shelve puts pickles into it.
CREATE = (
    "CREATE TABLE IF NOT EXISTS Dict (\n    key BLOB UNIQUE NOT NULL,\n    value BLOB NOT NULL\n  )"
)
STORE = "REPLACE INTO Dict (key, value) VALUES (CAST(? AS BLOB), CAST(? AS BLOB))"

PLAIN = Format.from_spec({"shelve": {}})
TAGGED = Format.from_spec({"shelve": {"valueCodec": "tagged-json", "compression": "zlib"}})


def write_shelf(path: Path, records: Records) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(CREATE)
        with connection:
            connection.executemany(
                STORE, [(key.encode(), pickle.dumps(value, 4)) for key, value in records]
            )


def read_shelf(path: Path, format: Format | None) -> Records:
    parameters = {} if format is None else format.parameters
    values = ValueFormat.named(
        parameters.get("valueCodec", "pickle"), parameters.get("compression", "none")
    )
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT key, value FROM Dict ORDER BY rowid").fetchall()
    return [(key.decode(), values.decode(value)) for key, value in rows]


class TestShelve(EngineConformance):
    source = PLAIN
    target = TAGGED

    def write(self, path: Path, records: Records) -> None:
        write_shelf(path, records)

    def read(self, path: Path) -> Records:
        return read_shelf(path, inspect(path).format)


class TestShelveWithTheSameCodec(TestShelve):
    target = Format.from_spec({"shelve": {"compression": "zstd"}})


def test_a_file_of_pythons_own(tmp_path: Path) -> None:
    """A file that ``shelve`` of Python 3.13 wrote arrives with every value, and comes back with every value, too."""
    path = tmp_path / "shelf.db"
    shutil.copyfile(Path(__file__).with_name("shelf-python3.13.db"), path)
    before = rows_of(path)
    allowed = {"pickle_allow": ["datetime.date", "decimal.Decimal"]}
    assert convert(path, TAGGED, unmarked=[PLAIN], **allowed).rows == 30  # type: ignore[arg-type]
    found = dict(read_shelf(path, TAGGED))
    assert found["order-07"] == {
        "number": 7,
        "due": date(2026, 11, 8),
        "price": Decimal("0.875"),
        "size": (7, 8),
        "note": "é" * 7,
        "raw": b"\x07",
    }
    convert(path, PLAIN, **allowed)  # type: ignore[arg-type]
    after = rows_of(path)
    assert [key for key, _ in after] == [key for key, _ in before]
    assert [pickle.loads(value) for _, value in after] == [
        pickle.loads(value) for _, value in before
    ]


def rows_of(path: Path) -> list[tuple[bytes, bytes]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT key, value FROM Dict ORDER BY rowid").fetchall()


def test_dates_leave_their_pickles(tmp_path: Path) -> None:
    """With the class allowed in so many words, a date arrives as JSON that everybody can read."""
    path = tmp_path / "shelf.db"
    write_shelf(path, [("a", {"due": date(2026, 11, 25)})])
    target = Format.from_spec({"shelve": {"valueCodec": "tagged-json"}})
    with pytest.raises(errors.UnconvertibleValue, match=r"key b'a': .*datetime.date"):
        convert(path, target, unmarked=[PLAIN])
    allowed = {"unmarked": [PLAIN], "pickle_allow": ["datetime.date"]}
    assert convert(path, target, **allowed).outcome is Outcome.CONVERTED  # type: ignore[arg-type]
    assert read_shelf(path, target) == [("a", {"due": date(2026, 11, 25)})]


def test_obstacles_are_listed(tmp_path: Path) -> None:
    """``plan`` names what the target cannot hold."""
    path = tmp_path / "shelf.db"
    write_shelf(path, [("a", 1), ("b", {1, 2})])
    planned = plan(path, TAGGED, unmarked=[PLAIN])
    assert planned.action == "refuse"
    assert [one.key for one in planned.obstacles] == ["b'b'"]


def test_an_unaware_shelf_cannot_mix_formats(tmp_path: Path) -> None:
    """What ``dbm.sqlite3`` would write into a converted file is refused by the table itself."""
    path = tmp_path / "shelf.db"
    write_shelf(path, [("a", 1)])
    convert(path, TAGGED, unmarked=[PLAIN])
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(STORE, (b"b", pickle.dumps(2)))


def test_a_file_that_holds_more_is_refused(tmp_path: Path) -> None:
    """Another table would be lost in the copy."""
    path = tmp_path / "shelf.db"
    write_shelf(path, [("a", 1)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(errors.UnsupportedSchema, match="'other'"):
        convert(path, TAGGED, unmarked=[PLAIN])
