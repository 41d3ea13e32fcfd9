"""A sample of the states that a power cut may leave; ``crash_states`` says how they are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.strace import traceable
from tests.proof.crash_states import MODELS, Run, composed, record, simulate, workshop
from tests.proof.filesystem import Filesystem
from tests.proof.recording import Names, Operation, Recording, Sync, Truncate, Volume, Write
from tests.proof.scenarios import ALL
from tests.support.requirements import requires

needs_strace = requires("strace", how="apt-get install strace", available=traceable)
BY_NAME = {scenario.name: scenario for scenario in ALL}
MOST = 16
SAMPLE = (
    *(name for name in BY_NAME if not name.endswith("no hard links")),
    "conversion with a backup, no hard links",
    "restoration, no hard links",
    "recovery of an unreadable database, no hard links",
)


@pytest.fixture
def root() -> Iterator[Path]:
    with workshop() as directory:
        yield directory


@needs_strace
@pytest.mark.parametrize("name", SAMPLE)
def test_power_cuts(root: Path, name: str) -> None:
    """Whatever a power cut leaves on disk, recovery makes of it the old or the new, and the rest can be done."""
    run = record(BY_NAME[name], root)
    for model in MODELS:
        tally = simulate(run, model, root, most=MOST)
        assert tally.lost == []
        assert tally.outcomes.total() == tally.tried > 3


@needs_strace
@pytest.mark.parametrize(
    "name", ["conversion", "restoration", "recovery of an unreadable database, no hard links"]
)
def test_power_cuts_in_the_recovery(root: Path, name: str) -> None:
    """A second power cut, in the recovery after the first, changes nothing of what comes out."""
    run = record(BY_NAME[name], root)
    states = list(simulate(run, "unordered", root).shapes.values())
    tally = composed(run, "unordered", root, states, most=3)
    assert tally.lost == []
    assert tally.tried > 50


# --- the simulation itself ------------------------------------------------------------------------------------


@needs_strace
@pytest.mark.parametrize(
    ("name", "file", "model"),
    [
        ("conversion", "staging.db", "journalled"),
        ("conversion", ".manifest.json.new", "journalled"),
        ("conversion", "/", "weak"),
        ("conversion of what was never synced", "orders.db", "journalled"),
        ("conversion with a backup", "work", "weak"),
        ("conversion with a backup, no hard links", ".preimage.db.new", "journalled"),
        ("restoration", ".staging.db.new", "journalled"),
        ("recovery of an unreadable database", "/", "weak"),
    ],
)  # fmt: skip
def test_it_can_fail(root: Path, name: str, file: str, model: str) -> None:
    """Had one file or directory not been synced, there would be states in which something is lost."""
    run = _without_syncs(record(BY_NAME[name], root), file)
    assert simulate(run, next(one for one in MODELS if one == model), root, limit=16).lost


def _without_syncs(run: Run, name: str) -> Run:
    """As if nothing that ever bore this name had been synced."""
    recording = run.recording
    known = {inode for path, inode in recording.before.walk() if path == name}
    known |= {
        inode
        for operation in recording.operations
        if isinstance(operation, Names)
        for _, new, inode in operation.changes
        if new == name and inode is not None
    }
    if name == "/":
        known = {0}
    assert known
    operations: list[Operation] = []
    # Where an operation lies once those before it are gone; moments before ``since`` were somebody else's.
    places = [0]
    for operation in recording.operations:
        if isinstance(operation, Sync):
            if operation.inode not in known:
                operations.append(Sync(operation.inode, places[operation.begun]))
        else:
            operations.append(operation)
        places.append(len(operations))
    return replace(
        run, recording=replace(recording, operations=operations), since=places[run.since]
    )


def _recording(*operations: Operation) -> Recording:
    """On a volume with the directory 1 in it, named d, and the file 2, named f, of two pages of a."""
    before = Volume({0: {"d": 1, "f": 2}, 1: {}}, {2: bytearray(b"a" * 8192)}, fresh=3)
    after = before.copy()
    after.files[3] = bytearray()
    for operation in operations:
        after.apply(operation)
    return Recording(before, list(operations), after)


CREATE = Names(((0, "new", 3),))
WRITE = Write(3, 0, b"b" * 8192)
RENAME = Names(((1, "f", 3), (0, "new", None)))


def _lengths(recording: Recording, model: str, moment: int) -> set[tuple[tuple[str, int], ...]]:
    """Names and lengths of the files, of each state."""
    filesystem = Filesystem(recording, next(one for one in MODELS if one == model), limit=64)
    return {
        tuple(
            (name, len(state.contents[inode]))
            for name, inode in state.names
            if inode in state.contents and inode > 2
        )
        for state in filesystem.states(moment)
    }


def test_data_may_be_missing_where_the_name_is_there() -> None:
    """Not synced, a new file has no name, or its name and none, some or all of its pages."""
    recording = _recording(CREATE, WRITE)
    found = _lengths(recording, "journalled", 2)
    assert found == {(), (("new", 0),), (("new", 4096),), (("new", 8192),)}


def test_an_fsync_of_a_file() -> None:
    """It keeps the bytes; in a journal its name comes along, by POSIX it does not."""
    recording = _recording(CREATE, WRITE, Sync(3, 2))
    assert _lengths(recording, "journalled", 3) == {(("new", 8192),)}
    assert _lengths(recording, "weak", 3) == {(), (("new", 8192),)}


def test_an_fsync_covers_what_was_there_when_it_began() -> None:
    """What another thread wrote meanwhile is not promised."""
    recording = _recording(CREATE, WRITE, Sync(3, 1))
    assert (("new", 0),) in _lengths(recording, "journalled", 3)


def test_a_rename_between_directories() -> None:
    """In a journal it is there or not; where each directory persists by itself there may be both names, or none."""
    recording = _recording(CREATE, WRITE, Sync(3, 2), Sync(0, 2), RENAME)
    old, new = ("new", 8192), ("d/f", 8192)
    assert _lengths(recording, "journalled", 5) == {(old,), (new,)}
    assert _lengths(recording, "weak", 5) == {(old,), (new,), (new, old), ()}
    synced = _recording(*recording.operations, Sync(1, 5))
    assert _lengths(synced, "weak", 6) == {(new,), (new, old)}


def test_a_directory_that_moves_is_in_one_place() -> None:
    """Its ``..`` moves with it."""
    move = Names(((1, "e", 3), (0, "e", None)))
    before = Volume({0: {"d": 1, "e": 3}, 1: {}, 3: {}}, {}, fresh=4)
    after = before.copy()
    after.apply(move)
    filesystem = Filesystem(Recording(before, [move], after), "weak")
    found = {tuple(name for name, _ in state.names) for state in filesystem.states(1)}
    assert found == {("d", "e"), ("d", "d/e")}


def test_pages_tear() -> None:
    """Of one write to an old file any sectors may be there; of a journal's pages, all of one or nothing."""
    recording = _recording(Write(2, 0, b"b" * 4096), Truncate(2, 4096))
    for model, unit in (("journalled", 4096), ("weak", 512)):
        filesystem = Filesystem(recording, next(one for one in MODELS if one == model))
        contents = {state.contents[2] for state in filesystem.states(2)}
        assert {len(content) for content in contents} == {4096, 8192}
        torn = [content for content in contents if len(set(content[:4096])) > 1]
        assert bool(torn) == (unit == 512)
        for content in contents:
            units = [content[start : start + unit] for start in range(0, len(content), unit)]
            assert all(len(set(one)) == 1 for one in units)
