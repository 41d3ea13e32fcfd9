"""CONTRIBUTING.md: the walk from a clone to a change can be walked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NEEDED = ("operator", "store", "tests", "devtools", "pyproject.toml")


def run_the_new_test(clone: Path, name: str) -> subprocess.CompletedProcess[str]:
    """With the clone's sources instead of ours."""
    sources = os.pathsep.join(str(clone / part) for part in ("operator", "store", "devtools"))
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            name,
            "tests/cli/test_cli.py",
        ],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": sources},
        capture_output=True,
        text=True,
        check=False,
    )


def apply(tree: Path, patch: str, *options: str) -> str:
    """What git has against it; nothing when it applies."""
    done = subprocess.run(
        ["git", "apply", *options, "-"],
        cwd=tree,
        input=patch,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


def test_the_walk_can_be_walked(tmp_path: Path) -> None:
    """Its blocks fit the code as it is; the new test fails after the first and passes after the second."""
    first, second = re.findall(r"^```diff\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (name,) = re.findall(r"^\+def test_(\w+)", first, re.MULTILINE)
    assert f"-k {name}" in PAGE
    for part in NEEDED:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, tmp_path / part)
    if apply(tmp_path, second, "--reverse", "--check") == "":
        # Somebody is walking it right now.
        assert apply(tmp_path, second, "--reverse") == ""
        assert apply(tmp_path, first, "--reverse") == ""
    for patch, passes in ((first, False), (second, True)):
        assert apply(tmp_path, patch) == ""
        seen = run_the_new_test(tmp_path, name)
        assert (seen.returncode == 0) is passes, seen.stdout
        assert ("1 passed" if passes else "KeyError: 'freeBytes'") in seen.stdout


def test_every_target_that_it_names_exists() -> None:
    """`make X` in a block or in the prose is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^\$ |^    |`)make ([a-z-]+)", PAGE, re.MULTILINE))
    assert len(named) > 5
    assert named <= targets
