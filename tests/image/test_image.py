"""The image: small, for any user, with a read-only root, optimised, and with nothing left to compile."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.conftest import Image

_ROOT = Path(__file__).parents[2]
#: Fourteen of them are cryptography, which has an OpenSSL of its own.
_LIMIT_MIB = 160
#: Says of every module that the program has loaded where its bytecode came from.
_LOADED = """
import importlib, json, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
found = {}
for name, module in list(sys.modules.items()):
    spec = getattr(module, "__spec__", None)
    if spec is not None and (spec.origin or "").endswith(".py"):
        found[name] = spec.cached if os.path.exists(spec.cached or "") else None
print(json.dumps({"modules": found, "debug": __debug__}))
"""
_STORAGE_FORMAT = """
apiVersion: storageformat.dev/v1alpha1
kind: StorageFormat
metadata: {name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  database: {path: /data/orders.db}
  formats:
  - {name: v1, sqlitedict: {keyEncoding: natural, valueCodec: pickle}}
  - {name: v2, sqlitedict: {keyEncoding: hierarchical, valueCodec: msgpack, compression: zstd}}
  target: v2
  unmarked: [v1]
"""
#: Which of our modules' bytecode loads the method that every failpoint is passed to.
_FAILPOINTS = """
import dis, json, marshal, pathlib, sys, types

def calls(code):
    for instruction in dis.get_instructions(code):
        if instruction.argval == "hit" and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            return True
    return any(calls(one) for one in code.co_consts if isinstance(one, types.CodeType))

files = [
    file
    for package in ("format_store", "format_operator")
    for file in pathlib.Path(sys.pycache_prefix).glob(f"**/site-packages/{package}/**/*.pyc")
]
callers = [str(file) for file in files if calls(marshal.loads(file.read_bytes()[16:]))]
print(json.dumps({"files": len(files), "callers": callers}))
"""


def _python(image: Image) -> str:
    return f"{image.environment['PATH'].split(':', maxsplit=1)[0]}/python"


def test_it_says_what_it_is(image: Image) -> None:
    """Labels name it, its licence and its version; the user is a number, and not root's."""
    config = image.config["config"]
    prefix = "org.opencontainers.image."
    labels = config["Labels"]
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert labels[f"{prefix}title"] == "storageformat-operator"
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    assert labels[f"{prefix}version"] == version
    assert {f"{prefix}{one}" for one in ("description", "revision", "source")} <= labels.keys()
    assert config["Entrypoint"] == ["storageformat"]
    assert config.get("Cmd") is None
    assert int(config["User"].split(":")[0]) > 0


def test_its_layers_are_small(image: Image, record_property: Callable[[str, object], None]) -> None:
    """What it adds to its base is bounded; the layer that changes with each release is tiny."""
    _, dependencies, *ours = [size / 2**20 for size in image.layer_sizes()]
    print(f"over the base: dependencies {dependencies:.1f} MiB, ours {sum(ours):.1f} MiB")
    record_property("image_dependencies_mib", round(dependencies, 1))
    record_property("image_ours_mib", round(sum(ours), 1))
    assert dependencies + sum(ours) < _LIMIT_MIB
    assert sum(ours) < 4


@pytest.mark.parametrize("uid", [65532, 54321, 0])
def test_it_runs_as_any_user(image: Image, uid: int) -> None:
    """The program starts under whatever user it is given, without home, rights or a place to write."""
    done = image.run("--help", uid=uid)
    assert (done.returncode, done.stderr) == (0, "")
    assert "inspect" in done.stdout
    for command in ("gate", "sidecar"):
        assert image.run(command, "--help", uid=uid).returncode == 0


def test_it_works_on_a_database(image: Image, tmp_path: Path) -> None:
    """A database on a volume is converted by the user that owns it, with the root read-only."""
    uid = 54321
    data = tmp_path / "data"
    data.mkdir()
    (data / "format.yaml").write_text(_STORAGE_FORMAT)
    os.chown(data, uid, uid)
    fill = (
        "from sqlitedict import SqliteDict\n"
        "with SqliteDict('/data/orders.db', autocommit=True) as db: db.update(a=1, b=[2])\n"
    )
    volume = {data: "/data"}
    python = [_python(image)]
    assert image.run("-c", fill, uid=uid, entrypoint=python, mounts=volume).returncode == 0
    to = ("--to", "/data/format.yaml")
    done = image.run("convert", "/data/orders.db", *to, uid=uid, mounts=volume)
    assert done.returncode == 0, done.stderr
    done = image.run("inspect", "/data/orders.db", "-o", "json", uid=uid, mounts=volume)
    assert done.returncode == 0, done.stderr
    assert "msgpack" in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "format_operator.cli",
        "format_operator.gate",
        "format_operator.admission.app",
        "format_operator.sidecar.app",
        "kubernetes.aio",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "opentelemetry.sdk.trace.export.in_memory_span_exporter",
    ],
)
def test_nothing_is_left_to_compile(image: Image, module: str) -> None:
    """Every module of every role, the standard library's too, has its optimised bytecode."""
    done = image.run("-c", _LOADED, module, entrypoint=[_python(image)])
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["debug"] is False
    assert len(loaded["modules"]) > 20
    missing = [name for name, cached in loaded["modules"].items() if cached is None]
    assert missing == []
    assert all(cached.endswith(".opt-1.pyc") for cached in loaded["modules"].values())


def test_failpoints_are_compiled_away(image: Image) -> None:
    """No bytecode of ours in the image calls a failpoint, so that nothing can fail on purpose."""
    done = image.run("-c", _FAILPOINTS, entrypoint=[_python(image)])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["files"] > 50
    assert found["callers"] == []
