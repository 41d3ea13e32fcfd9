"""``storageformat undo``, ``storageformat backups …`` and ``plan --rehearse``, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from format_store import inspect, list_backups
from tests.cli.test_cli import V1, V2, document, fail, manifest, run, succeed
from tests.support.databases import execute, records_on_disk, write_plain
from tests.support.openers import opened
from tests.support.restorations import BEFORE, LATER, Converted, converted
from tests.support.trees import unchanged

SUBCOMMANDS = ("list", "restore", "pin", "unpin", "delete")
NOBODY = "20200101T000000Z-00000000"


@pytest.fixture
def made(tmp_path: Path) -> Converted:
    directory = tmp_path / "volume"
    directory.mkdir()
    return converted(directory / "orders.db")


def test_help() -> None:
    """Every command has a help of its own."""
    told = succeed("backups", "--help")
    for name in SUBCOMMANDS:
        assert name in told
        assert "PATH" in succeed("backups", name, "--help")
    assert "--losing-later-writes" in succeed("undo", "--help")
    assert "--rehearse" in succeed("plan", "--help")


@pytest.mark.parametrize(
    "arguments",
    [
        ("backups",),
        ("backups", "list"),
        ("backups", "restore", "orders.db"),
        ("backups", "delete", "orders.db"),
        ("backups", "unpin", "orders.db", NOBODY, "--retain-for", "soon"),
        ("undo",),
        ("undo", "orders.db", "--losing"),
    ],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    """A command line that makes no sense: exit code 2, with the usage on stderr."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: storageformat" in done.stderr


def test_the_life_of_a_backup(made: Converted) -> None:
    """Listed, pinned, refused to be deleted, unpinned, deleted."""
    listed = document("backups", "list", made.path)
    assert listed["path"] == str(made.path)
    (backup,) = listed["backups"]
    assert (backup["conversionID"], backup["rows"], backup["sound"]) == (made.backup, 40, None)
    assert document("backups", "list", made.path, "--verify")["backups"][0]["sound"] is True

    pinned = document("backups", "pin", made.path, made.backup)
    assert (pinned["done"], pinned["backup"]["pinned"]) == ("pinned", True)
    assert "unpin" in fail(3, "backups", "delete", made.path, made.backup)
    unpinned = document("backups", "unpin", made.path, made.backup, "--retain-for", "0")
    assert (unpinned["done"], unpinned["backup"]["pinned"]) == ("unpinned", False)
    deleted = document("backups", "delete", made.path, made.backup)
    assert (deleted["done"], deleted["backup"]["conversionID"]) == ("deleted", made.backup)
    assert document("backups", "list", made.path)["backups"] == []
    assert succeed("backups", "list", made.path) == "no backups\n"


@pytest.mark.parametrize("output", ["json", "yaml", "table"])
def test_output(made: Converted, output: str) -> None:
    """JSON and YAML hold the same documents; the table says the same in words."""
    for arguments in (
        ("backups", "list", made.path, "--verify"),
        ("backups", "pin", made.path, made.backup),
        ("backups", "unpin", made.path, made.backup),
        ("backups", "restore", made.path, made.backup, "--quiet"),
        ("backups", "delete", made.path, made.backup, "--quiet"),
    ):
        done = run(*arguments, "-o", output)
        assert (done.returncode, done.stderr) == (0, "")
        if output == "table":
            assert made.backup in done.stdout or "byte for byte" in done.stdout
        else:
            load = json.loads if output == "json" else yaml.safe_load
            assert load(done.stdout)["path"] == str(made.path)


def test_restore(made: Converted) -> None:
    """The database is the backup; what it was is named, pinned, and restores it again."""
    done = run("backups", "restore", made.path, made.backup)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "%" not in line] == [
        "locking", "checking", "settling", "building", "syncing", "verifying", "swapping", "cleaning",
    ]  # fmt: skip
    assert "building 100% 40 of 40 rows" in done.stderr
    assert made.path.read_bytes() == made.old
    (kept,) = [b for b in list_backups(made.path) if b.conversion_id != made.backup]
    assert kept.path in done.stdout
    again = document("backups", "restore", made.path, kept.conversion_id)
    assert again["outcome"] == "restored"
    assert records_on_disk(made.path) == [*BEFORE, *LATER]


def test_undo(made: Converted) -> None:
    """Converted back with what was written since; once more, and it is where it was."""
    assert document("undo", made.path)["target"] == {"sqlitedict": V1["sqlitedict"]}
    assert records_on_disk(made.path) == [*BEFORE, *LATER]
    assert document("undo", made.path)["target"] == {"sqlitedict": V2["sqlitedict"]}
    assert records_on_disk(made.path) == [*BEFORE, *LATER]
    done = run("undo", made.path)
    assert "building 100% 41 of 41 rows" in done.stderr


def test_undo_to_a_backup_takes_two_words(made: Converted) -> None:
    """Naming the backup alone is not enough, nor is the other word."""
    with unchanged(made.path.parent):
        fail(2, "undo", made.path, "--restore-backup", made.backup)
        fail(2, "undo", made.path, "--losing-later-writes")
    words = ("--restore-backup", made.backup, "--losing-later-writes")
    assert document("undo", made.path, *words)["outcome"] == "restored"
    assert made.path.read_bytes() == made.old


def test_exit_codes(made: Converted, tmp_path: Path) -> None:
    """2 no such backup · 3 nothing to undo, unsound backup · 4 the database is not well · 75 in use."""
    for name in ("restore", "pin", "unpin", "delete"):
        assert NOBODY in fail(2, "backups", name, made.path, NOBODY)
    assert not (tmp_path / ".typo.db.storageformat").exists()
    assert document("backups", "list", tmp_path / "typo.db")["backups"] == []

    plain = tmp_path / "plain.db"
    write_plain(plain, BEFORE)
    assert "no marker" in fail(3, "undo", plain)

    with opened(made.path):
        fail(75, "undo", made.path)
        fail(75, "backups", "restore", made.path, made.backup)
    with opened(made.preimage):
        fail(75, "backups", "delete", made.path, made.backup)
        fail(75, "backups", "list", made.path, "--verify")

    execute(made.path, "UPDATE unnamed SET value = CAST(x'28b52ffd00' AS BLOB) WHERE rowid = 7")
    assert "only good copy" in fail(4, "backups", "delete", made.path, made.backup)
    execute(made.preimage, "PRAGMA user_version = 3")
    done = run("backups", "list", made.path, "--verify")
    assert done.returncode == 4
    assert "NO" in done.stdout
    assert "manifest" in fail(3, "backups", "restore", made.path, made.backup)


def test_a_rehearsal(tmp_path: Path) -> None:
    """``plan --rehearse`` measures the real thing, shows progress, and leaves the database as it was."""
    database = tmp_path / "orders.db"
    write_plain(database, BEFORE)
    before = database.read_bytes()
    to = tmp_path / "orders.yaml"
    to.write_text(yaml.safe_dump(manifest(database)), encoding="utf-8")
    planned = document("plan", database, "--to", to, "--rehearse")
    told: dict[str, Any] = planned["rehearsal"]
    assert (planned["action"], told["rows"], told["bytesBefore"]) == ("convert", 40, len(before))
    done = run("plan", database, "--to", to, "--rehearse")
    assert "verifying 100% 40 of 40 rows" in done.stderr
    assert "rehearsed" in done.stdout
    assert "an estimate" in done.stdout
    assert run("plan", database, "--to", to).stderr == ""
    assert database.read_bytes() == before
    assert inspect(database).state == "unmarked"
    with opened(database):
        fail(75, "plan", database, "--to", to, "--rehearse", "-q")
