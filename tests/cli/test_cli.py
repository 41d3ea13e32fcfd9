"""``storageformat`` as a shell sees it: what it does, prints and exits with."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from format_operator.api.names import API_VERSION
from format_store import convert, history, inspect
from tests.crash.strace import command
from tests.support.databases import (
    execute,
    leftovers,
    records_on_disk,
    sample,
    write_plain,
)
from tests.support.openers import opened
from tests.support.refusals import HIERARCHICAL, traces
from tests.support.trees import unchanged

RECORDS = sample(40)
V1: dict[str, Any] = {
    "name": "v1",
    "sqlitedict": {"keyEncoding": "natural", "valueCodec": "pickle"},
}
V2: dict[str, Any] = {
    "name": "v2",
    "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack", "compression": "zstd"},
}
COMMANDS = ("inspect", "plan", "convert", "verify", "recover", "undo")


def manifest(path: Path, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "StorageFormat",
        "metadata": {"name": "orders"},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}},
            "database": {"path": str(path)},
            "formats": [V1, V2],
            "target": "v2",
            "unmarked": ["v1"],
            **spec,
        },
    }


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "volume" / "orders.db"
    path.parent.mkdir()
    write_plain(path, RECORDS)
    return path


@pytest.fixture
def to(database: Path, tmp_path: Path) -> Path:
    file = tmp_path / "orders.yaml"
    file.write_text(yaml.safe_dump(manifest(database)), encoding="utf-8")
    return file


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "format_operator", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def document(*arguments: str | Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(succeed(*arguments, "-o", "json"))
    return loaded


def fail(code: int, *arguments: str | Path) -> str:
    """The message on stderr, whose last line is the hint; nothing but that is printed."""
    done = run(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    first = next(n for n, line in enumerate(lines) if line.startswith("storageformat: "))
    assert lines[first + 1].startswith("  "), "there is no hint"
    return "\n".join(lines[first:])


# --- help -----------------------------------------------------------------------------------------------


def test_help() -> None:
    """``--help`` lists every command; each has a help of its own that tells its options."""
    told = succeed("--help")
    for name in (*COMMANDS, "sidecar", "gate"):
        assert name in told
    for name in COMMANDS:
        assert "PATH" in succeed(name, "--help")
    assert "--dry-run" in succeed("convert", "--help")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unknown",),
        ("inspect",),
        ("convert", "orders.db"),
        ("inspect", "orders.db", "-o", "xml"),
        ("inspect", "orders.db", "--to", "x"),
        ("convert", "orders.db", "--dry"),
    ],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    """A command line that makes no sense: exit code 2, with the usage on stderr."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: storageformat" in done.stderr


def test_version() -> None:
    """``--version`` tells the tool's name and version."""
    assert succeed("--version").startswith("storageformat ")


# --- the main way ---------------------------------------------------------------------------------------


def test_from_plan_to_verify(database: Path, to: Path) -> None:
    """Inspect, plan, convert, inspect, verify, convert again: each tells where the database stands."""
    with unchanged(database.parent):
        before = document("inspect", database)
        planned = document("plan", database, "--to", to)
    assert (before["state"], before["format"]) == ("unmarked", None)
    assert before["tables"] == [{"name": "unnamed", "rows": 40}]
    assert (planned["action"], planned["refusal"], planned["obstacles"]) == ("convert", None, [])
    assert planned["bytesNeeded"] > 0

    converted = document("convert", database, "--to", to)
    assert (converted["outcome"], converted["rows"]) == ("converted", 40)
    assert converted["target"] == {"sqlitedict": V2["sqlitedict"]}
    assert records_on_disk(database) == RECORDS

    after = document("inspect", database)
    assert (after["state"], after["format"]) == ("marked", {"sqlitedict": V2["sqlitedict"]})
    assert after["marker"]["conversion"] == converted["conversionID"]
    assert document("verify", database) == {"path": str(database), "rows": 40, "sound": True}
    assert document("verify", database, "--to", to)["sound"]
    assert document("plan", database, "--to", to)["action"] == "none"
    assert document("convert", database, "--to", to)["outcome"] == "unchanged"
    assert document("recover", database)["outcome"] == "unchanged"


@pytest.mark.parametrize("output", ["json", "yaml", "table"])
def test_output(database: Path, to: Path, output: str) -> None:
    """JSON and YAML hold the same document; the table says the same in words."""
    commands = [
        ("inspect", database),
        ("plan", database, "--to", to),
        ("convert", database, "--to", to, "--quiet"),
        ("verify", database, "--quiet"),
        ("recover", database, "--quiet"),
    ]
    for arguments in commands:
        done = run(*arguments, "-o", output)
        assert (done.returncode, done.stderr) == (0, "")
        if output == "table":
            assert "40" in done.stdout or "unchanged" in done.stdout
        else:
            load = json.loads if output == "json" else yaml.safe_load
            assert load(done.stdout)["path"] == str(database)


def test_dry_run(database: Path, to: Path) -> None:
    """``--dry-run`` prints the plan and changes nothing: no lock, no directory, not a byte or a time."""
    with unchanged(database.parent):
        dry, planned = (
            document(*words, "--to", to)
            for words in (("convert", database, "--dry-run"), ("plan", database))
        )
    # Others use the volume meanwhile, and what is measured is never the same.
    for told in (dry, planned):
        assert told.pop("bytesAvailable") > 0
        assert told.pop("estimate")["seconds"] > 0
    assert dry == planned


def test_progress(database: Path, to: Path) -> None:
    """Where there is no terminal, progress is a line for each phase and for 100 %, on stderr."""
    done = run("convert", database, "--to", to)
    lines = done.stderr.splitlines()
    phases = [line for line in lines if "%" not in line]
    assert phases == [
        "locking", "checking", "settling", "building", "syncing", "verifying", "swapping", "cleaning",
    ]  # fmt: skip
    assert [line for line in lines if "%" in line] == [
        "building 100% 40 of 40 rows",
        "verifying 100% 40 of 40 rows",
    ]
    assert "\r" not in done.stderr
    assert "locking" not in done.stdout


def test_absent_and_empty(tmp_path: Path, to: Path) -> None:
    """No file is no error, an empty one is marked."""
    path = tmp_path / "new.db"
    assert document("inspect", path)["state"] == "absent"
    assert document("convert", path, "--to", to)["outcome"] == "absent"
    assert not path.exists()
    path.touch()
    assert document("inspect", path)["state"] == "empty"
    assert document("convert", path, "--to", to)["outcome"] == "converted"
    assert document("inspect", path)["format"] == {"sqlitedict": V2["sqlitedict"]}


def test_recover(database: Path) -> None:
    """``recover`` ends what a crash left, tells how, and needs no format."""
    done = subprocess.run(
        command(["convert", str(database), "--failpoint", "swap.after-rename", "kill"]),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    assert len(document("inspect", database)["pending"]) == 1
    done_again = run("recover", database)
    assert done_again.returncode == 0
    assert "recovered (completed)" in done_again.stderr
    assert "completed" in done_again.stdout
    assert document("inspect", database)["pending"] == []
    assert records_on_disk(database) == RECORDS


def test_retention(database: Path, tmp_path: Path) -> None:
    """``spec.backup`` says how long the old file is kept; the backup is told and listed."""
    file = tmp_path / "kept.yaml"
    file.write_text(
        yaml.safe_dump(manifest(database, backup={"retainFor": "1h"})), encoding="utf-8"
    )
    converted = document("convert", database, "--to", file)
    assert Path(converted["backup"]["path"]).exists()
    assert document("inspect", database)["backups"] == [converted["backup"]]
    assert "backup" in succeed("inspect", database)


# --- exit codes -----------------------------------------------------------------------------------------


def test_exit_code_1(database: Path, to: Path) -> None:
    """Failed, the database as it was: here it is damaged, and said to be."""
    data = database.read_bytes()
    database.write_bytes(data[: len(data) // 2])
    with unchanged(database.parent, besides=traces(database)):
        assert "damage" in fail(1, "convert", database, "--to", to)


def test_exit_code_3(database: Path, to: Path) -> None:
    """Refused, nothing touched; plan and dry run exit alike."""
    write_plain(database, [("/odd", (1, 2))])
    with unchanged(database.parent, besides=traces(database, built=True)):
        message = fail(3, "convert", database, "--to", to)
    assert "'/odd'" in message
    assert "tuple" in message
    for arguments in (("plan",), ("convert", "--dry-run")):
        done = run(*arguments, database, "--to", to)
        assert done.returncode == 3
        assert "'/odd'" in done.stdout
    os.link(database, database.with_name("second.db"))
    done = run("plan", database, "--to", to)
    assert done.returncode == 3
    assert "hard links" in done.stdout


def test_exit_code_4(database: Path) -> None:
    """A person has to look: both copies are kept, and the message says where."""
    done = subprocess.run(
        command(["convert", str(database), "--failpoint", "swap.after-fsync", "kill"]),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE unnamed SET value = CAST(x'800495302e' AS BLOB) WHERE rowid = 7")
    message = fail(4, "recover", database)
    assert "preimage.db" in message
    assert "unnamed" in message


def test_exit_code_75(database: Path, to: Path) -> None:
    """In use or locked: try again."""
    with opened(database):
        assert "open" in fail(75, "convert", database, "--to", to)
    assert succeed("convert", database, "--to", to)


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_errors_as_documents(database: Path, to: Path, output: str) -> None:
    """With -o json or yaml an error is a document too, with reason, message, hint and exit code."""
    execute(database, "CREATE VIEW keys AS SELECT key FROM unnamed")
    done = run("convert", database, "--to", to, "-o", output)
    assert done.returncode == 3
    error = (json.loads if output == "json" else yaml.safe_load)(done.stdout)["error"]
    assert (error["reason"], error["exitCode"]) == ("UnsupportedSchema", 3)
    assert "'keys'" in error["message"]
    assert error["hint"] in done.stderr


def test_verify_finds_what_is_wrong(database: Path, to: Path) -> None:
    """A record that cannot be decoded is named; a file in another format than expected is told."""
    convert(database, HIERARCHICAL)
    assert "msgpack" in fail(3, "verify", database, "--to", to)
    execute(database, "UPDATE unnamed SET value = CAST(x'800495302e' AS BLOB) WHERE rowid = 7")
    message = fail(1, "verify", database)
    assert "unnamed" in message
    assert "file-000006" in message


def test_verify_without_a_marker(database: Path, to: Path) -> None:
    """Without a marker somebody has to say which format it is in."""
    assert "marker" in fail(3, "verify", database)
    assert document("verify", database, "--to", to, "--format", "v1")["rows"] == 40
    fail(2, "verify", database.with_name("absent.db"), "--to", to)


# --- signals --------------------------------------------------------------------------------------------


@pytest.fixture
def large(database: Path) -> Path:
    """Large enough that a conversion takes seconds."""
    execute(
        database,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 150000) "
        "INSERT INTO unnamed SELECT '/n/' || i, x'80044b012e' FROM n",
    )
    return database


@pytest.mark.parametrize(
    ("number", "phase"),
    [(signal.SIGTERM, "building"), (signal.SIGINT, "building"), (signal.SIGTERM, "verifying")],
)
def test_signals(large: Path, to: Path, number: signal.Signals, phase: str) -> None:
    """SIGTERM and SIGINT in mid-conversion: exit code 75, the staging copy gone, the database as it was."""
    besides = {*traces(large, built=True), ".orders.db.storageformat/history.jsonl"}
    with unchanged(large.parent, besides=besides):
        process = subprocess.Popen(
            [sys.executable, "-m", "format_operator", "convert", str(large), "--to", str(to)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        while process.stderr.readline() != f"{phase}\n":
            assert process.poll() is None
        process.send_signal(number)
        _, told = process.communicate()
    assert process.returncode == 75, told
    assert "stopped on request" in told
    assert "Traceback" not in told
    assert leftovers(large) == []
    assert history.read(large).totals["conversions.aborted"] == 1
    assert inspect(large).state == "unmarked"


def test_killed(large: Path, to: Path) -> None:
    """SIGKILL leaves work behind: a plan says so, and ``recover`` clears it up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "format_operator", "convert", str(large), "--to", str(to)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while process.stderr.readline() != "building\n":
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert document("plan", large, "--to", to)["action"] == "recover"
    assert [found["outcome"] for found in document("recover", large)["recoveries"]] == ["discarded"]
    assert leftovers(large) == []
