"""Refused before anything is written: what the path leads to, who owns it, and the room around it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from format_store import Outcome, convert, errors, open_store, recover
from tests.support.databases import marker_of, records_on_disk, sample, write_plain
from tests.support.namespaces import HOW, MountNamespace, available
from tests.support.refusals import (
    HIERARCHICAL,
    refused,
    require_plan_refuses,
    require_process_refuses,
    traces,
)
from tests.support.requirements import requires
from tests.support.trees import unchanged

RECORDS = sample(30)
NOBODY = 65534

needs_root = requires("root", how="run as root", available=lambda: os.geteuid() == 0)
needs_mounts = requires("a mount namespace", how=HOW, available=available)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user reaches, other than pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: S103 - that is the point
        yield Path(name)


@pytest.fixture
def namespace() -> Iterator[MountNamespace]:
    with MountNamespace() as entered:
        yield entered


# --- what is there --------------------------------------------------------------------------------------


def test_symbolic_link(database: Path) -> None:
    """A link is refused, not followed: the rename would replace the link and leave the file."""
    link = database.with_name("link.db")
    link.symlink_to(database)
    with refused(link, errors.SymbolicLink, "link.db", str(database)):
        convert(link, HIERARCHICAL)


def test_dangling_symbolic_link(tmp_path: Path) -> None:
    """A link that leads nowhere is a link, not an absent file."""
    link = tmp_path / "orders.db"
    link.symlink_to(tmp_path / "nowhere.db")
    with refused(link, errors.SymbolicLink, "nowhere.db"):
        convert(link, HIERARCHICAL)


def test_extra_hard_link(database: Path) -> None:
    """A second name would keep the old content for ever, unseen: refused, with the number of names."""
    os.link(database, database.with_name("second.db"))
    with refused(database, errors.ExtraHardLinks, "orders.db", "2 hard links"):
        convert(database, HIERARCHICAL)
    require_plan_refuses(database, errors.ExtraHardLinks)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 7))  # /dev/full


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (make_directory, "a directory"),
        (make_fifo, "a FIFO"),
        pytest.param(make_device, "a character device", marks=needs_root),
        (make_socket, "a socket"),
    ],
)
def test_not_a_regular_file(tmp_path: Path, make: Any, name: str) -> None:
    """What is no file is refused by its kind, and never opened: a FIFO would block for ever."""
    path = tmp_path / "orders.db"
    make(path)
    with refused(path, errors.NotARegularFile, "orders.db", name):
        convert(path, HIERARCHICAL)


@needs_mounts
def test_mount_point(database: Path, namespace: MountNamespace) -> None:
    """A bind-mounted file (a subPath that names it) cannot be replaced by a rename."""
    namespace.run("mount", "--bind", str(database), str(database))
    with unchanged(database.parent, besides=traces(database)):
        require_process_refuses(
            ["convert", str(database)],
            errors.MountPoint,
            str(database),
            "mount point",
            prefix=namespace.prefix,
        )


@needs_mounts
def test_mount_point_with_spaces_in_its_name(tmp_path: Path, namespace: MountNamespace) -> None:
    """The kernel's table of mounts escapes spaces; the file is recognised all the same."""
    database = tmp_path / "our orders.db"
    write_plain(database, RECORDS)
    namespace.run("mount", "--bind", str(database), str(database))
    with unchanged(tmp_path, besides=traces(database)):
        require_process_refuses(
            ["convert", str(database)], errors.MountPoint, "our orders.db", prefix=namespace.prefix
        )


@needs_mounts
def test_read_only_file_system(database: Path, namespace: MountNamespace) -> None:
    """A volume that is mounted read-only is said to be so, before SQLite fails in its own words."""
    volume = database.parent / "volume"
    volume.mkdir()
    on_volume = volume / "orders.db"
    namespace.run("mount", "-t", "tmpfs", "tmpfs", str(volume))
    namespace.run("cp", str(database), str(on_volume))
    namespace.run("mount", "-o", "remount,ro", str(volume))
    with unchanged(namespace.inside(volume)):
        require_process_refuses(
            ["convert", str(on_volume)],
            errors.ReadOnly,
            str(on_volume),
            "mounted read-only",
            prefix=namespace.prefix,
        )


def test_absent_directory(tmp_path: Path) -> None:
    """Where even the directory is missing, the path or the mount is wrong: not the same as 'no file yet'."""
    missing = tmp_path / "volume" / "orders.db"
    with (
        unchanged(tmp_path),
        pytest.raises(errors.StorageError, match=str(missing.parent)) as caught,
    ):
        convert(missing, HIERARCHICAL)
    assert caught.value.exit_code == 1
    assert "mount" in caught.value.hint


# --- who we are -----------------------------------------------------------------------------------------


def as_user(uid: int) -> dict[str, Any]:
    return {"program": [str(Path(__file__).parents[1] / "support" / "as_user.py"), str(uid)]}


@needs_root
def test_read_only_directory(public: Path) -> None:
    """The owner of the file who may not write its directory cannot make anything beside it."""
    path = public / "volume" / "orders.db"
    path.parent.mkdir()
    write_plain(path, RECORDS)
    os.chown(path, NOBODY, NOBODY)
    with unchanged(path.parent):
        require_process_refuses(
            ["convert", str(path)], errors.ReadOnly, str(path.parent), "65534", **as_user(NOBODY)
        )


@needs_root
def test_read_only_file(public: Path) -> None:
    """A file that its owner may not write is refused before SQLite opens it."""
    path = public / "orders.db"
    write_plain(path, RECORDS)
    for each in (public, path):
        os.chown(each, NOBODY, NOBODY)
    path.chmod(0o444)
    with unchanged(public):
        require_process_refuses(
            ["convert", str(path)], errors.ReadOnly, "orders.db", **as_user(NOBODY)
        )


@needs_root
def test_wrong_owner_with_everything_writable(public: Path) -> None:
    """With fsGroup alone link and rename would succeed, and the primary would end up ours: refused."""
    path = public / "orders.db"
    write_plain(path, RECORDS)
    public.chmod(0o777)
    path.chmod(0o666)
    with unchanged(public):
        require_process_refuses(
            ["convert", str(path)], errors.WrongUser, "owned by 0", "65534", **as_user(NOBODY)
        )


@requires("setpriv", how="apt-get install util-linux")
@needs_root
def test_root_without_capabilities(public: Path) -> None:
    """Root whose container dropped all capabilities is somebody else's uid like any other."""
    path = public / "orders.db"
    write_plain(path, RECORDS)
    public.chmod(0o777)
    path.chmod(0o666)
    os.chown(path, NOBODY, NOBODY)
    with unchanged(public):
        require_process_refuses(
            ["convert", str(path)],
            errors.WrongUser,
            "owned by 65534",
            prefix=["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
        )


# --- the state directory --------------------------------------------------------------------------------


def state_of(database: Path) -> Path:
    return database.with_name(f".{database.name}.storageformat")


def require_state_refused(database: Path, kind: type[errors.StoreError], *says: str) -> None:
    with unchanged(database.parent), refused(database, kind, *says):
        convert(database, HIERARCHICAL)


def test_planted_symbolic_link(database: Path) -> None:
    """A state directory that is a link could make us work on somebody else's files."""
    elsewhere = database.with_name("elsewhere")
    elsewhere.mkdir(0o700)
    state_of(database).symlink_to(elsewhere)
    require_state_refused(database, errors.SymbolicLink, ".orders.db.storageformat")


def test_planted_file(database: Path) -> None:
    """A file where the state directory would be is not moved away."""
    state_of(database).write_text("mine")
    require_state_refused(
        database, errors.UnsafeStateDirectory, ".orders.db.storageformat", "taken"
    )


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_planted_directory_that_others_may_write(database: Path, mode: int) -> None:
    """Whoever may write the state directory could plant a staging copy."""
    state_of(database).mkdir()
    state_of(database).chmod(mode)
    require_state_refused(database, errors.UnsafeStateDirectory, f"{mode:04o}")


@needs_root
def test_planted_directory_of_another_user(database: Path) -> None:
    """A state directory that belongs to neither us nor the database's owner is refused."""
    state_of(database).mkdir(0o700)
    os.chown(state_of(database), NOBODY, NOBODY)
    require_state_refused(database, errors.UnsafeStateDirectory, "uid 65534")


def test_planted_lock(database: Path) -> None:
    """A FIFO in the lock's place is refused; a link there is not followed."""
    state_of(database).mkdir(0o700)
    lock = state_of(database) / "lock"
    os.mkfifo(lock)
    require_state_refused(database, errors.UnsafeStateDirectory, "lock")
    lock.unlink()
    lock.symlink_to(database.with_name("made-by-the-link"))
    with unchanged(database.parent), pytest.raises(errors.StorageError, match="lock") as caught:
        convert(database, HIERARCHICAL)
    assert caught.value.hint
    assert not database.with_name("made-by-the-link").exists()


@needs_mounts
def test_state_directory_on_another_file_system(database: Path, namespace: MountNamespace) -> None:
    """No rename leads from there over the database: refused before the copy, not after it."""
    state_of(database).mkdir(0o700)
    namespace.run("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(state_of(database)))
    with unchanged(namespace.inside(database.parent)):
        require_process_refuses(
            ["convert", str(database)],
            errors.UnsafeStateDirectory,
            "another filesystem",
            prefix=namespace.prefix,
        )


def test_planted_state_directory_and_recovery(database: Path) -> None:
    """Recovery does not follow a planted link either, even if there is 'work' behind it."""
    elsewhere = database.with_name("elsewhere")
    shutil.copytree(database.parent, elsewhere / "work" / "20261123T104639Z-3f9a1c2b")
    state_of(database).symlink_to(elsewhere)
    with refused(database, errors.SymbolicLink):
        recover(database)


# --- room -----------------------------------------------------------------------------------------------


@needs_mounts
def test_not_enough_space(database: Path, namespace: MountNamespace) -> None:
    """A volume without room for the staging copy: told before, with what is needed and what is free."""
    volume = database.parent / "volume"
    volume.mkdir()
    on_volume = volume / "orders.db"
    namespace.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(volume))
    namespace.run("cp", str(database), str(on_volume))
    with unchanged(namespace.inside(volume), besides=traces(on_volume)):
        require_process_refuses(
            ["convert", str(on_volume)],
            errors.InsufficientSpace,
            str(on_volume),
            "needs about 4.2 MB",
            "1.0 MB are free",
            prefix=namespace.prefix,
        )


def test_how_much_space_is_missing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what is needed and what is free, the hint how much is missing."""
    room = SimpleNamespace(f_flag=0, f_bavail=500, f_frsize=4096, f_files=1000, f_favail=900)
    monkeypatch.setattr(os, "statvfs", lambda _path: room)
    with refused(database, errors.InsufficientSpace, "4.2 MB", "2.0 MB are free"):
        convert(database, HIERARCHICAL)
    with pytest.raises(errors.InsufficientSpace) as caught:
        convert(database, HIERARCHICAL)
    assert "2.2 MB" in caught.value.hint
    require_plan_refuses(database, errors.InsufficientSpace)


def test_not_enough_inodes(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inodes run out too; where a filesystem makes them as it goes, their number means nothing."""
    room = SimpleNamespace(f_flag=0, f_bavail=10**6, f_frsize=4096, f_files=1000, f_favail=3)
    monkeypatch.setattr(os, "statvfs", lambda _path: room)
    with refused(database, errors.InsufficientSpace, "inodes", "3 are free"):
        convert(database, HIERARCHICAL)
    room.f_files = 0
    assert convert(database, HIERARCHICAL).outcome is Outcome.CONVERTED


# --- not refused ----------------------------------------------------------------------------------------


def test_absent_file(tmp_path: Path) -> None:
    """No file yet: there is nothing to do, nothing is made, and that is no error."""
    path = tmp_path / "orders.db"
    with unchanged(tmp_path, besides=traces(path)):
        assert convert(path, HIERARCHICAL).outcome is Outcome.ABSENT
    with unchanged(tmp_path):
        assert recover(path).outcome is Outcome.UNCHANGED


def test_empty_file(tmp_path: Path) -> None:
    """A file of 0 bytes is a new replica's volume: it is marked."""
    path = tmp_path / "orders.db"
    path.touch(0o640)
    assert convert(path, HIERARCHICAL).outcome is Outcome.CONVERTED
    marker = marker_of(path)
    assert marker is not None
    assert marker["format"] == HIERARCHICAL.to_spec()


def test_empty_database(tmp_path: Path) -> None:
    """Tables without rows fit every format: marked, and the table is in the new one."""
    path = tmp_path / "orders.db"
    write_plain(path, [])
    assert convert(path, HIERARCHICAL, unmarked=()).outcome is Outcome.CONVERTED
    with open_store(path) as store:
        store["/a"] = 1
        store.commit()
    assert records_on_disk(path) == [("/a", 1)]
