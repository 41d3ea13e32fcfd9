"""``--to FILE``: the YAML that ``kubectl apply`` takes, and what is said of one that makes no sense."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from format_operator.api.names import API_VERSION
from tests.support.databases import format_on_disk, records_on_disk, sample, write_plain
from tests.support.objects import ABSENT, INVALID, Invalid, migrations, storageformat
from tests.support.trees import unchanged

RECORDS = sample(20)
OBJECT = f"apiVersion: {API_VERSION}\nkind: StorageFormat".encode()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "volume" / "orders.db"
    path.parent.mkdir()
    write_plain(path, RECORDS)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "format.yaml"


def run(
    database: Path, file: Path, *options: str, operation: str = "convert"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "format_operator", operation, str(database)),
            *("--to", str(file), "-o", "json", *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def write(file: Path, *documents: Any) -> Path:
    file.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return file


def require_usage(database: Path, file: Path, *says: str, options: tuple[str, ...] = ()) -> None:
    """Exit code 2, the file and the mistake named, a hint, and the database not even looked at."""
    with unchanged(database.parent):
        done = run(database, file, *options)
    assert done.returncode == 2, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["exitCode"] == 2
    assert error["hint"]
    assert str(file) in error["message"]
    assert "Traceback" not in done.stderr
    for words in says:
        assert words in error["message"]


def test_the_very_same_yaml(database: Path, file: Path) -> None:
    """An object as the cluster has it, status and server's metadata included, is taken as it is."""
    body = storageformat()
    body["metadata"] |= {
        "namespace": "shop",
        "uid": "f0",
        "resourceVersion": "7",
        "labels": {"a": "b"},
    }
    assert run(database, write(file, body)).returncode == 0
    assert format_on_disk(database)["valueCodec"] == "msgpack"
    assert records_on_disk(database) == RECORDS


def test_another_format_than_the_target(database: Path, file: Path) -> None:
    """``--format`` names another of the declared formats: the way back, for one."""
    write(file, storageformat())
    assert run(database, file).returncode == 0
    assert run(database, file, "--format", "v1").returncode == 0
    assert format_on_disk(database) == {"keyEncoding": "natural", "valueCodec": "pickle"}
    require_usage(database, file, "'v9'", "v1", "v2", options=("--format", "v9"))


def test_migrations(database: Path, file: Path) -> None:
    """A file that sqlitedict never saw gets the target's migrations, and loses them on the way back."""
    database.unlink()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    part = {"migrations": migrations(1, down="DROP TABLE t1")}
    formats = [{"name": "v1", "sqlite": {}}, {"name": "v2", "sqlite": part}]
    write(file, storageformat(spec__formats=formats, spec__unmarked=ABSENT))

    def tables() -> list[str]:
        with closing(sqlite3.connect(database)) as connection:
            query = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
            return [name for (name,) in connection.execute(query)]

    done = run(database, file, operation="plan")
    assert (done.returncode, json.loads(done.stdout)["action"]) == (0, "convert")
    assert run(database, file).returncode == 0
    assert tables() == ["orders", "t1"]
    assert run(database, file, "--format", "v1").returncode == 0
    assert tables() == ["orders"]


def test_what_is_implied_goes_by_the_format_asked_for(database: Path, file: Path) -> None:
    """``--format`` names one with rows of sqlitedict's beside a target without: plain sqlitedict is implied."""
    rows = {"name": "v1", "sqlitedict": {"valueCodec": "msgpack"}}
    formats = [rows, {"name": "v2", "sqlite": {"pageSize": 8192}}]
    write(file, storageformat(spec__formats=formats, spec__unmarked=ABSENT))
    assert run(database, file, "--format", "v1").returncode == 0
    assert format_on_disk(database)["valueCodec"] == "msgpack"
    assert records_on_disk(database) == RECORDS


def test_several_documents(database: Path, file: Path) -> None:
    """Beside the one StorageFormat a file may hold whatever else belongs to the application."""
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    write(file, other, storageformat(), None)
    assert run(database, file, operation="plan").returncode == 0
    write(file, storageformat("one"), other, storageformat("two"))
    require_usage(database, file, "2 objects of kind StorageFormat")
    write(file, other)
    require_usage(database, file, "0 objects of kind StorageFormat")


def test_what_it_says_of_unmarked_files_counts(database: Path, file: Path) -> None:
    """``unmarked`` is the file's word for what is there; a wrong one is refused, not guessed past."""
    write(file, storageformat(spec__unmarked=["v2"]))
    done = run(database, file)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["reason"] == "UndeclaredFormat"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 objects"),
        (b"kind: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- kind: StorageFormat", "0 objects"),
        (OBJECT, "spec"),
        (OBJECT + b"\nspec: 7", "spec"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
        (b"a: &a [*a]", "0 objects"),
    ],
)
def test_no_such_thing(database: Path, file: Path, content: bytes, says: str) -> None:
    """Files that are empty, no YAML, or YAML of something else."""
    file.write_bytes(content)
    require_usage(database, file, says)


def test_no_such_file(database: Path, file: Path) -> None:
    """A file that is not there, or is a directory, is told as such."""
    require_usage(database, file, "No such file")
    file.mkdir()
    require_usage(database, file, "directory")


SAMPLES = [
    "target-unknown",
    "formats-empty",
    "format-without-engine",
    "keyEncoding-sorted",
    "selector-empty",
]


@pytest.mark.parametrize(
    "invalid", [found for found in INVALID if found.id in SAMPLES], ids=lambda each: each.id
)
def test_invalid_objects(database: Path, file: Path, invalid: Invalid) -> None:
    """What the API server would refuse is refused here too, with the field and the same words."""
    write(file, invalid.body)
    require_usage(database, file, invalid.field, invalid.python_says or invalid.says)


def test_the_samples_are_there() -> None:
    """The invalid objects that are tried above exist."""
    assert {found.id for found in INVALID} >= set(SAMPLES)


def test_unknown_fields(database: Path, file: Path) -> None:
    """A field that does not exist is a typing mistake, not an extension."""
    write(file, storageformat(spec__databse={"path": "/x"}))
    require_usage(database, file, "databse")


@pytest.mark.parametrize("version", ["v1", "storageformat.example/v1", f"{API_VERSION}0"])
def test_another_api_version(database: Path, file: Path, version: str) -> None:
    """An object of another group or version may mean something else."""
    write(file, {**storageformat(), "apiVersion": version})
    require_usage(database, file, "apiVersion")


@pytest.mark.parametrize("dump", [yaml.safe_dump, json.dumps], ids=["yaml", "json"])
def test_standard_input(database: Path, dump: Any) -> None:
    """`--to -`: for whoever has the object at hand and no file to put it in, such as `kubectl exec`."""
    command = (sys.executable, "-W", "error", "-m", "format_operator", "convert", str(database))
    done = subprocess.run(
        [*command, "--to", "-", "-o", "json"],
        input=dump(storageformat()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["outcome"]) == (0, "converted")
    with unchanged(database.parent):
        done = subprocess.run(
            [*command, "--to", "-"], input="a: 1", capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert "standard input: holds 0 objects of kind StorageFormat" in done.stderr
