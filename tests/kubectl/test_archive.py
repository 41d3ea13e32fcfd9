"""The plugin as one archive, for krew and for whoever copies a file."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import pluginarchive
from format_operator import __version__

URI: Final = "https://example.com/v1/{file}"
#: Python with what is in it alone: no site-packages, no environment.
BARE: Final = (sys.executable, "-I", "-S")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pluginarchive.write(folder, URI)
    return folder


@pytest.fixture
def program(made: Path, tmp_path: Path) -> Path:
    """The program, as krew unpacks it."""
    with tarfile.open(next(made.glob("*.tar.gz"))) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "kubectl-storageformat"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_with_nothing_installed(program: Path) -> None:
    """Python alone is enough: the archive has all that is needed, PyYAML included, and nothing compiled."""
    assert run(*BARE, str(program), "--version").stdout == f"kubectl-storageformat {__version__}\n"
    words = ("status", "--server=https://127.0.0.1:1", "-n", "x")
    said = run(*BARE, str(program), *words, "--token=x")
    assert (said.returncode, said.stdout) == (1, "")
    assert "the API server does not answer" in said.stderr
    assert "kubectl has no credentials" in run(*BARE, str(program), *words).stderr
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from format_operator.kubectl.output import document; document({'a': 'ü'}, 'yaml')"
    )
    assert run(*BARE, "-c", code, str(program), PYTHONUTF8="1").stdout == "a: ü\n"
    with zipfile.ZipFile(program) as content:
        assert all(name.endswith((".py", "/LICENSE")) for name in content.namelist())


def test_it_is_executable_and_completes_under_its_second_name(
    program: Path, tmp_path: Path
) -> None:
    """The file runs as it is; linked under kubectl's name for completions it prints these."""
    assert os.access(program, os.X_OK)
    assert program.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    second = tmp_path / "kubectl_complete-storageformat"
    second.symlink_to(program)
    assert run(*BARE, str(second), "pau").stdout == (
        "pause\tpermit and restart nothing until it is resumed\n:4\n"
    )


def test_an_old_python_is_told(program: Path) -> None:
    """Another Python than it takes says so in a line, before anything that it could not read."""
    code = (
        "import runpy, sys\n"
        "sys.version_info = (3, 9, 2)\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    said = run(*BARE, "-c", code, str(program))
    assert (
        said.stderr
        == "error: kubectl-storageformat needs Python 3.11 or later, and python3 is 3.9\n"
    )
    assert said.returncode == 1


def test_the_same_sources_make_the_same_bytes(made: Path) -> None:
    """Built again, whenever: the checksum of the manifest is that of the archive."""
    (packed,) = made.glob("*.tar.gz")
    assert pluginarchive.archive() == packed.read_bytes()
    body = yaml.safe_load((made / "storageformat.yaml").read_text())
    (platform,) = body["spec"]["platforms"]
    assert platform["sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert platform["uri"] == f"https://example.com/v1/{packed.name}"


def test_the_manifest_keeps_krews_rules(made: Path) -> None:
    """What krew checks before it installs (its internal/index/validation), and what its index asks for."""
    body: dict[str, Any] = yaml.safe_load((made / "storageformat.yaml").read_text())
    assert body["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert (body["kind"], body["metadata"]) == ("Plugin", {"name": "storageformat"})
    spec = body["spec"]
    assert set(spec) == {"version", "shortDescription", "description", "caveats", "platforms"}
    assert re.fullmatch(r"v\d+\.\d+\.\d+", spec["version"])
    assert "\n" not in spec["shortDescription"]
    assert len(spec["shortDescription"]) <= 80
    with tarfile.open(next(made.glob("*.tar.gz"))) as packed:
        names = set(packed.getnames())
    for platform in spec["platforms"]:
        assert set(platform) == {"selector", "uri", "sha256", "files", "bin"}
        assert re.fullmatch(r"[a-f0-9]{64}", platform["sha256"])
        (expression,) = platform["selector"]["matchExpressions"]
        assert (expression["key"], expression["operator"]) == ("os", "In")
        assert {one["from"] for one in platform["files"]} == names
        assert platform["bin"] in names


def test_what_is_in_it_is_what_the_plugin_imports() -> None:
    """Started from the packages, no command imports a module that the archive lacks."""
    code = (
        "import importlib, pkgutil, sys\n"
        "import format_operator.kubectl as plugin\n"
        "for one in pkgutil.iter_modules(plugin.__path__):\n"
        "    importlib.import_module(f'{plugin.__name__}.{one.name}')\n"
        "print(*sorted(name for name in sys.modules if name.startswith('format_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept = ("format_operator.api", "format_operator.kubectl")
    others = [one for one in done.stdout.split() if not one.startswith(kept)]
    assert others == ["format_operator"]


def test_a_command_imports_little() -> None:
    """Somebody waits for it: help and completion import no command, and nothing imports YAML before it is asked for."""
    code = (
        "import sys\n"
        "from format_operator.kubectl import app\n"
        "app.parser().parse_args(['status'])\n"
        "print(*sorted(name for name in sys.modules if name.startswith(('format_operator.', 'yaml'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "format_operator.kubectl",
        "format_operator.kubectl.app",
        "format_operator.kubectl.problems",
    ]
