"""The sqlite engine's formats: what may be said, what is refused, how scripts and folders are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_store import Format, errors
from format_store.engines.sqlite import migrations
from format_store.engines.sqlite.migrations import MAX_CHARACTERS, is_blank, statements

SQL = {"number": 1, "sql": "CREATE TABLE t (a)"}


@pytest.mark.parametrize(
    "spec",
    [
        {"sqlite": {}},
        {"sqlite": None, "sqlitedict": None},
        {"sqlite": {"pageSize": 512, "autoVacuum": "none", "journalMode": "delete"}},
        {
            "sqlite": {
                "migrations": [SQL | {"name": "t", "down": "DROP TABLE t", "checks": ["SELECT 1"]}]
            }
        },
        {
            "sqlite": {"pageSize": 8192},
            "sqlitedict": {"tables": ["a"], "valueCodec": "json"},
            "name": "v1",
        },
    ],
    ids=str,
)
def test_a_format_is_its_own_specs(spec: dict[str, Any]) -> None:
    """What is written can be read again, and means the same."""
    found = Format.from_spec(spec)
    assert Format.from_spec(found.to_spec()) == found
    assert found.same_bytes_as(Format.from_spec(found.to_spec()))
    assert str(found).startswith("sqlite(")


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"pageSize": 1000}, "pageSize is one of 512"),
        ({"pageSize": True}, "pageSize"),
        ({"pageSize": 131072}, "pageSize"),
        ({"pageSize": "4096"}, "pageSize"),
        ({"autoVacuum": "on"}, "autoVacuum is one of none, full, incremental"),
        ({"journalMode": "memory"}, "journalMode is one of wal, delete"),
        ({"cacheSize": 1}, "no parameter 'cacheSize'"),
        ({"sqlitedict": {}}, "stands beside sqlite"),
        ({"migrations": {}}, "migrations is a list"),
        ({"migrations": ["SELECT 1"]}, r"migrations\[0\] is a mapping"),
        ({"migrations": [{"sql": "SELECT 1"}]}, r"migrations\[0\].number"),
        ({"migrations": [SQL | {"number": 0}]}, "from 1 on"),
        ({"migrations": [SQL | {"number": True}]}, "from 1 on"),
        ({"migrations": [SQL | {"number": 2**53}]}, "up to 9007199254740991"),
        ({"migrations": [SQL, SQL]}, "stands after 1"),
        ({"migrations": [SQL | {"number": 2}, SQL]}, "1 stands after 2"),
        ({"migrations": [SQL | {"sql": " \n"}]}, "sql is empty"),
        ({"migrations": [SQL | {"sql": "SELECT '\0'"}]}, "NUL"),
        ({"migrations": [SQL | {"sql": "SELECT '\udc80'"}]}, "no Unicode"),
        ({"migrations": [SQL | {"down": 5}]}, r"down is SQL"),
        ({"migrations": [SQL | {"up": "SELECT 1"}]}, "no field 'up'"),
        ({"migrations": [SQL | {"checks": "SELECT 1"}]}, "list of queries"),
        ({"migrations": [SQL | {"checks": ["SELECT 1; SELECT 2"]}]}, "one query, and no more"),
        ({"migrations": [SQL | {"checks": ["-- nothing"]}]}, "one query, and no more"),
        ({"migrations": [SQL | {"sql": "x" * (MAX_CHARACTERS + 1)}]}, "characters together"),
        ({"migrations": [SQL], "migrationsFrom": {"folder": "/m"}}, "not in both"),
        ({"migrationsFrom": "/m"}, "mapping with folder"),
        ({"migrationsFrom": {"folder": "m"}}, "absolute path"),
        ({"migrationsFrom": {"folder": "/nowhere/at/all"}}, "/nowhere/at/all cannot be read"),
        ({"migrationsFrom": {"folder": "/", "upTo": "3"}}, "upTo"),
    ],
    ids=str,
)
def test_what_a_format_may_not_say(parameters: dict[str, Any], says: str) -> None:
    """Told by name, before anything is looked at."""
    with pytest.raises(errors.InvalidFormat, match=says) as caught:
        Format.from_spec({"sqlite": parameters})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"first.sql": "SELECT 1"}, "'first.sql' in .* is no migration's name"),
        ({"1_a.sql": "SELECT 1", "01_b.sql": "SELECT 1"}, "two files of migration 1"),
        ({"1_a.sql": "SELECT 1", "1_b.down.sql": "SELECT 1"}, "two files of migration 1"),
        ({"1_a.sql": "SELECT 1", "1_a.up.sql": "SELECT 1"}, "two files of migration 1"),
        ({"1_a.down.sql": "SELECT 1"}, "has no SQL but down"),
        ({"1_a.sql": "  "}, "sql is empty"),
        ({"1_a.sql": b"\xff"}, "is not UTF-8"),
        ({"1_a.sql": b"-" * (MAX_CHARACTERS + 1)}, "is larger than"),
        ({"3_a.sql": "SELECT 1"}, "upTo is 2"),
    ],
    ids=str,
)
def test_folders_that_are_refused(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    """Two files of one number, names that are none, and texts that cannot be read."""
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(errors.InvalidFormat, match=says):
        migrations.from_folder({"folder": str(tmp_path)} | ({"upTo": 2} if "upTo" in says else {}))


def test_a_folder_is_read_up_to_a_number(tmp_path: Path) -> None:
    """One folder serves every release: each format says how far it goes."""
    for number in (1, 2, 10):
        (tmp_path / f"{number:03d}.sql").write_text(f"SELECT {number};\n")
    for up_to, expected in ((0, []), (2, [1, 2]), (10, [1, 2, 10]), (None, [1, 2, 10])):
        found = migrations.from_folder({"folder": str(tmp_path), "upTo": up_to})
        assert [one.number for one in found] == expected
    assert found[0].sql == "SELECT 1;"


SCRIPTS = {
    "": [],
    " ;; -- no\n/* ; */;": [],
    "SELECT 1": ["SELECT 1"],
    "SELECT ';'; SELECT 2 -- ; \n": ["SELECT ';';", "SELECT 2 --"],
    "-- first; really\nSELECT 1;\n/* second; */ SELECT 2;": [
        "-- first; really\nSELECT 1;",
        "/* second; */ SELECT 2;",
    ],
    "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT 2; END; SELECT 3": [
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; SELECT 2; END;",
        "SELECT 3",
    ],
    'SELECT "a;b", [c;d], `e;f`; SELECT 2': ['SELECT "a;b", [c;d], `e;f`;', "SELECT 2"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_statements_of_a_script(script: str) -> None:
    """A semicolon in a string, a name, a comment or a trigger ends nothing; no statement is lost."""
    found = list(statements(script))
    if script.endswith("; \n"):
        assert [one.split(" --")[0] for one in found] == ["SELECT ';';", "SELECT 2"]
    else:
        assert found == SCRIPTS[script]


@given(
    st.lists(
        st.sampled_from([
            "SELECT 1;", "-- c;\n", "/* ; */", " ", "INSERT INTO t VALUES (';');", "\n", 'SELECT "x;";',
            "CREATE TRIGGER r AFTER DELETE ON t BEGIN DELETE FROM t; END;", ";",
        ])
    )
)  # fmt: skip
def test_no_statement_is_lost(parts: list[str]) -> None:
    """Whatever comments and white space stand between them, every statement is there once, in its order."""
    wanted = [part for part in parts if not is_blank(part) and part != ";"]
    found = list(statements("".join(parts)))
    assert len(found) == len(wanted)
    for one, statement in zip(wanted, found, strict=True):
        assert statement.endswith(one)
