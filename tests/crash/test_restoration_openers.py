"""An application that opens the database at every step of a restoration, and a disk that fails there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from format_store import (
    PLAIN_SQLITEDICT,
    Failpoints,
    Retention,
    convert,
    errors,
    list_backups,
    plan,
    recover,
    restore_backup,
)
from tests.crash.opener import KEY, VALUE
from tests.crash.test_openers import Opener, once, stepping_back
from tests.crash.test_restoration import AFTER_RENAME, RESTORATION
from tests.support.databases import leftovers, records_on_disk, sample, write_plain
from tests.support.restorations import HOUR, TARGET, Converted, converted, require_restored_or_not

RECORDS = sample(30)
LATER = [("/later", 1)]


@pytest.fixture(params=["DELETE", "WAL"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Marked and in the format that the opener writes, with one record more than its backup; (path, backup)."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode=request.param)
    # By way of another format, so that there is something to convert back from.
    convert(path, TARGET)
    convert(path, PLAIN_SQLITEDICT)
    convert(path, TARGET, retention=Retention(HOUR))
    convert(path, PLAIN_SQLITEDICT)
    write_plain(path, LATER, journal_mode=request.param)
    (backup,) = list_backups(path)
    return path, backup.conversion_id


@pytest.mark.parametrize("name", RESTORATION)
def test_an_opener_at_every_step(plain: tuple[Path, str], name: str) -> None:
    """What was acknowledged is in the database, or in the backup that the restoration kept of it."""
    path, backup = plain
    opener = Opener(path)
    with stepping_back():
        restore_backup(path, backup, failpoints=Failpoints({name: once(opener.start)}))
    assert opener.end()
    recover(path)
    found = records_on_disk(path)
    kept = [other for other in list_backups(path, verify=True) if other.conversion_id != backup]
    assert all(other.sound for other in kept)
    assert (KEY, VALUE) in (found if not kept or name in AFTER_RENAME else read_kept(kept[0].path))
    if kept:
        assert [record for record in found if record[0] != KEY] == RECORDS
        assert [r for r in read_kept(kept[0].path) if r[0] != KEY] == [*RECORDS, *LATER]
    else:
        assert [record for record in found if record[0] != KEY] == [*RECORDS, *LATER]
    assert os.stat(path).st_nlink == 1


def read_kept(path: str) -> list[tuple[str, object]]:
    return records_on_disk(Path(path))


def test_blocked_in_open_over_the_swap(plain: tuple[Path, str]) -> None:
    """Somebody waits in open() for the file that is being replaced: it is put back, and nothing restored."""
    path, backup = plain
    inode = os.stat(path).st_ino
    opener = Opener(path)
    with pytest.raises(errors.InUse, match="old file is in place again"):
        restore_backup(path, backup, failpoints=Failpoints({"swap.before-rename": opener.start}))
    assert opener.end()
    assert os.stat(path).st_ino == inode
    assert records_on_disk(path) == [*RECORDS, *LATER, (KEY, VALUE)]
    assert len(list_backups(path)) == 1
    restore_backup(path, backup)
    assert records_on_disk(path) == RECORDS


@pytest.mark.parametrize("number", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("name", RESTORATION)
def test_the_disk_fails(tmp_path: Path, name: str, number: str) -> None:
    """An error at any step: as it was before the rename; after it, the next run ends it."""
    made: Converted = converted(tmp_path / "orders.db")
    code = getattr(errno, number)

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises((errors.StoreError, OSError)):
        restore_backup(made.path, made.backup, failpoints=Failpoints({name: fail}))
    assert require_restored_or_not(made) == ("new" if name in AFTER_RENAME else "old")


def test_an_application_that_opens_the_database_while_it_is_copied(tmp_path: Path) -> None:
    """A rehearsal lets it in at once and ends, with the copy gone; what it writes is in the database."""
    from format_store import durable

    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    opener = Opener(path)
    start = once(opener.start)
    real = durable.copy_descriptor
    chunks: list[int] = []

    def copy(source: int, target: Path, checkpoint: object) -> None:
        assert callable(checkpoint)

        def meanwhile(copied: int) -> None:
            start()
            chunks.append(copied)
            checkpoint(copied)

        real(source, target, meanwhile)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "copy_descriptor", copy)
        patch.setattr(durable, "_KERNEL_CHUNK", 4096)
        with pytest.raises(errors.InUse, match="copied for the rehearsal"):
            plan(path, TARGET, rehearse=True)
    # At once: not after the rest, of which there may be gigabytes.
    assert chunks == [4096]
    assert opener.end()
    assert records_on_disk(path) == [*RECORDS, (KEY, VALUE)]
    assert leftovers(path) == []
    assert plan(path, TARGET, rehearse=True).rehearsal is not None
