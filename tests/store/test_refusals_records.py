"""Refused: keys and values that the target cannot hold, each with its table, key and type."""

from __future__ import annotations

import datetime as dt
import fractions
import os
import pickle
import sqlite3
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from format_store import PLAIN_SQLITEDICT, Format, Outcome, convert, errors, history, plan
from tests.support.databases import execute, records_on_disk, sample, write_plain
from tests.support.refusals import HIERARCHICAL, refused
from tests.support.trees import unchanged

RECORDS = sample(12)
JSON = Format.sqlitedict(value_codec="json")
MSGPACK = Format.sqlitedict(value_codec="msgpack")
ZSTD = Format.sqlitedict(compression="zstd")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


@pytest.fixture
def marked(database: Path) -> Path:
    """Marked as what plain sqlitedict writes: no guards, so that anything can be in it by now."""
    convert(database, PLAIN_SQLITEDICT)
    return database


def require_obstacle(
    database: Path, target: Format, column: str, *says: str, built: bool = True, **options: Any
) -> None:
    """Refused when converting and foretold by a plan, in the same words; history does not count it."""
    kind = errors.UnconvertibleKey if column == "key" else errors.UnconvertibleValue
    with refused(database, kind, "'unnamed'", *says, built=built):
        convert(database, target, **options)
    assert history.read(database).totals["conversions.failed"] == 0
    before = history.read(database)
    with unchanged(database.parent):
        planned = plan(database, target, **options)
    assert planned.action == "refuse"
    if planned.refusal is not None:
        assert type(planned.refusal) is kind
        told = str(planned.refusal)
    else:
        told = "; ".join(
            f"{found.table!r} {found.column} {found.key} {found.what}"
            for found in planned.obstacles
        )
        assert all(found.column == column for found in planned.obstacles)
    assert "'unnamed'" in told
    assert history.read(database) == before


# --- keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("INSERT INTO unnamed VALUES (x'2f61', x'80044b012e')", "a blob"),
        ("INSERT INTO unnamed VALUES (NULL, x'80044b012e')", "NULL"),
    ],
)
@pytest.mark.parametrize("target", [HIERARCHICAL, ZSTD, MSGPACK])
def test_keys_of_another_type(marked: Path, statement: str, says: str, target: Format) -> None:
    """A BLOB or NULL among the keys is found in SQL, before anything is built, with row and type."""
    execute(marked, statement)
    require_obstacle(marked, target, "key", f"row {len(RECORDS) + 1}", says, built=False)


def test_integer_keys(tmp_path: Path) -> None:
    """In a column without TEXT's affinity integers stay integers, which no sqlitedict key is."""
    path = tmp_path / "orders.db"
    execute(path, "CREATE TABLE unnamed (key BLOB PRIMARY KEY, value BLOB)")
    convert(path, PLAIN_SQLITEDICT)
    execute(
        path,
        "DROP TABLE unnamed",
        "CREATE TABLE unnamed (key BLOB PRIMARY KEY, value BLOB)",
        "INSERT INTO unnamed VALUES (42, x'80044b012e')",
    )
    require_obstacle(path, HIERARCHICAL, "key", "row 1", "an integer", built=False)


@pytest.mark.parametrize("target", [HIERARCHICAL, MSGPACK])
@pytest.mark.parametrize("bad", ["ff", "2fc328", "eda080"])
def test_keys_that_are_not_utf8(database: Path, target: Format, bad: str) -> None:
    """TEXT whose bytes are no UTF-8 (SQLite does not mind) has no form in any encoding: row and why."""
    execute(database, f"INSERT INTO unnamed VALUES (CAST(x'{bad}' AS TEXT), x'80044b012e')")
    require_obstacle(database, target, "key", f"row {len(RECORDS) + 1}", "UTF-8")


def test_several_bad_keys_in_a_plan(marked: Path) -> None:
    """``plan`` lists every row that stands in the way, not only the first."""
    for number in range(3):
        execute(marked, f"INSERT INTO unnamed VALUES (CAST(x'ff0{number}' AS TEXT), x'80044b012e')")
    found = plan(marked, HIERARCHICAL).obstacles
    assert [obstacle.rowid for obstacle in found] == [13, 14, 15]


# --- values ---------------------------------------------------------------------------------------------


class Mine:
    """A class of an application's own."""


def cycle() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


SHARED = [1, 2]


@pytest.mark.parametrize(
    ("value", "target", "says"),
    [
        ((1, 2), MSGPACK, "tuple"),
        ({"a": [(1,)]}, MSGPACK, "tuple"),
        ((1, 2), JSON, "tuple"),
        ({1, 2}, JSON, "set"),
        ({1: "a"}, JSON, "int"),
        ({None: "a"}, JSON, "NoneType"),
        (b"bytes", JSON, "bytes"),
        (2**64, MSGPACK, "int"),
        (1 + 2j, MSGPACK, "complex"),
        ("\ud800", MSGPACK, "str"),
        (bytearray(b"x"), MSGPACK, "bytearray"),
        (cycle(), MSGPACK, "list"),
        ([SHARED, SHARED], JSON, "list"),
        ({"a": SHARED, "b": [SHARED]}, MSGPACK, "list"),
        (Mine(), JSON, "Mine"),
        (dt.date(2026, 11, 23), MSGPACK, "datetime.date"),
        (OrderedDict(a=1), JSON, "OrderedDict"),
    ],
    ids=lambda argument: None if isinstance(argument, (Format, str)) else type(argument).__name__,
)
def test_values_that_the_target_cannot_hold(
    database: Path, value: Any, target: Format, says: str
) -> None:
    """Told with table, key and type; nothing is turned into something similar."""
    write_plain(database, [("/odd/ü", value)])
    require_obstacle(database, target, "value", "'/odd/ü'", says)


@pytest.mark.parametrize(
    ("value", "says"), [("text", "str"), (None, "NoneType"), (bytearray(b"x"), "bytearray")]
)
def test_values_that_are_not_raw(tmp_path: Path, value: Any, says: str) -> None:
    """Only bytes are raw values. (The file is marked: any pickle could be raw bytes as well.)"""
    path = tmp_path / "orders.db"
    write_plain(path, [("/bytes", b"\x00\xff"), ("/odd", value)])
    convert(path, PLAIN_SQLITEDICT)
    require_obstacle(path, Format.sqlitedict(value_codec="raw"), "value", "'/odd'", says)


def test_classes_that_a_conversion_allows(database: Path) -> None:
    """A class that is allowed is decoded, and still refused where the target has no form for it."""
    write_plain(database, [("/odd", fractions.Fraction(1, 3))])
    allow: dict[str, Any] = {"pickle_allow": ["fractions.Fraction"]}
    require_obstacle(database, MSGPACK, "value", "'/odd'", "Fraction", **allow)
    require_obstacle(database, JSON, "value", "'/odd'", "fractions.Fraction")


def test_a_hostile_pickle_runs_nothing(database: Path) -> None:
    """A pickle that would call a function is refused by that function's name, and calls nothing."""
    canary = database.with_name("canary")
    literal = f"'touch {canary}'"
    hostile = b"cos\nsystem\n(S" + literal.encode() + b"\ntR."
    write_plain(database, [("/hostile", hostile)], encode=sqlite3.Binary)
    require_obstacle(database, JSON, "value", "'/hostile'", "os.system")
    assert not canary.exists()


def test_shared_references_expanded(database: Path) -> None:
    """With ``sharedReferences: expand`` a list that is there twice is written twice; a cycle never is."""
    write_plain(database, [("/shared", {"a": SHARED, "b": [SHARED]})])
    expand = Format.sqlitedict(value_codec="json", shared_references="expand")
    with unchanged(database.parent):
        assert plan(database, expand).action == "convert"
    assert convert(database, expand).outcome is Outcome.CONVERTED
    assert records_on_disk(database)[-1] == ("/shared", {"a": [1, 2], "b": [[1, 2]]})


def test_cycles_are_not_expanded(database: Path) -> None:
    """A list that contains itself has no end."""
    write_plain(database, [("/cycle", cycle())])
    expand = Format.sqlitedict(value_codec="json", shared_references="expand")
    require_obstacle(database, expand, "value", "'/cycle'", "contains itself")


def test_the_very_same_tuple_twice_is_no_shared_reference(database: Path) -> None:
    """What cannot be changed can be told apart by nobody: the same string twice is two strings."""
    word = "the same word"
    write_plain(database, [("/words", [word, word])])
    assert convert(database, JSON).outcome is Outcome.CONVERTED
    assert records_on_disk(database)[-1] == ("/words", [word, word])


@pytest.mark.parametrize(
    ("value", "says"),
    [("NULL", "NULL"), ("7", "an integer"), ("1.5", "a real"), ("'text'", "a text")],
)
def test_values_of_another_type(marked: Path, value: str, says: str) -> None:
    """NULL, numbers and text where pickles are declared: found in SQL where values would be copied."""
    execute(marked, f"INSERT INTO unnamed VALUES ('/odd', {value})")
    require_obstacle(marked, HIERARCHICAL, "value", f"row {len(RECORDS) + 1}", says, built=False)


@pytest.mark.parametrize(
    ("value", "says"), [("NULL", "NoneType"), ("7", "int"), ("x'8004'", "pickle")]
)
@pytest.mark.parametrize("target", [MSGPACK, ZSTD])
def test_values_of_another_type_where_values_are_recoded(
    marked: Path, value: str, says: str, target: Format
) -> None:
    """The same where every value goes through a worker: table, key and type."""
    execute(marked, f"INSERT INTO unnamed VALUES ('/odd', {value})")
    require_obstacle(marked, target, "value", "'/odd'", says)


@pytest.mark.parametrize("target", [MSGPACK, ZSTD])
def test_text_values_that_are_not_utf8(database: Path, target: Format) -> None:
    """TEXT that is no text among JSON values: SQLite stores it, nobody can read it; told with its key."""
    target = Format.from_spec(
        {"sqlitedict": {**target.to_spec()["sqlitedict"], "valueCodec": "msgpack"}}
    )
    execute(
        database,
        "DELETE FROM unnamed",
        "INSERT INTO unnamed VALUES ('/good', '1')",
        "INSERT INTO unnamed VALUES ('/odd', CAST(x'22ff22' AS TEXT))",
    )
    require_obstacle(database, target, "value", "'/odd'", "UTF-8", unmarked=(JSON,))


def test_a_truncated_pickle_among_good_ones(database: Path) -> None:
    """Right at both ends and broken in between: passes the first look, not the decoding."""
    broken = pickle.dumps({"a": 1})[:-6] + b"."
    write_plain(database, [("/broken", broken)], encode=sqlite3.Binary)
    require_obstacle(database, MSGPACK, "value", "'/broken'", "pickle")


def test_a_long_key_is_shortened(database: Path) -> None:
    """A key of a megabyte is not printed whole; the row's number stands in for the rest."""
    write_plain(database, [("/" + "k" * 1_000_000, (1,))])
    with pytest.raises(errors.UnconvertibleValue) as caught:
        convert(database, MSGPACK)
    assert len(str(caught.value)) < 1000
    assert f"row {len(RECORDS) + 1}" in str(caught.value)


def test_the_first_of_many_is_named_and_all_are_planned(database: Path) -> None:
    """Among several thousand rows, over several chunks, exactly the bad ones are told."""
    records: list[tuple[str, Any]] = [(f"/{number:05d}", number) for number in range(6000)]
    bad = [500, 3000, 5999]
    for number in bad:
        records[number] = (f"/{number:05d}", (number,))
    write_plain(database, records)
    offset = len(RECORDS) + 1
    assert [found.rowid for found in plan(database, MSGPACK).obstacles] == [n + offset for n in bad]
    with refused(database, errors.UnconvertibleValue, "'/00500'", "tuple", built=True):
        convert(database, MSGPACK)


def test_a_memory_bomb(database: Path) -> None:
    """A few bytes that would unpickle to gigabytes hit the workers' limit; this process stays well."""
    bomb = b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b"."
    write_plain(database, [("/bomb", bomb)], encode=sqlite3.Binary)
    require_obstacle(database, MSGPACK, "value", "'/bomb'", worker_memory=64 << 20)


@pytest.mark.parametrize("target", [HIERARCHICAL, MSGPACK])
@pytest.mark.parametrize(
    "statement", ["(CAST(x'ff' AS TEXT), x'80044b012e')", "('/odd', x'8000002e')"]
)
def test_an_error_that_is_kept_keeps_no_file_open(
    marked: Path, target: Format, statement: str
) -> None:
    """Whoever holds on to the error (and so to its traceback) can try again: the file is not in use."""
    execute(
        marked,
        f"INSERT INTO unnamed VALUES {statement}",
        "INSERT INTO unnamed VALUES ('/z', x'4e2e')",
    )
    kept: list[errors.StoreError] = []
    for _ in range(2):
        try:
            convert(marked, target)
        except errors.Refused as error:
            kept.append(error)
    assert target is HIERARCHICAL or len(kept) == 2
    opened = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert not [name for name in opened if name.startswith(str(marked.parent))]


def test_a_plan_lists_every_row_of_a_wrong_type(tmp_path: Path) -> None:
    """`plan` does not stop at the first row that cannot be converted: it lists keys and values of all of them."""
    path = tmp_path / "orders.db"
    write_plain(path, [("/good", 1), ("/tuple", (1, 2))])
    convert(
        path, Format.sqlitedict()
    )  # with a marker nobody has to guess what the rows are meant to be
    execute(path, "INSERT INTO unnamed VALUES (x'00', x'80054e2e'), (NULL, x'80054e2e')")
    planned = plan(path, Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack"))
    assert planned.action == "refuse"
    assert sorted((found.column, found.rowid) for found in planned.obstacles) == [
        ("key", 3),
        ("key", 4),
        ("value", 2),
    ]


def test_an_unmarked_file_names_the_row_that_does_not_fit(tmp_path: Path) -> None:
    """Among many rows the one that keeps a file from being adopted is named, for each declared format."""
    path = tmp_path / "orders.db"
    write_plain(path, [("/good", 1)])
    execute(path, "INSERT INTO unnamed VALUES (x'00', x'80054e2e')")
    with pytest.raises(errors.UndeclaredFormat, match="row 2: its key is a blob") as caught:
        convert(path, Format.sqlitedict(key_encoding="hierarchical"))
    assert "row 1: its key is a text" in caught.value.message
