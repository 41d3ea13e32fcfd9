"""Ranges of keys in an opened store: ``children`` and ``scan``, in both encodings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from format_store import Format, Store, errors, open_store
from tests.support.databases import execute, rows, sample, write_plain
from tests.support.refusals import HIERARCHICAL

RECORDS = sample(40)
TREE = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/a/b/d",
    "/a/c",
    "/b",
    "/b/x/y/z",
    "a",
    "b",
    "/ä",
    "/a//",
    "/a.txt",
]
ENCODINGS = pytest.mark.parametrize("keys", ["natural", "hierarchical"])


def tree_store(path: Path, keys: str, table: str = "unnamed") -> Store:
    store = open_store(path, table, ensure=Format.sqlitedict(key_encoding=keys))
    for number, key in enumerate(TREE):
        store[key] = number
    store.commit()
    return store


@ENCODINGS
@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/", "/b", "/b/x/y", "", "a", "/nowhere", "/a//", "//"]
)
def test_children(tmp_path: Path, keys: str, path: str) -> None:
    """Exactly what lies directly below a path, in both encodings, with and without its slash."""
    prefix = path if not path or path.endswith("/") else f"{path}/"
    expected = sorted(
        (
            key
            for key in TREE
            if key.startswith(prefix) and key != prefix and "/" not in key[len(prefix) :]
        ),
        key=str.encode,
    )
    with tree_store(tmp_path / "orders.db", keys) as store:
        found = list(store.children(path))
    assert [key for key, _ in found] == expected
    assert [value for _, value in found] == [TREE.index(key) for key in expected]


def in_order(keys: str) -> list[str]:
    """The keys as the encoding sorts them: by bytes, or by level and then by bytes."""
    if keys == "natural":
        return sorted(TREE, key=str.encode)
    return sorted(
        TREE,
        key=lambda key: (key.count("/") - key.endswith("//"), key.encode().replace(b"/", b"\xff")),
    )


@ENCODINGS
@pytest.mark.parametrize("start", [None, "", "/a", "/b", "/zzz", "a"])
@pytest.mark.parametrize("end", [None, "/a", "/a/b/c", "b"])
def test_scan(tmp_path: Path, keys: str, start: str | None, end: str | None) -> None:
    """``start <= key < end`` in key order; None leaves that end open."""
    every = in_order(keys)

    def rank(key: str) -> Any:
        if keys == "natural":
            return key.encode()
        return key.count("/") - key.endswith("//"), key.encode().replace(b"/", b"\xff")

    expected = [
        key
        for key in every
        if (start is None or rank(key) >= rank(start)) and (end is None or rank(key) < rank(end))
    ]
    with tree_store(tmp_path / "orders.db", keys) as store:
        assert [key for key, _ in store.scan(start, end)] == expected


def test_iteration_stays_in_insertion_order(tmp_path: Path) -> None:
    """Key order is for scans; iterating is as ever."""
    with tree_store(tmp_path / "orders.db", "hierarchical") as store:
        assert list(store) == TREE


def test_children_reads_nothing_else(tmp_path: Path) -> None:
    """In the hierarchical encoding the children are one range of the index."""
    path = tmp_path / "orders.db"
    tree_store(path, "hierarchical").close()
    (plan,) = {
        row[3]
        for row in rows(
            path,
            "EXPLAIN QUERY PLAN SELECT key, value FROM unnamed WHERE key >= x'00' AND key < x'01'",
        )
    }
    assert "USING INDEX" in plan
    with open_store(path) as store:
        seen: list[Any] = []
        real = store.decode

        def decode(value: Any) -> Any:
            seen.append(value)
            return real(value)

        store.decode = decode
        assert [key for key, _ in store.children("/a/b")] == ["/a/b/c", "/a/b/d"]
    assert len(seen) == 2


@ENCODINGS
@pytest.mark.parametrize("table", ["with space", 'with "quotes"', "größer", "select"])
def test_odd_table_names(tmp_path: Path, keys: str, table: str) -> None:
    """Tables of any name can be made, scanned and listed."""
    with tree_store(tmp_path / "orders.db", keys, table) as store:
        assert [key for key, _ in store.children("/a/b")] == ["/a/b/c", "/a/b/d"]
        assert [key for key, _ in store.scan()] == in_order(keys)


def test_ranges_in_a_utf16_database(tmp_path: Path) -> None:
    """UTF-16 sorts natural keys in another order than their bytes' in UTF-8: ranges of them are refused."""
    path = tmp_path / "orders.db"
    execute(
        path,
        "PRAGMA encoding='UTF-16le'",
        "CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)",
    )
    write_plain(path, RECORDS)
    with open_store(path) as store, pytest.raises(errors.UsageError, match="UTF-16") as caught:
        list(store.children("/srv"))
    assert caught.value.hint
    with open_store(path, ensure=HIERARCHICAL) as store:
        parent = RECORDS[0][0].rpartition("/")[0]
        assert RECORDS[0] in list(store.children(parent))
