"""Fresh environments with the wheel of this checkout, as users have them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.requirements import unavailable

ROOT = Path(__file__).parents[2]
_UV = str(ROOT / "devtools" / "uv")


class Environment:
    """A virtual environment; ``run`` sees nothing of this checkout."""

    def __init__(self, path: Path) -> None:
        self.bin = path / "bin"

    def run(self, program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=cwd,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


def uv(*arguments: str) -> None:
    done = subprocess.run([_UV, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "dns error" in done.stderr or "Failed to fetch" in done.stderr:
        unavailable(
            f"needs packages that are not in uv's cache; to enable: a network\n{done.stderr[-500:]}"
        )
    pytest.fail(done.stderr)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel and the example plug-in's, built from copies: a build leaves nothing in the checkout."""
    directory = tmp_path_factory.mktemp("wheels")
    sources = tmp_path_factory.mktemp("sources")
    ours = sources / "ours"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("operator", "store", "examples"):
        shutil.copytree(ROOT / name, ours / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, ours / name)
    for source in (ours, ours / "examples" / "plugin"):
        uv("build", "--quiet", "--wheel", "--out-dir", str(directory), str(source))
    return directory


@pytest.fixture(scope="session")
def install(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Makes an environment with these requirements; our wheels are found by name."""

    def made(*requirements: str) -> Environment:
        path = tmp_path_factory.mktemp("environment") / "venv"
        uv("venv", "--quiet", "--no-project", "--python", sys.executable, str(path))
        python = str(path / "bin" / "python")
        uv(
            "pip", "install", "--quiet", "--python", python, "--find-links", str(wheels),
            "--reinstall-package", "storageformat-operator", *requirements,
        )  # fmt: skip
        return Environment(path)

    return made
