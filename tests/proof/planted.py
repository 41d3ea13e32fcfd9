"""Planted state directories, and paths that are swapped while a conversion runs.

Whoever may write beside a database may put there what they like: links to other people's files, FIFOs that nobody
writes to, devices, files of another owner, second names of a foreign file. Nothing of that is followed, waited for,
written to, given away or deleted, and the database is what it was.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from format_store import (
    Failpoints,
    Format,
    Retention,
    convert,
    history,
    inspect,
    list_backups,
    plan,
    prune_backups,
    recover,
    restore_backup,
    settle,
    state_file,
    undo,
    verify,
)  # fmt: skip
from format_store.layout import Layout
from tests.proof.hostile_case import Case, attempt, identity, plant_victim
from tests.proof.hostile_state import HIERARCHICAL, OTHER_ID, STAGES, dies, holds_all, killed_at
from tests.support.databases import write_plain

_ROOT: Final = os.geteuid() == 0
_WITH_MIGRATION: Final[dict[str, Any]] = {
    "sqlite": {"pageSize": 8192, "migrations": [{"number": 1, "sql": "CREATE TABLE added (a)"}]},
    "sqlitedict": {"keyEncoding": "hierarchical"},
}
SWAPPED_AT: Final = (
    *STAGES,
    "settle.after",
    "build.after-pages",
    "build.after-migration",
    "build.after-fsync",
    "build.after-batch",
)


# --- what is put in a path's place --------------------------------------------------------------------------


def _link_to_file(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "secret")


def _link_to_database(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "other.db")


def _link_to_directory(path: Path, victim: Path) -> None:
    path.symlink_to(victim, target_is_directory=True)


def _link_to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "made")


def _link_to_itself(path: Path, _victim: Path) -> None:
    path.symlink_to(path)


def _second_name(path: Path, victim: Path) -> None:
    os.link(victim / "secret", path)


def _second_name_of_a_database(path: Path, victim: Path) -> None:
    os.link(victim / "other.db", path)


def _fifo(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, _victim: Path) -> None:
    # A path of a socket is short: the descriptor of its directory stands for that.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


def _device(path: Path, _victim: Path) -> None:
    if _ROOT:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: it never ends


def _directory(path: Path, _victim: Path) -> None:
    path.mkdir()


def _filled_directory(path: Path, _victim: Path) -> None:
    path.mkdir()
    (path / "theirs").write_text("x", encoding="ascii")


def _garbage(path: Path, _victim: Path) -> None:
    path.write_bytes(b"\0\xff{" * 5000)


def _of_another_owner(path: Path, _victim: Path) -> None:
    path.write_bytes(b"{}")
    if _ROOT:
        os.chown(path, 4321, 4321)


def _unreadable(path: Path, _victim: Path) -> None:
    path.mkdir()
    path.chmod(0)


def _open_to_all(path: Path, _victim: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


PLANTS: Final[tuple[Callable[[Path, Path], None], ...]] = (
    _link_to_file, _link_to_file, _link_to_database, _link_to_directory, _link_to_directory, _link_to_nothing, _link_to_itself, _second_name,
    _second_name_of_a_database, _fifo, _socket, _device, _directory, _filled_directory, _garbage, _of_another_owner, _unreadable, _open_to_all,
)  # fmt: skip


def _places(layout: Layout, chance: random.Random) -> list[Path]:
    """Every name that the store knows, of this database's conversions and of one that never was."""
    works = [*layout.pending(), *layout.retained(), layout.work_directory(OTHER_ID)]
    work = chance.choice(works)
    own = [work.path, work.manifest, work.staging, work.preimage, work.restored]
    kept = layout.backups / OTHER_ID
    return [
        layout.state, layout.lock, layout.work, layout.backups, layout.rehearsal, layout.quarantine, layout.history,
        layout.quarantine / work.conversion_id, layout.state / "desired.json", kept, kept / "preimage.db", kept / "manifest.json",
        layout.rehearsal / "app.db", *own, *own, *(path.with_name(f".{path.name}.new") for path in (*own, layout.history)),
        *layout.siblings(), Path(f"{work.staging}-journal"), Path(f"{work.staging}-wal"),
    ]  # fmt: skip


def _plant(place: Path, victim: Path, chance: random.Random) -> str:
    """Put something there in place of what there is; what, in a word."""
    plant = chance.choice(PLANTS)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    moved = place.with_name(f"{place.name}.moved")
    with suppress(FileNotFoundError):
        os.rename(place, moved)
    plant(place, victim)
    if chance.random() < 0.15 and place.is_symlink() and moved.is_dir():
        # The most tempting link of all: to what was there.
        place.unlink()
        place.symlink_to(moved, target_is_directory=True)
    return plant.__name__.strip("_")


# --- the calls ---------------------------------------------------------------------------------------------


def _calls(path: Path, target: Format) -> list[Callable[[], Any]]:
    return [
        lambda: convert(path, target), lambda: convert(path, target), lambda: convert(path, target, retention=Retention(3600.0)),
        lambda: recover(path), lambda: recover(path), lambda: inspect(path), lambda: plan(path, target, rehearse=True),
        lambda: list_backups(path, verify=True), lambda: prune_backups(path), lambda: undo(path), lambda: settle(path),
        lambda: restore_backup(path, OTHER_ID), lambda: history.read(path), lambda: verify(path, expected=Format.sqlitedict()),
        lambda: state_file.save(path, "desired.json", {"a": 1}), lambda: state_file.load(path, "desired.json"),
    ]  # fmt: skip


def _prepare(case: Case) -> Path:
    victim = plant_victim(case.folder)
    write_plain(victim / "other.db", [("theirs", 1)])
    if _ROOT:
        os.chown(victim / "other.db", 4321, 4321)
        (victim / "other.db").chmod(0o600)
    os.utime(victim, (1, 1))
    return victim


def _victims(victim: Path) -> list[tuple[Any, ...]]:
    return [identity(path) for path in (victim, victim / "secret", victim / "other.db")]


def judge(case: Case) -> tuple[str, str]:
    """Something is planted, perhaps beside what a killed conversion left, and then something is called."""
    chance = case.chance
    victim, path = _prepare(case), case.copy("small")
    layout = Layout.of(path)
    before = _victims(victim)
    if chance.random() < 0.5:
        stage = chance.choice(STAGES)
        dies(lambda: convert(path, HIERARCHICAL, failpoints=killed_at(stage)))
    elif chance.random() < 0.5:
        convert(path, HIERARCHICAL, retention=Retention(3600.0))
    place = chance.choice(_places(layout, chance))
    planted = _plant(place, victim, chance)
    target = Format.from_spec(_WITH_MIGRATION) if chance.random() < 0.3 else HIERARCHICAL
    call = chance.choice(_calls(path, target))
    outcome, error = attempt(call)
    word = f"planted {planted}: {outcome}"
    told = f"{place.relative_to(case.folder)}: {error}"
    if _victims(victim) != before:
        return word, f"something outside was touched: {told}"
    attempt(lambda: recover(path))
    if _victims(victim) != before:
        return word, f"something outside was touched by the recovery: {told}"
    if not _somewhere(case, path):
        return word, f"the database is not what it was: {told}"
    return word, ""


def _somewhere(case: Case, path: Path) -> bool:
    """The database is whole; a journal that was planted is taken away first: opening would take it for its own."""
    for sibling in Layout.of(path).siblings():
        if sibling.is_symlink() or not sibling.is_file() or sibling.stat().st_size != 0:
            with suppress(FileNotFoundError):
                shutil.rmtree(
                    sibling
                ) if sibling.is_dir() and not sibling.is_symlink() else sibling.unlink()
    copy = case.folder / "looked-at.db"
    shutil.copyfile(path, copy)
    return holds_all(copy)


# --- races --------------------------------------------------------------------------------------------------


def judge_race(case: Case) -> tuple[str, str]:
    """Between two steps somebody moves a path away and puts something else there."""
    chance = case.chance
    victim, path = _prepare(case), case.copy("small")
    layout = Layout.of(path)
    before = _victims(victim)
    stage = chance.choice(SWAPPED_AT)
    target = Format.from_spec(_WITH_MIGRATION) if chance.random() < 0.5 else HIERARCHICAL
    swapped: list[tuple[Path, str]] = []

    def swap() -> None:
        if not swapped:
            place = chance.choice([path, path, *_places(layout, chance)])
            swapped.append((place, _plant(place, victim, chance)))

    retention = Retention(chance.choice((0.0, 3600.0)))
    again = chance.random() < 0.3
    if again:
        dies(lambda: convert(path, target, failpoints=killed_at(chance.choice(STAGES))))
        names = ["recover." + name for name in ("unbuilt", "unswapped", "swapped", "cleanup")]
        names += [
            "discard.before-clear",
            "cleanup.before-delete-preimage",
            "cleanup.before-clear",
            "restore.before-rename",
        ]
        stages = dict.fromkeys(names, swap)
        outcome, error = attempt(lambda: recover(path, failpoints=Failpoints(stages)))
    else:
        outcome, error = attempt(
            lambda: convert(path, target, retention=retention, failpoints=Failpoints({stage: swap}))
        )
    if not swapped:
        return f"swapped nothing: {outcome}", ""
    place, planted = swapped[0]
    word = f"swapped for {planted}: {outcome}"
    told = f"{place.relative_to(case.folder)} at {stage}: {error}"
    if _victims(victim) != before:
        return word, f"something outside was touched: {told}"
    attempt(lambda: recover(path))
    if _victims(victim) != before:
        return word, f"something outside was touched by the recovery: {told}"
    moved = path.with_name(f"{path.name}.moved")
    # Whoever moved the database away has it; what the store did in the meantime did nothing to it.
    there = path.is_file() and not path.is_symlink() and _somewhere(case, path)
    if not there and not (moved.is_file() and holds_all(moved)):
        return word, f"the database is not what it was: {told}"
    return word, ""
