"""The example of a plug-in, installed beside our wheel in an environment of its own."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from tests.install.conftest import ROOT, Environment

PLUGIN = ROOT / "examples" / "plugin"

#: What ``dbm.sqlite3`` of Python 3.13 executes for a shelf.
CREATE = "CREATE TABLE IF NOT EXISTS Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)"
STORE = "REPLACE INTO Dict (key, value) VALUES (CAST(? AS BLOB), CAST(? AS BLOB))"

CONVERT = """
from format_store import Format, convert
target = Format.from_spec({"shelve": {"valueCodec": "tagged-json"}})
plain = Format.from_spec({"shelve": {}})
result = convert("shelf.db", target, unmarked=[plain], pickle_allow=["datetime.date"])
print(result.outcome, result.rows, result.target)
"""


@pytest.fixture(scope="module")
def plugin(install: Callable[..., Environment]) -> Environment:
    return install("shelve-formats[test]", "storageformat-operator[testing]")


def test_its_own_tests_pass(plugin: Environment, tmp_path: Path) -> None:
    """Its tests, which run the conformance suite over the installed codec and engine."""
    shutil.copytree(
        PLUGIN / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(PLUGIN / "pyproject.toml", tmp_path)
    done = plugin.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_a_shelf_is_converted(plugin: Environment, tmp_path: Path) -> None:
    """Pickles with dates become JSON that SQLite itself can read; the command line knows the format."""
    path = tmp_path / "shelf.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(CREATE)
        connection.execute(STORE, (b"due", pickle.dumps(date(2026, 11, 25), 4)))
        connection.execute(STORE, (b"size", pickle.dumps((3, 4), 4)))
    done = plugin.run("python", "-W", "error", "-c", CONVERT, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "converted 2 shelve(tagged-json)\n"
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT key, CAST(value AS TEXT) ->> '$[1]' FROM Dict ORDER BY rowid"
        ).fetchall()
    assert rows == [(b"due", '{"$date":"2026-11-25"}'), (b"size", '{"$tuple":[3,4]}')]
    verified = plugin.run("storageformat", "verify", "shelf.db", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    shown = plugin.run("storageformat", "inspect", "shelf.db", "-o", "json", cwd=tmp_path)
    assert json.loads(shown.stdout)["format"] == {
        "shelve": {"valueCodec": "tagged-json", "compression": "none"}
    }


def test_without_the_plugin_the_marker_is_refused(
    plugin: Environment, install: Callable[..., Environment], tmp_path: Path
) -> None:
    """A tool that does not know the engine touches nothing, and says that a plug-in may be missing."""
    path = tmp_path / "shelf.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(CREATE)
        connection.execute(STORE, (b"size", pickle.dumps(3, 4)))
    assert plugin.run("python", "-c", CONVERT, cwd=tmp_path).returncode == 0
    before = path.read_bytes()
    bare = install("storageformat-operator")
    done = bare.run("storageformat", "verify", "shelf.db", cwd=tmp_path)
    assert done.returncode == 3
    assert "shelve" in done.stderr
    assert "plug-in" in done.stderr
    assert path.read_bytes() == before
