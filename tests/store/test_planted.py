"""What somebody put in the place of the store's own files: refused or replaced, never followed, given away or waited for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from format_store import (
    Failpoints,
    Format,
    Outcome,
    convert,
    errors,
    history,
    inspect,
    open_store,
    recover,
)
from format_store import state_file as documents
from format_store.layout import Layout
from tests.crash.test_kill_at_failpoints import run
from tests.support.databases import leftovers, records_on_disk, sample, write_plain
from tests.support.requirements import requires

RECORDS = sample(20)
HIERARCHICAL = Format.sqlitedict(key_encoding="hierarchical")
needs_root = requires("root", how="run as root", available=lambda: os.geteuid() == 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of somebody else's with one file in it."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    (directory / "secret").write_text("secret", encoding="ascii")
    return directory


def require_untouched(theirs: Path) -> None:
    assert os.listdir(theirs) == ["secret"]
    assert (theirs / "secret").read_text(encoding="ascii") == "secret"


@needs_root
def test_the_lock_is_a_second_name(path: Path, theirs: Path) -> None:
    """A lock that is the second name of somebody else's file is refused, and that file keeps its owner."""
    os.chown(path, 4321, 4321)
    state = Layout.of(path).state
    state.mkdir(0o700)
    os.chown(state, 4321, 4321)
    os.link(theirs / "secret", state / "lock")
    with pytest.raises(errors.UnsafeStateDirectory, match="one name"):
        convert(path, HIERARCHICAL)
    assert os.stat(theirs / "secret").st_uid == 0
    assert records_on_disk(path) == RECORDS


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_fifo_as_a_journal(path: Path, suffix: str) -> None:
    """SQLite would wait for the other end of it, with the lock held: it is refused instead."""
    fifo = path.with_name(path.name + suffix)
    os.mkfifo(fifo)
    for call in (lambda: convert(path, HIERARCHICAL), lambda: inspect(path)):
        with pytest.raises(errors.NotARegularFile) as caught:
            call()
        assert caught.value.path == str(fifo)
    fifo.unlink()
    assert convert(path, HIERARCHICAL).outcome is Outcome.CONVERTED


def test_a_log_that_is_a_second_name(path: Path, theirs: Path) -> None:
    """SQLite would truncate it at the checkpoint: it is refused."""
    os.link(theirs / "secret", path.with_name(f"{path.name}-wal"))
    with pytest.raises(errors.ExtraHardLinks):
        convert(path, HIERARCHICAL)
    require_untouched(theirs)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda at: at.symlink_to("/dev/zero"), lambda at: at.write_bytes(b"[" * 90_000)],
)
def test_advice_that_is_none(path: Path, make: Callable[[Path], object]) -> None:
    """In the place of the history, or of the sidecar's document: there is none, and a conversion writes it anew."""
    layout = Layout.of(path)
    layout.state.mkdir(0o700)
    make(layout.history)
    make(layout.state / "desired.json")
    assert history.read(path).entries == ()
    assert documents.load(path, "desired.json") is None
    assert convert(path, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert history.read(path).totals["conversions.succeeded"] == 1


def test_advice_from_a_fifo(path: Path) -> None:
    """What somebody writes into a FIFO in the history's place is not believed."""
    layout = Layout.of(path)
    layout.state.mkdir(0o700)
    os.mkfifo(layout.history)
    writer = os.open(layout.history, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(writer, b'{"kind": "conversion", "at": "x", "totals": {}}\n')
        assert history.read(path).entries == ()
    finally:
        os.close(writer)


def test_a_fifo_as_a_rehearsal(path: Path) -> None:
    """It is removed without being opened."""
    layout = Layout.of(path)
    layout.state.mkdir(0o700)
    os.mkfifo(layout.rehearsal)
    assert convert(path, HIERARCHICAL).outcome is Outcome.CONVERTED
    assert leftovers(path) == []


@pytest.mark.parametrize(
    "name",
    ["prepare.after-manifest", "build.after-fsync", "swap.before-preimage", "cleanup.before-clear"],
)
@pytest.mark.parametrize("which", ["state", "work", "one"])
def test_a_directory_becomes_a_link(path: Path, theirs: Path, name: str, which: str) -> None:
    """A directory that is swapped for a link in the middle: nothing is made or cleared up behind the link."""
    layout = Layout.of(path)

    def swap() -> None:
        place = {"state": layout.state, "work": layout.work, "one": layout.pending()[0].path}[which]
        os.rename(place, f"{place}.moved")
        place.symlink_to(theirs)

    with suppress(errors.StoreError):
        convert(path, HIERARCHICAL, failpoints=Failpoints({name: swap}))
    require_untouched(theirs)
    assert records_on_disk(path) == RECORDS


@needs_root
def test_the_copy_becomes_a_second_name(path: Path, theirs: Path) -> None:
    """Somebody else's file in the copy's place gets neither the database's owner nor its mode."""
    os.chown(path, 4321, 4321)
    layout = Layout.of(path)

    def swap() -> None:
        staging = layout.pending()[0].staging
        staging.unlink()
        os.link(theirs / "secret", staging)

    with pytest.raises(errors.UnsafeStateDirectory):
        convert(path, HIERARCHICAL, failpoints=Failpoints({"build.after-staging": swap}))
    assert os.stat(theirs / "secret").st_uid == 0
    require_untouched(theirs)


def test_a_manifest_of_another_conversion(path: Path) -> None:
    """A person is asked for, and both files stay."""
    run(["convert", str(path), "--failpoint", "swap.before-rename", "kill"])
    work = Layout.of(path).pending()[0]
    document = json.loads(work.manifest.read_text(encoding="utf-8"))
    document["conversionID"] = "20200101T000000Z-01234567"
    work.manifest.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(errors.UnreadableManifest):
        recover(path)
    assert records_on_disk(path) == records_on_disk(work.preimage) == RECORDS


@pytest.mark.parametrize("instead", [None, b"", b"no database at all"])
def test_the_database_is_gone_and_only_the_copy_is_left(path: Path, instead: bytes | None) -> None:
    """Not verified yet, but nobody knows of anything better: the copy is kept, and recovery ends."""
    run(["convert", str(path), "--failpoint", "verify.after", "kill"])
    path.unlink()
    if instead is not None:
        path.write_bytes(instead)
    (recovery,) = recover(path).recoveries
    assert "quarantine" in recovery.detail
    (kept,) = Layout.of(path).quarantine.glob("*/staging.db")
    assert records_on_disk(kept) == RECORDS
    assert recover(path).recoveries == ()


def test_an_application_may_name_its_database_by_a_link(path: Path, tmp_path: Path) -> None:
    """What is refused to a conversion, an application may do: its own link is followed when it opens the store."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with open_store(link) as store:
        assert list(store.items()) == RECORDS
    with pytest.raises(errors.SymbolicLink):
        convert(link, HIERARCHICAL)
