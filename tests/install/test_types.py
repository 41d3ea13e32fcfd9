"""Type hints as an application's author sees them: from the installed wheel, under ``mypy --strict``."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import format_store
from tests.install.conftest import Environment

SAMPLE = Path(__file__).with_name("sample_app.py")

MISTAKES = {
    "a key that is no string": ("store[1]", "Invalid index type"),
    "a format that is a word": ("convert('orders.db', 'v2')", "incompatible type"),
    "an option that does not exist": (
        "open_store('orders.db', retain_for=3)",
        "Unexpected keyword",
    ),
    "an option of the wrong type": ("open_store('orders.db', retention=3)", "incompatible type"),
    "a result's attribute that does not exist": (
        "convert('orders.db', V2).row",
        'no attribute "row"',
    ),
    "an iterator's length": ("len(store.items())", "incompatible type"),
}


@pytest.fixture(scope="module")
def base(install: Callable[..., Environment]) -> Environment:
    return install("storageformat-operator")


def mypy(base: Environment, path: Path) -> subprocess.CompletedProcess[str]:
    """This environment's mypy, which looks into the other environment's packages only."""
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental",
         "--python-executable", str(base.bin / "python"), path.name],
        cwd=path.parent,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def test_the_sample_uses_every_public_name() -> None:
    """What is exported and not used there would be untyped for all we know."""
    names = {
        node.id for node in ast.walk(ast.parse(SAMPLE.read_text())) if isinstance(node, ast.Name)
    }
    assert set(format_store.__all__) - names == set()


def test_an_application_passes_the_strict_check(base: Environment, tmp_path: Path) -> None:
    """An application that uses every public name has no errors, and its asserted types are so."""
    shutil.copy(SAMPLE, tmp_path)
    done = mypy(base, tmp_path / SAMPLE.name)
    assert done.returncode == 0, done.stdout


def test_mistakes_are_seen(base: Environment, tmp_path: Path) -> None:
    """The hints are no wall of Any: each mistake is an error."""
    lines = ["from format_store import Format, convert, open_store", "V2 = Format.sqlitedict()",
             "store = open_store('orders.db')", *(code for code, _ in MISTAKES.values())]  # fmt: skip
    program = tmp_path / "mistakes.py"
    program.write_text("\n".join(lines) + "\n")
    said = mypy(base, program).stdout
    for number, (what, (_, words)) in enumerate(MISTAKES.items(), 4):
        assert any(
            line.startswith(f"mistakes.py:{number}: error:") and words in line
            for line in said.splitlines()
        ), (what, said)


def test_the_sample_runs(base: Environment, tmp_path: Path) -> None:
    """It is an application, not only types."""
    shutil.copy(SAMPLE, tmp_path)
    done = base.run("python", "-W", "error", SAMPLE.name, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines()[:4] == [
        "/eu/berlin/1 {'amount': 12}",
        "/eu/berlin/2 {'amount': 7}",
        "convert []",
        "True 1 True",
    ]
