"""Runs of the store on the kernel's own filesystems, on a device that notes what is written to it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash import driver
from tests.proof.block_devices import (
    MEMORY,
    Blocks,
    Kind,
    Recorder,
    apply,
    blocks_of,
    make,
    mounted,
)
from tests.proof.outcomes import Conversion
from tests.proof.recorded_device import Entry
from tests.proof.scenarios import KEYS, NAME, SCENARIOS, Prepared, Scenario
from tests.support.databases import sample, write_plain

MANY = sample(250)
NEIGHBOURS = ("nobody", "before each change", "all the time")
AGAIN = "again"
_CHANGES = frozenset({
    "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "sqlite3.connect",
})  # fmt: skip
_BTRFS_START_SYNC, _BTRFS_WAIT_SYNC = 0x80089418, 0x40089416


def _many(path: Path) -> Prepared:
    write_plain(path, MANY)
    words = ("--to", json.dumps(KEYS), "--retain", "3600")
    return Prepared("convert", words, Conversion(MANY, KEYS, kept=True))


SCENARIO = {
    scenario.name: scenario
    for scenario in (Scenario("conversion of many records", _many), *SCENARIOS)
}


@dataclass(frozen=True)
class Request:
    """``neighbour``: one of ``NEIGHBOURS``; ``most``: so many states are drawn where there are more.

    ``broken``: the end of the names of what is not synced (of all, if it is empty), or ``AGAIN``, if what failed is.
    """

    kind: str
    scenario: str
    neighbour: str = NEIGHBOURS[0]
    broken: str | None = None
    most: int = 1 << 30


@dataclass(frozen=True)
class Recording:
    """``begun`` and ``done``: how many entries there were when the run began to count, and when it had ended."""

    base: Blocks
    entries: Sequence[Entry]
    begun: int
    done: int
    ended: Sequence[tuple[int, dict[str, Any]]]
    failed: bool
    """``ended``: exit codes and answers; ``failed``: whether the failure that was asked for has happened."""

    def require_whole(self, image: Path) -> None:
        """What was noted leads from the image as it was to the image as it is."""
        blocks = dict(self.base)
        for entry in self.entries:
            apply(blocks, entry.offset, entry.data)
        assert {at: block for at, block in blocks.items() if any(block)} == blocks_of(image)


class Workshop:
    """One filesystem at a time, on ``image``, mounted at ``mount``."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.kind = kind
        self.folder = folder
        self.image = folder / "image"
        self.mount = folder / "mount"
        self.path = self.mount / "data" / NAME
        self._since = folder / "since"
        self.mount.mkdir()

    def prepare(self, scenario: Scenario) -> tuple[Prepared, bytes]:
        """Leaves the database and a neighbour's file on the image; the history's bytes come with it."""
        with self._new():
            prepared = scenario.prepare(self.path)
            file = self.path.parent / f".{NAME}.storageformat" / "history.jsonl"
            history = file.read_bytes() if file.exists() else b""
        if scenario.unsynced:
            with self._new():
                pass  # it is written when it is recorded, and no unmounting syncs it
        return prepared, history

    @contextmanager
    def _new(self) -> Iterator[None]:
        make(self.kind, self.image)
        with mounted(self.kind, self.image, self.mount):
            self.path.parent.mkdir()
            (self.mount / "neighbour").touch()
            yield

    def record(
        self, prepared: Prepared, request: Request, failure: str = "", times: int = 1
    ) -> Recording:
        """Run it on what is on the image; ``failure``: see ``recorded_device``, counted from the run's begin."""
        scenario = SCENARIO[request.scenario]
        base = blocks_of(self.image)
        with Recorder(self.image, self.folder) as recorder:
            with mounted(self.kind, recorder.device, self.mount):
                if scenario.unsynced:
                    scenario.prepare(self.path)
                self._since.write_text(str(recorder.length()))
                if failure:
                    recorder.failure.write_text(failure)
                ended = [self._operate(prepared, request, recorder) for _ in range(times)]
                failed = bool(failure) and not recorder.failure.exists()
                recorder.failure.unlink(missing_ok=True)
                begun, done = int(self._since.read_text()), recorder.length()
            return Recording(base, list(recorder.entries()), begun, done, ended, failed)

    def _operate(
        self, prepared: Prepared, request: Request, recorder: Recorder
    ) -> tuple[int, dict[str, Any]]:
        """Run the driver in a process of its own: its exit code, and what it said."""
        with tempfile.TemporaryFile("w+") as said:
            pid = os.fork()
            if pid == 0:
                try:
                    os.dup2(said.fileno(), 1)
                    code = self._in_child(prepared, request, recorder)
                except BaseException as error:
                    os.write(1, json.dumps({"reason": repr(error)}).encode())
                    code = 99
                os._exit(code)
            _, status = os.waitpid(pid, 0)
            said.seek(0)
            return os.waitstatus_to_exitcode(status), json.load(said)

    def _in_child(self, prepared: Prepared, request: Request, recorder: Recorder) -> int:
        neighbour = None
        if request.neighbour == NEIGHBOURS[1]:
            commit = self._neighbour()
            sys.addaudithook(lambda *event: commit() if _changes(*event) else None)
        elif request.neighbour == NEIGHBOURS[2]:
            commit = self._neighbour()
            neighbour = os.fork()
            while neighbour == 0:
                commit()
        if SCENARIO[request.scenario].unsynced:
            sys.addaudithook(lambda *event: self._note_preimage(recorder, *event))
        if request.broken is not None:
            _break_syncs(request.broken)
        try:
            return driver.main([prepared.operation, str(self.path), *prepared.words])
        finally:
            sys.stdout.flush()
            if neighbour:
                os.kill(neighbour, signal.SIGKILL)
                os.waitpid(neighbour, 0)

    def _note_preimage(self, recorder: Recorder, event: str, arguments: tuple[Any, ...]) -> None:
        """What an application has not synced is its own risk until its file becomes the pre-image."""
        if event == "os.link" and str(arguments[1]).endswith("preimage.db"):
            self._since.write_text(str(recorder.length()))

    def _neighbour(self) -> Callable[[], None]:
        """Lets the filesystem commit what came before, and none of the data of others' files."""
        file = os.open(self.mount / "neighbour", os.O_RDONLY)
        fsync, modes = os.fsync, [0o600, 0o644]

        def commit() -> None:
            modes.reverse()
            os.fchmod(file, modes[0])
            if self.kind.type == "btrfs":
                # There, an fsync writes that file's changes alone, and syncfs everybody's data.
                fcntl.ioctl(file, _BTRFS_START_SYNC, bytes(8))
                fcntl.ioctl(file, _BTRFS_WAIT_SYNC, struct.pack("=Q", 0))
            else:
                fsync(file)

        return commit


def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audited event will change something (https://docs.python.org/3/library/audit_events.html)."""
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in _CHANGES


def _break_syncs(how: str) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if how == AGAIN:
            try:
                real(descriptor)
            except OSError:
                real(descriptor)
        elif not os.readlink(f"/proc/self/fd/{descriptor}").endswith(how):
            real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


@contextmanager
def workshop(kind: Kind) -> Iterator[Workshop]:
    with tempfile.TemporaryDirectory(prefix="real-filesystems-", dir=MEMORY) as folder:
        yield Workshop(Path(folder), kind)
