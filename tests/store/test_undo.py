"""Undo: back to the format before, with every record that was written since; or a backup, in so many words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from format_store import (
    PLAIN_SQLITEDICT,
    Format,
    Outcome,
    Retention,
    convert,
    errors,
    list_backups,
    open_store,
    restore_backup,
    undo,
)
from tests.crash.strace import command
from tests.support.databases import (
    execute,
    format_on_disk,
    leftovers,
    marker_of,
    records_on_disk,
    sample,
    write_plain,
)
from tests.support.openers import opened
from tests.support.restorations import BEFORE, LATER, TARGET, Converted, converted
from tests.support.trees import unchanged

MIDDLE = Format.sqlitedict(key_encoding="hierarchical")


@pytest.fixture
def made(tmp_path: Path) -> Converted:
    return converted(tmp_path / "orders.db")


def test_undo_keeps_what_was_written_since(made: Converted) -> None:
    """The format before, every record of before and since, in their order; no backup is needed for it."""
    result = undo(made.path)
    assert (result.outcome, result.target) == (Outcome.CONVERTED, PLAIN_SQLITEDICT)
    assert format_on_disk(made.path) == PLAIN_SQLITEDICT.to_spec()["sqlitedict"]
    assert records_on_disk(made.path) == [*BEFORE, *LATER]
    assert [backup.conversion_id for backup in list_backups(made.path)] == [made.backup]


def test_undo_of_an_undo(made: Converted) -> None:
    """Leads to where it began, as often as one likes."""
    for expected in (PLAIN_SQLITEDICT, TARGET, PLAIN_SQLITEDICT, TARGET):
        assert undo(made.path).target == expected
        assert records_on_disk(made.path) == [*BEFORE, *LATER]


def test_the_last_of_several_conversions(tmp_path: Path) -> None:
    """Only the last step is undone, each with the format that was there, not the one that was asked for."""
    path = tmp_path / "orders.db"
    write_plain(path, BEFORE)
    convert(path, MIDDLE)
    convert(path, TARGET)
    assert undo(path).target == MIDDLE
    assert undo(path).target == TARGET


def test_the_marker_is_the_source_of_truth(made: Converted) -> None:
    """The format before is swapped in with the records: without state directory and history undo still knows."""
    marker = marker_of(made.path)
    assert marker is not None
    assert marker["previous"] == PLAIN_SQLITEDICT.to_spec()
    other = made.path.with_name("moved.db")
    made.path.rename(other)
    assert undo(other).target == PLAIN_SQLITEDICT
    assert records_on_disk(other) == [*BEFORE, *LATER]


def rewrite_marker(path: Path, **changes: object) -> None:
    """As an older version (or another) would have written it."""
    marker = marker_of(path)
    assert marker is not None
    marker |= changes
    marker = {key: value for key, value in marker.items() if value is not None}
    text = json.dumps(marker, sort_keys=True, separators=(",", ":")).replace("'", "''")
    execute(
        path,
        "DROP VIEW _storageformat",
        f"CREATE VIEW _storageformat AS SELECT '{text}' AS marker",
    )


def test_markers_of_older_versions(made: Converted) -> None:
    """They do not tell the format before; the history does, by the conversion's id."""
    rewrite_marker(made.path, previous=None)
    assert undo(made.path).target == PLAIN_SQLITEDICT


@pytest.mark.parametrize("previous", [None, {"unknown": {}}, "nonsense"])
def test_nothing_tells(made: Converted, previous: object) -> None:
    """Neither the marker nor the history: refused, with the way that is left."""
    rewrite_marker(made.path, previous=previous)
    (made.state / "history.jsonl").unlink()
    require_nothing_to_undo(made.path, "neither its marker nor its history", "--format NAME")
    assert records_on_disk(made.path) == [*BEFORE, *LATER]


def require_nothing_to_undo(path: Path, says: str, hint: str) -> None:
    besides = {f".{path.name}.storageformat/lock"}
    with unchanged(path.parent, besides=besides), pytest.raises(errors.NothingToUndo) as caught:
        undo(path)
    assert caught.value.exit_code == 3
    assert says in str(caught.value)
    assert hint in caught.value.hint


def test_never_converted(tmp_path: Path) -> None:
    """No marker, nothing to undo; no file, the same."""
    path = tmp_path / "orders.db"
    require_nothing_to_undo(path, "no such file", "path")
    write_plain(path, BEFORE)
    require_nothing_to_undo(path, "no marker", "no conversion")


def test_after_a_restoration(made: Converted) -> None:
    """What was done last is no conversion: the way back from it is named."""
    kept = restore_backup(made.path, made.backup).backup
    assert kept is not None
    require_nothing_to_undo(
        made.path, "restoration", f"backups restore {made.path} {kept.conversion_id}"
    )
    convert(made.path, TARGET)
    assert undo(made.path).target == PLAIN_SQLITEDICT


def test_a_backup_in_so_many_words(made: Converted) -> None:
    """The backup as it was, only with the word that later writes are lost; those are kept as a backup."""
    for options in ({"to_backup": made.backup}, {"losing_later_writes": True}):
        with unchanged(made.path.parent), pytest.raises(errors.UsageError) as caught:
            undo(made.path, **options)
        assert caught.value.exit_code == 2
    result = undo(made.path, to_backup=made.backup, losing_later_writes=True)
    assert result.outcome is Outcome.RESTORED
    assert made.path.read_bytes() == made.old
    assert result.backup is not None
    assert result.backup.pinned


def test_what_the_format_before_cannot_hold(tmp_path: Path) -> None:
    """A record written since that the way back cannot keep: refused, by key, and nothing is lost."""
    path = tmp_path / "orders.db"
    with open_store(path, ensure=Format.sqlitedict(value_codec="json")) as store:
        store["/a"] = {"n": 1}
        store.commit()
    convert(path, PLAIN_SQLITEDICT)
    with open_store(path) as store:
        store["/tuple"] = (1, 2)
        store.commit()
    with pytest.raises(errors.UnconvertibleValue, match="/tuple"):
        undo(path)
    assert records_on_disk(path) == [("/a", {"n": 1}), ("/tuple", (1, 2))]
    assert leftovers(path) == []


def test_in_use(made: Converted) -> None:
    """As for every conversion: not while somebody has it open."""
    with opened(made.path), pytest.raises(errors.InUse):
        undo(made.path)


def test_pending_work_is_ended_first(tmp_path: Path) -> None:
    """A conversion that died after its swap is completed, and then undone."""
    import subprocess

    path = tmp_path / "orders.db"
    write_plain(path, sample(9))
    done = subprocess.run(
        command(["convert", str(path), "--failpoint", "swap.after-rename", "kill"]),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    assert undo(path, retention=Retention(60)).target == PLAIN_SQLITEDICT
    assert records_on_disk(path) == sample(9)
    assert len(list_backups(path)) == 1
