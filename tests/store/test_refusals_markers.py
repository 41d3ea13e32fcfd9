"""Refused before anything is written: markers that are not understood, rows that fit none or several formats."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlitedict import SqliteDict

from format_store import (
    PLAIN_SQLITEDICT,
    Format,
    Outcome,
    convert,
    errors,
    inspect,
    open_store,
    verify,
)
from tests.support.databases import execute, marker_of, records_on_disk, sample, write_plain
from tests.support.refusals import HIERARCHICAL, refused, require_plan_refuses
from tests.support.trees import unchanged

RECORDS = sample(30)
JSON = Format.sqlitedict(value_codec="json")
GOOD = {
    "markerVersion": 1,
    "format": {"sqlitedict": {"keyEncoding": "natural", "valueCodec": "pickle"}},
    "conversion": "20261123T104639Z-3f9a1c2b",
    "convertedAt": "2026-11-23T10:46:39Z",
    "tool": "0.1.0",
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def mark(path: Path, text: str) -> None:
    """Put a marker with this text into the schema, as the store would."""
    literal = text.replace("'", "''")
    execute(path, f"CREATE VIEW _storageformat AS SELECT '{literal}' AS marker")


def changed(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in GOOD.items() if key != name})


def require_never_overwritten(database: Path, kind: type[errors.StoreError], *says: str) -> None:
    """Every way to look at, convert or open the file refuses it, and the marker stays as it is."""
    with refused(database, kind, *says):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, kind)
    for operation in (inspect, verify, open_store):
        with unchanged(database.parent), pytest.raises(kind):
            operation(database)


# --- markers --------------------------------------------------------------------------------------------


def test_the_good_marker_is_good(database: Path) -> None:
    """The marker that the tests below change is accepted as it stands."""
    mark(database, json.dumps(GOOD))
    assert convert(database, PLAIN_SQLITEDICT).outcome is Outcome.UNCHANGED


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"leveldb": {}}, "leveldb"),
        ({"sqlitedict": {"keyEncoding": "sorted"}}, "sorted"),
        ({"sqlitedict": {"valueCodec": "yaml"}}, "yaml"),
        ({"sqlitedict": {"compression": "lz4"}}, "lz4"),
        ({"sqlitedict": {"cipher": "rot13"}}, "cipher"),
        ({"sqlitedict": {}, "shelve": {}}, "names one engine"),
        ({}, "names one engine"),
        ("sqlitedict", "str"),
        (None, "NoneType"),
        ({"sqlitedict": "natural"}, "mapping"),
        ({"sqlitedict": {"keyEncoding": ["natural"]}}, "keyEncoding"),
        ({"sqlitedict": {"tables": [1]}}, "tables"),
    ],
)
def test_unknown_engine_or_parameter(database: Path, spec: Any, says: str) -> None:
    """A format that this version does not know: named, and never relabelled."""
    mark(database, changed(format=spec))
    require_never_overwritten(database, errors.UnknownMarker, "orders.db", says)


@pytest.mark.parametrize("version", [2, 99])
def test_newer_marker(database: Path, version: int) -> None:
    """A newer tool's marker: its version is named, and the hint names the tool that wrote it."""
    mark(database, json.dumps({"markerVersion": version, "tool": "9.9.9", "surprise": True}))
    require_never_overwritten(database, errors.NewerMarker, "orders.db", str(version))
    with pytest.raises(errors.NewerMarker) as caught:
        convert(database, HIERARCHICAL)
    assert "9.9.9" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        json.dumps(GOOD)[:-20],
        "\x01" * 64,
        "[]",
        "1",
        "null",
        "[" * 100_000,
        changed(markerVersion="1"),
        changed(markerVersion=True),
        changed(markerVersion=0),
        changed(markerVersion=1.0),
        changed(conversion=""),
        changed(tool=7),
        changed(convertedAt=None),
        *(without(name) for name in GOOD),
    ],
    ids=lambda text: text[:24] or "empty",
)
def test_torn_marker(database: Path, text: str) -> None:
    """A marker that is empty, cut short or not one at all is never taken for 'no marker'."""
    mark(database, text)
    require_never_overwritten(database, errors.UnreadableMarker, "orders.db", "marker")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW _storageformat AS SELECT 1 AS marker",
        "CREATE VIEW _storageformat AS SELECT '{}' AS marker, 1 AS more",
        "CREATE VIEW _storageformat AS SELECT 'a' || 'b' AS marker",
        "CREATE VIEW _StorageFormat AS SELECT '{}' AS marker",
        "CREATE VIEW _storageformat (marker) AS SELECT '{}'",
    ],
)
def test_a_view_of_that_name_that_is_no_marker(database: Path, statement: str) -> None:
    """Only the very statement that this tool writes is a marker; its SQL is never run to find out."""
    execute(database, statement)
    require_never_overwritten(database, errors.UnreadableMarker, "marker")


def test_a_table_of_that_name(database: Path) -> None:
    """A table named like the marker is somebody's data: refused by name, not dropped."""
    execute(
        database,
        "CREATE TABLE _storageformat (marker)",
        "INSERT INTO _storageformat VALUES ('mine')",
    )
    require_never_overwritten(database, errors.UnreadableMarker, "a table named _storageformat")


def test_a_marker_that_the_tables_contradict(database: Path) -> None:
    """Rows of another format than the marker tells: MarkerMismatch names the table."""
    mark(database, changed(format=HIERARCHICAL.to_spec()))
    for target in (HIERARCHICAL, JSON, PLAIN_SQLITEDICT):
        with refused(database, errors.MarkerMismatch, "'unnamed'", "hierarchical"):
            convert(database, target)
        require_plan_refuses(database, errors.MarkerMismatch, target=target)


def test_a_new_table_of_an_unaware_application(database: Path) -> None:
    """Another table name in plain SqliteDict makes a table without guards: found at the next start."""
    convert(database, HIERARCHICAL)
    write_plain(database, [("/new", 1)], table="other")
    with refused(database, errors.MarkerMismatch, "'other'", "hierarchical"):
        convert(database, HIERARCHICAL)
    assert records_on_disk(database) == RECORDS


def test_a_table_that_was_dropped_and_recreated(database: Path) -> None:
    """So is a table of the marker's that somebody made anew, without its guards."""
    convert(database, HIERARCHICAL)
    execute(database, "DROP TABLE unnamed")
    write_plain(database, [("/new", 1)])
    with refused(database, errors.MarkerMismatch, "'unnamed'"):
        convert(database, HIERARCHICAL)


def test_a_file_that_was_recreated(database: Path) -> None:
    """``flag='n'`` removes the file: what comes then has no marker, is plain, and is converted anew."""
    convert(database, HIERARCHICAL)
    with SqliteDict(str(database), flag="n") as store:
        store["/new"] = 1
        store.commit()
    assert marker_of(database) is None
    assert convert(database, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert records_on_disk(database) == [("/new", 1)]


def test_a_table_that_was_emptied(database: Path) -> None:
    """``flag='w'`` deletes the rows and keeps the table: its guards still keep the wrong ones out."""
    convert(database, HIERARCHICAL)
    SqliteDict(str(database), flag="w").close()
    assert records_on_disk(database) == []
    with pytest.raises(sqlite3.IntegrityError):
        write_plain(database, [("/new", 1)])
    assert convert(database, HIERARCHICAL).outcome is Outcome.UNCHANGED


# --- without a marker -----------------------------------------------------------------------------------


def odd_integer_key(path: Path) -> None:
    rebuild(path, "BLOB")
    execute(path, "INSERT INTO unnamed VALUES (7, x'80044b012e')")


def odd_blob_key(path: Path) -> None:
    execute(path, "INSERT INTO unnamed VALUES (x'2f61', x'80044b012e')")


def odd_null_key(path: Path) -> None:
    execute(path, "INSERT INTO unnamed VALUES (NULL, x'80044b012e')")


def odd_null_value(path: Path) -> None:
    execute(path, "INSERT INTO unnamed VALUES ('/odd', NULL)")


def odd_text_value(path: Path) -> None:
    execute(path, "INSERT INTO unnamed VALUES ('/odd', 'text')")


def odd_empty_value(path: Path) -> None:
    execute(path, "INSERT INTO unnamed VALUES ('/odd', x'')")


def rebuild(path: Path, affinity: str) -> None:
    execute(
        path,
        "ALTER TABLE unnamed RENAME TO was",
        f"CREATE TABLE unnamed (key {affinity} PRIMARY KEY, value BLOB)",
        "INSERT INTO unnamed SELECT * FROM was",
        "DROP TABLE was",
    )


@pytest.mark.parametrize(
    "spoil",
    [
        odd_integer_key,
        odd_blob_key,
        odd_null_key,
        odd_null_value,
        odd_text_value,
        odd_empty_value,
    ],
)
def test_rows_that_fit_no_declared_format(database: Path, spoil: Callable[[Path], None]) -> None:
    """One row of another kind among the others is enough: what was declared is not what is there."""
    spoil(database)
    with refused(database, errors.UndeclaredFormat, "orders.db", "natural pickle", "hierarchical"):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, errors.UndeclaredFormat)


def test_nothing_declared(database: Path) -> None:
    """With nothing declared only the target counts, which this file is not in."""
    with refused(database, errors.UndeclaredFormat, "json"):
        convert(database, JSON, unmarked=())


def test_a_declared_table_that_is_not_there(database: Path) -> None:
    """A format that is declared for a table of another name is not this file's."""
    elsewhere = Format.sqlitedict(tables=["other"])
    with refused(database, errors.UndeclaredFormat):
        convert(database, HIERARCHICAL, unmarked=(elsewhere,))


def test_rows_that_fit_several_declared_formats(tmp_path: Path) -> None:
    """Blobs that are pickles could be raw values as well: nobody guesses, both are named."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    raw = Format.sqlitedict(value_codec="raw")
    with refused(path, errors.AmbiguousFormat, "natural pickle", "natural raw"):
        convert(path, HIERARCHICAL, unmarked=(PLAIN_SQLITEDICT, raw))
    require_plan_refuses(path, errors.AmbiguousFormat, unmarked=(PLAIN_SQLITEDICT, raw))


def test_the_target_counts_as_declared(tmp_path: Path) -> None:
    """Rows that fit a declared format and the target are ambiguous too: one of the two would be wrong."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    with refused(path, errors.AmbiguousFormat, "raw", "pickle"):
        convert(path, Format.sqlitedict(value_codec="raw"))


def test_ambiguity_that_decoding_dissolves(tmp_path: Path) -> None:
    """First bytes fit several formats, the rest of the values only one: that one is adopted."""
    path = tmp_path / "orders.db"
    # 0x28 begins a pickle of protocol 0 or 1 and 0x2e ends one; as a pickle this one is broken.
    write_plain(path, [("/a", b"(not a pickle.")], encode=sqlite3.Binary)
    unmarked = (PLAIN_SQLITEDICT, Format.sqlitedict(value_codec="raw"))
    assert convert(path, HIERARCHICAL_RAW, unmarked=unmarked).source == unmarked[1]
    assert records_on_disk(path) == [("/a", b"(not a pickle.")]


HIERARCHICAL_RAW = Format.sqlitedict(key_encoding="hierarchical", value_codec="raw")


def test_the_same_format_declared_twice_is_not_ambiguous(database: Path) -> None:
    """Two spellings of one format are one."""
    again = Format.sqlitedict(shared_references="expand")
    assert (
        convert(database, HIERARCHICAL, unmarked=(PLAIN_SQLITEDICT, again)).outcome
        is Outcome.CONVERTED
    )


def test_the_refusal_survives_a_restart(database: Path) -> None:
    """Refused today, refused tomorrow: nothing that a refusal leaves changes the next answer."""
    odd_blob_key(database)
    for _ in range(2):
        with refused(database, errors.UndeclaredFormat):
            convert(database, HIERARCHICAL)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM unnamed").fetchone() == (len(RECORDS) + 1,)
