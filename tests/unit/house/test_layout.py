"""The shape of the source tree, where a slip would show up far away from its cause."""

from __future__ import annotations

import ast
import operator
import tomllib
from pathlib import Path

import pytest

import format_operator

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*ROOT.glob("operator/**/*.py"), *ROOT.glob("store/**/*.py")])


@pytest.mark.parametrize("root", ["operator", "store"])
def test_source_roots_are_not_packages(root: str) -> None:
    """An __init__.py in operator/ would be imported instead of the standard library's operator."""
    assert not (ROOT / root / "__init__.py").exists()
    assert not list((ROOT / root).glob("*.py"))


def test_operator_is_the_standard_librarys() -> None:
    """From the repository's root, `import operator` is still what everybody expects."""
    assert operator.itemgetter(0)("a") == "a"
    assert not Path(operator.__file__).is_relative_to(ROOT / "operator")


def test_no_test_folder_is_called_operator() -> None:
    """Nor may a folder of tests take that name."""
    assert not [path for path in (ROOT / "tests").rglob("operator") if path.is_dir()]


def test_packages_say_what_belongs_in_them() -> None:
    """Every package has a docstring: its contract."""
    packages = [path for path in SOURCES if path.name == "__init__.py"]
    assert packages
    silent = [path for path in packages if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_one_version() -> None:
    """The distribution and the operator's package name the same version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == format_operator.__version__
