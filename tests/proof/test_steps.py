"""Single steps of the protocol that no crash test had a word for; the mutation gate asked for each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Failpoints,
    Retention,
    convert,
    durable,
    errors,
    lease,
    list_backups,
    recover,
)
from format_store.manifest import Manifest
from tests.proof.test_order import DICT, HOUR, RECORDS, Crash, crash_at
from tests.support.databases import records_on_disk, write_plain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "orders.db"
    write_plain(file, RECORDS)
    return file


def test_somebody_comes_before_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is asked right before the rename: without hard links there would be no step back."""
    monkeypatch.setattr(durable, "link", lambda *_: False)
    inode = path.stat().st_ino
    opened: list[bool] = []
    monkeypatch.setattr(lease.WriteLease, "held", lambda _: not opened)

    def ended() -> None:
        opened.clear()

    with pytest.raises(errors.InUse, match="just before the swap"):
        convert(
            path,
            DICT,
            failpoints=Failpoints(
                {"swap.after-preimage": lambda: opened.append(True), "swap.before-rename": ended}
            ),
        )
    assert path.stat().st_ino == inode


def test_somebody_makes_the_file_that_is_being_restored(path: Path) -> None:
    """What an application has just created in the empty place is not replaced: InUse."""
    crash_at(path, "swap.after-fsync")
    path.unlink()

    def create() -> None:
        write_plain(path, [("/theirs", 1)])

    with pytest.raises(errors.InUse, match="created the file"):
        recover(path, failpoints=Failpoints({"restore.before-rename": create}))
    assert records_on_disk(path) == [("/theirs", 1)]


def test_killed_before_a_backup_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup says until when before it lies among the backups: otherwise it would stay for ever."""
    real = Manifest.save

    def save(self: Manifest, work: Any) -> None:
        if self.retain_until is not None:
            raise Crash
        real(self, work)

    monkeypatch.setattr(Manifest, "save", save)
    monkeypatch.setattr("format_store.ending.give_up", lambda *_: None)
    with pytest.raises(Crash):
        convert(path, DICT, retention=Retention(HOUR))
    monkeypatch.undo()
    recover(path)
    (backup,) = list_backups(path)
    assert backup.retain_until is not None


def test_nothing_but_the_backup_is_kept(path: Path) -> None:
    """A database that was replaced while work was pending: the pre-image is kept, and no staging copy."""
    crash_at(path, "swap.after-preimage")
    path.unlink()
    write_plain(path, [("/theirs", 1)])
    recover(path)
    (backup,) = list_backups(path)
    assert backup.pinned
    assert sorted(os.listdir(os.path.dirname(backup.path))) == ["manifest.json", "preimage.db"]
