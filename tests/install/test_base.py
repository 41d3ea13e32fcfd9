"""What `pip install storageformat-operator` gives: the store and its command line, nothing of Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.install.conftest import Environment
from tests.support.databases import records_on_disk, sample, write_plain

OPERATOR_ONLY = ("kopf", "kubernetes", "aiohttp", "prometheus-client")


@pytest.fixture(scope="module")
def base(install: Callable[..., Environment]) -> Environment:
    return install("storageformat-operator")


def python(base: Environment, program: str, cwd: Path) -> str:
    done = base.run("python", "-W", "error", "-c", program, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_it_brings_nothing_of_kubernetes(base: Environment, tmp_path: Path) -> None:
    """Neither kopf nor kubernetes nor aiohttp nor prometheus-client; nor pytest and hypothesis."""
    program = "import importlib.metadata as m, json; print(json.dumps([d.name.lower() for d in m.distributions()]))"
    found = json.loads(python(base, program, tmp_path))
    assert "storageformat-operator" in found
    assert set(found) & {*OPERATOR_ONLY, "pytest", "hypothesis"} == set()
    assert {"msgpack", "sqlitedict", "pyyaml"} <= set(found)


def test_every_module_of_the_store_can_be_imported(base: Environment, tmp_path: Path) -> None:
    """The suite apart, which names its extra."""
    program = (
        "import pkgutil, importlib, format_store\n"
        "for found in pkgutil.walk_packages(format_store.__path__, 'format_store.'):\n"
        "    if not found.name.startswith('format_store.testing'):\n"
        "        importlib.import_module(found.name)\n"
        "try:\n    import format_store.testing\n"
        "except ImportError as error:\n    print(error)\n"
    )
    said = python(base, program, tmp_path)
    assert "storageformat-operator[testing]" in said


def test_a_database_is_converted(base: Environment, tmp_path: Path) -> None:
    """By the installed command, from the file that `kubectl apply` takes."""
    path = tmp_path / "orders.db"
    records = sample(50)
    write_plain(path, records)
    (tmp_path / "orders.yaml").write_text(
        "apiVersion: storageformat.dev/v1alpha1\nkind: StorageFormat\nmetadata: {name: orders}\n"
        "spec:\n  selector: {matchLabels: {app: orders}}\n  database: {path: /data/orders.db}\n"
        "  formats:\n  - {name: v1, sqlitedict: {keyEncoding: natural, valueCodec: pickle}}\n"
        "  - {name: v2, sqlitedict: {keyEncoding: hierarchical, valueCodec: msgpack, compression: zstd}}\n"
        "  target: v2\n  unmarked: [v1]\n"
    )
    for arguments in (
        ["plan", "--to", "orders.yaml"],
        ["convert", "--to", "orders.yaml"],
        ["verify"],
    ):
        command, *options = arguments
        done = base.run("storageformat", command, "orders.db", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert records_on_disk(path) == records


@pytest.mark.parametrize("command", ["sidecar", "sidecar-worker", "controller", "webhook"])
def test_the_operators_processes_name_their_extra(
    base: Environment, command: str, tmp_path: Path
) -> None:
    """They end at once, with one line that says what to install, and exit code 2."""
    done = base.run("storageformat", command, "--database", "orders=/data/orders.db", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"storageformat {command}: needs ")
    assert done.stderr.endswith("pip install 'storageformat-operator[operator]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["gate", "render"])
def test_what_needs_no_extra_works_without(base: Environment, command: str, tmp_path: Path) -> None:
    """The gate and the snippet's printer are the standard library's and the base install's."""
    done = base.run("storageformat", command, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: storageformat")


def test_the_types_are_shipped(base: Environment, tmp_path: Path) -> None:
    """Both packages have their py.typed, so that type checkers look into them."""
    program = (
        "import format_operator, format_store, pathlib\n"
        "print([(pathlib.Path(p.__file__).parent / 'py.typed').exists() for p in (format_store, format_operator)])"
    )
    assert python(base, program, tmp_path) == "[True, True]\n"
