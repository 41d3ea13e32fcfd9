"""Several at once: sidecars on one volume, readers during swaps, holders of the lock that die, old locks, clocks that jump."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from format_store import (
    PLAIN_SQLITEDICT,
    Failpoints,
    Format,
    Outcome,
    Retention,
    clock,
    convert,
    errors,
    history,
    list_backups,
    pin_backup,
    prune_backups,
    recover,
    undo,
)  # fmt: skip
from format_store.layout import Layout
from tests.crash.strace import command
from tests.crash.test_kill_at_failpoints import CONVERSION
from tests.crash.test_openers import wait_for
from tests.proof.hostile_case import attempt
from tests.proof.report import Report
from tests.support.databases import leftovers, records_on_disk, sample, write_plain

RECORDS: Final = sample(30)
HIERARCHICAL: Final = Format.sqlitedict(key_encoding="hierarchical")
FORMATS: Final = (HIERARCHICAL, Format.sqlitedict(value_codec="msgpack"), PLAIN_SQLITEDICT)


def _database(folder: Path, *, journal_mode: str = "DELETE") -> Path:
    path = folder / "orders.db"
    write_plain(path, RECORDS, journal_mode=journal_mode)
    return path


# --- two sidecars --------------------------------------------------------------------------------------


def sidecars(folder: Path, seed: int, count: int = 4) -> str:
    """So many processes convert one database at once, some are killed; then one more does. What was lost, in words."""
    chance, path = random.Random(seed), _database(folder)
    running = []
    for _ in range(count):
        dying = ["--failpoint", chance.choice(CONVERSION), "kill"] if chance.random() < 0.5 else []
        words = command([chance.choice(("convert", "convert", "recover")), str(path), *dying])
        running.append(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    converted = 0
    for process in running:
        out, err = process.communicate()
        if process.returncode not in (0, 75, -signal.SIGKILL):
            return f"one ended with {process.returncode}: {out}{err}"
        converted += '"outcome": "converted"' in out
    recover(path)
    done = convert(path, HIERARCHICAL)
    converted += done.outcome is Outcome.CONVERTED
    totals = history.read(path).totals
    if totals["conversions.succeeded"] != 1 or converted > 1:
        return f"{converted} say that they have converted it, {totals} is remembered"
    if records_on_disk(path) != RECORDS or leftovers(path):
        return f"not what it was, or {leftovers(path)} are left over"
    return ""


# --- a reader during swaps -------------------------------------------------------------------------------

#: It opens, reads everything and closes, some fifty times a second, until it is told to stop.
_READ: Final = """
import os, sqlite3, sys, time
from contextlib import closing
while not os.path.exists(sys.argv[1] + ".stop"):
    try:
        with closing(sqlite3.connect(sys.argv[1], timeout=5)) as connection:
            print(len(connection.execute("SELECT key, value FROM unnamed").fetchall()), flush=True)
    except sqlite3.Error as error:
        print(f"error {error}", flush=True)
    time.sleep(0.02)
"""
_CLEAR: Final = ("error database is locked", "error unable to open", "error database schema")


def reader(folder: Path, swaps: int, journal_mode: str) -> tuple[int, str]:
    """How often somebody has read while the database was swapped so many times; and what was wrong."""
    path, output, wrong = _database(folder, journal_mode=journal_mode), folder / "read", ""
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-S", "-c", _READ, str(path)], stdout=file)
    wait_for(lambda: output.stat().st_size > 0)
    done = 0
    while done < swaps and not wrong:
        try:
            done += convert(path, FORMATS[2 if done % 2 else 0]).outcome is Outcome.CONVERTED
        except errors.TryAgain:
            continue  # it had the database open
        except errors.StoreError as error:
            wrong = f"{error.reason}: {error}"
    Path(f"{path}.stop").touch()
    process.wait()
    lines = output.read_text(encoding="utf-8").splitlines()
    strange = {line for line in lines if line != str(len(RECORDS)) and not line.startswith(_CLEAR)}
    with suppress(errors.StoreError):
        recover(path)
    if records_on_disk(path) != RECORDS:
        wrong = "the database is not what it was"
    return len(lines), wrong or ", ".join(strange)


# --- the lock ---------------------------------------------------------------------------------------------


def dead_holder(folder: Path, stage: str) -> str:
    """Whoever holds the lock is killed: the next one gets it at once, and loses nothing."""
    path = _database(folder)
    holder = subprocess.Popen(
        command(["convert", str(path), "--failpoint", stage, "stop"]), stdout=subprocess.DEVNULL
    )
    wait_for(Path(f"{path}.stopped").exists)
    _, locked = attempt(lambda: convert(path, HIERARCHICAL))
    holder.kill()
    holder.wait()
    if not isinstance(locked, errors.Locked):
        return f"while it was held: {locked}"
    _, error = attempt(lambda: convert(path, HIERARCHICAL))
    if error is not None:
        return f"once its holder was dead: {error}"
    return "" if records_on_disk(path) == RECORDS else "the database is not what it was"


def old_lock(folder: Path, chance: random.Random) -> str:
    """A lock file of an earlier boot, whatever it says and however old it is, keeps nobody out."""
    path = _database(folder)
    layout = Layout.of(path)
    layout.state.mkdir(0o700)
    layout.lock.write_bytes(
        chance.choice((b"", b"1\n", str(os.getpid()).encode(), b'{"pid": 1, "boot": "x"}', b"\0" * 5000, chance.randbytes(9)))
    )  # fmt: skip
    os.utime(layout.lock, (at := chance.choice((0, 1, time.time(), 4e9)), at))
    layout.lock.chmod(chance.choice((0o600, 0o644, 0o666)))
    _, error = attempt(lambda: convert(path, HIERARCHICAL))
    if error is not None:
        return str(error)
    return "" if records_on_disk(path) == RECORDS else "the database is not what it was"


# --- clocks -------------------------------------------------------------------------------------------------


class Clock:
    """The wall clock of the store, which this moves."""

    def __init__(self) -> None:
        self.now = time.time()

    @contextmanager
    def shown(self) -> Iterator[None]:
        class Moved(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.fromtimestamp(self.now, tz)

        moved = SimpleNamespace(
            time=lambda: self.now, gmtime=lambda: time.gmtime(self.now), strftime=time.strftime
        )
        real = (vars(clock)["time"], vars(clock)["datetime"])
        setattr(clock, "time", moved)  # noqa: B010 - mypy would have it a module
        setattr(clock, "datetime", Moved)  # noqa: B010 - as above
        try:
            yield
        finally:
            setattr(clock, "time", real[0])  # noqa: B010 - as above
            setattr(clock, "datetime", real[1])  # noqa: B010 - as above


_JUMPS: Final = (-365 * 86400.0, -3600.0, -1.0, 0.0, 0.0, 0.5, 3600.0, 365 * 86400.0)


def jumps(folder: Path, seed: int) -> str:
    """Conversions, ways back and recoveries while the clock jumps at every step, between years and back.

    Ids stay unique, nothing is lost, and a backup goes when its time is over by the clock of that moment, and never
    one that is pinned: what a clock says wrongly ends a time early or late, and takes nothing but the backup.
    """
    chance, path, wall = random.Random(seed), _database(folder), Clock()
    ids: list[str] = []
    pinned: set[str] = set()

    def jump(_: str = "") -> None:
        wall.now = min(max(wall.now + chance.choice(_JUMPS), 86400.0), 8e9)

    failing = chance.choice(CONVERSION)

    def fail() -> None:
        raise errors.StorageError("made up", operation="test", path=path)

    with wall.shown():
        for _ in range(8):
            target = chance.choice(FORMATS)
            retention = Retention(chance.choice((0.0, 10.0, 7200.0)))
            actions = {failing: fail} if chance.random() < 0.3 else {}
            points = Failpoints(actions, trace=jump)
            call: Callable[[], Any] = partial(
                convert, path, target, retention=retention, failpoints=points
            )
            if chance.random() < 0.2:
                call = partial(undo, path, failpoints=points)
            try:
                result = call()
                ids += [result.conversion_id] if result.conversion_id else []
            except errors.Refused:
                pass
            except errors.StoreError:
                recover(path, failpoints=Failpoints(trace=jump))
            if chance.random() < 0.2 and (there := list_backups(path)):
                pinned.add(pin_backup(path, chance.choice(there).conversion_id).conversion_id)
            jump()
            before = {backup.conversion_id: backup for backup in list_backups(path)}
            now = clock.now()
            prune_backups(path)
            gone = before.keys() - {backup.conversion_id for backup in list_backups(path)}
            for identity in gone:
                until = before[identity].retain_until
                if identity in pinned or until is None or until > now:
                    return f"{identity} is gone at {now}, and it was to be kept until {until}"
            if records_on_disk(path) != RECORDS:
                return f"the database is not what it was, at {now}"
            if any(not backup.sound for backup in list_backups(path, verify=True)):
                return "a backup is not sound"
    return "" if len(set(ids)) == len(ids) else f"an id was given twice: {ids}"


# --- all of it ----------------------------------------------------------------------------------------------


def _row(report: Report, name: str, calls: Sequence[Callable[[Path], str]]) -> None:
    """Each in a directory of its own."""
    begun, lost = time.monotonic(), []
    for call in calls:
        with tempfile.TemporaryDirectory() as folder:
            lost += [wrong] if (wrong := call(Path(folder))) else []
    for line in lost:
        report.progress(line)
    report.add("openers", name, len(calls), len(lost), time.monotonic() - begun)


def long(report: Report) -> None:
    """Hundreds of each."""
    _row(
        report, "four sidecars on one volume", [partial(sidecars, seed=seed) for seed in range(200)]
    )
    _row(
        report,
        "holders of the lock that died",
        [partial(dead_holder, stage=at) for at in CONVERSION],
    )
    _row(
        report,
        "locks of another boot",
        [partial(old_lock, chance=random.Random(seed)) for seed in range(200)],
    )
    _row(report, "clocks that jump", [partial(jumps, seed=seed) for seed in range(300)])
    for journal_mode in ("DELETE", "WAL"):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            reads, wrong = reader(Path(folder), 100, journal_mode)
        report.add(
            "openers",
            f"reads during 100 swaps, {journal_mode}",
            reads,
            int(bool(wrong)),
            time.monotonic() - begun,
            wrong,
        )
