"""Histories: conversions, writes of the application, crashes, undo, restorations and copies of the volume, at random.

A model of a few lines says what must be in the database; whatever happens, after a recovery it is. Crashes are
SIGKILLs of a process of its own, at a failpoint that the operation passes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from format_store import (
    Failpoints,
    Format,
    Retention,
    convert,
    delete_backup,
    errors,
    list_backups,
    open_store,
    plan,
    recover,
    restore_backup,
    undo,
)
from tests.proof.report import Report
from tests.support.databases import leftovers, marker_of, read_table
from tests.support.interpreter import environment

_ADDED = {"number": 1, "sql": "CREATE TABLE added (a)", "down": "DROP TABLE added"}
SPECS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"sqlitedict": {}},
    "keys": {"sqlitedict": {"keyEncoding": "hierarchical"}},
    "values": {"sqlitedict": {"valueCodec": "msgpack", "compression": "zstd"}},
    "json": {"sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "json"}},
    "pages": {"sqlite": {"pageSize": 8192, "journalMode": "wal"}, "sqlitedict": {}},
    "migrated": {
        "sqlite": {"pageSize": 1024, "journalMode": "delete", "migrations": [_ADDED]},
        "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack"},
    },
}
PLAIN: Final = Format.from_spec(SPECS["plain"])
KEYS = st.text("abé/", min_size=1, max_size=5).map(lambda text: f"/{text}")
VALUES = st.one_of(st.integers(-5, 5), st.text(max_size=20), st.lists(st.booleans(), max_size=3))

#: At which failpoint an operation dies; a third are let be, or there would be few backups to restore. None passes more than these.
DEATHS = st.sampled_from([*range(24), *([None] * 12)])
DEATHS_IN_RECOVERY = st.sampled_from([*range(6), None, None])
#: One of however many there are. What is drawn must not depend on what a crash has left, which the order of threads may decide.
WHICH = st.integers(0, 999)
_REFUSED: Final = 3

Content = tuple[dict[str, Any], tuple[str, ...]]


def in_a_process(work: Callable[[Failpoints], object], kill_at: int | None) -> bool:
    """Run ``work`` in a forked process, killed at the failpoint of that number; whether it was refused.

    Without a number, or where it passes fewer, it ends by itself.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Nothing of the test's own may run here: not its handlers, not its finally clauses.
        os.close(reading)
        passed = 0

        def trace(name: str) -> None:
            nonlocal passed
            os.write(writing, f"{name}\n".encode())
            if passed == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1

        try:
            work(Failpoints(trace=trace))
        except errors.Refused:
            os._exit(_REFUSED)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="ascii") as pipe:
        names = pipe.read().split()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _REFUSED, -signal.SIGKILL), f"exit code {code} after {names}"
    return code == _REFUSED


def one_of(names: Collection[str], which: int) -> str:
    return sorted(names)[which % len(names)]


@dataclass
class World:
    """One volume, and what must be on it."""

    folder: Path
    records: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    backups: dict[str, Content] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / "app.db"

    @property
    def expected(self) -> Content:
        return dict(self.records), self.lines

    def found(self, path: Path | None = None) -> Content:
        """What is there, by an oracle that uses nothing of the store."""
        path = path or self.path
        marker = marker_of(path)
        parameters = marker["format"]["sqlitedict"] if marker else {}
        with closing(sqlite3.connect(path)) as connection:
            lines = tuple(
                text for (text,) in connection.execute("SELECT line FROM log ORDER BY rowid")
            )
        return dict(read_table(path, parameters)), lines

    def take(self, content: Content) -> None:
        self.records, self.lines = dict(content[0]), content[1]

    def settle_backups(self) -> None:
        """Forget those that are gone, and know those that have come: each holds what it was made of."""
        there = {backup.conversion_id for backup in list_backups(self.path)}
        self.backups = {name: content for name, content in self.backups.items() if name in there}


class Histories(RuleBasedStateMachine):
    """The rules; each leaves a database that is at rest, and what it is to hold in ``world``."""

    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Path(tempfile.mkdtemp(prefix="storageformat-history-")))
        self.tally["histories"] += 1

    def teardown(self) -> None:
        shutil.rmtree(self.world.folder)

    @initialize(wal=st.booleans())
    def begin(self, wal: bool) -> None:
        with closing(sqlite3.connect(self.world.path)) as connection:
            if wal:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE log (line TEXT)")
            connection.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
        self.write("/first", 1)

    # --- the application ----------------------------------------------------------------------------------

    @rule(key=KEYS, value=VALUES)
    def write(self, key: str, value: Any) -> None:
        with open_store(self.world.path) as store:
            store[key] = value
            store.commit()
        self.world.records[key] = value

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        if len(self.world.records) > 1:
            key = one_of(self.world.records, which)
            with open_store(self.world.path) as store:
                del store[key]
                store.commit()
            del self.world.records[key]

    @rule(line=st.text(max_size=8).filter(lambda text: "\0" not in text), dies=st.booleans())
    def log(self, line: str, dies: bool) -> None:
        """Into a table that no conversion knows; killed afterwards, it may leave a log or a journal."""

        def work(_: Failpoints) -> None:
            connection = sqlite3.connect(self.world.path, isolation_level=None)
            connection.execute("INSERT INTO log VALUES (?)", (line,))
            if dies:
                connection.execute("BEGIN")
                connection.execute("DELETE FROM log")
                os.kill(os.getpid(), signal.SIGKILL)
            connection.close()

        in_a_process(work, None)
        self.world.lines += (line,)

    # --- the tool -------------------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(sorted(SPECS)),
        kept=st.booleans(),
        kill_at=DEATHS,
        again=DEATHS_IN_RECOVERY,
    )
    def convert(self, name: str, kept: bool, kill_at: int | None, again: int | None) -> None:
        target = Format.from_spec(SPECS[name])
        retention = Retention(pinned=kept)
        before = {backup.conversion_id for backup in list_backups(self.world.path)}
        self._survive(
            lambda points: convert(self.world.path, target, retention=retention, failpoints=points),
            kill_at,
            again,
        )
        for backup in list_backups(self.world.path):
            if backup.conversion_id not in before:
                self.world.backups[backup.conversion_id] = self.world.expected

    @rule(kill_at=DEATHS, again=DEATHS_IN_RECOVERY)
    def undo(self, kill_at: int | None, again: int | None) -> None:
        """Refused where nothing was converted, or the last thing done was a restoration."""
        self._survive(
            lambda points: undo(self.world.path, failpoints=points), kill_at, again, may_refuse=True
        )

    @rule(which=WHICH, kill_at=DEATHS, again=DEATHS_IN_RECOVERY)
    def restore(self, which: int, kill_at: int | None, again: int | None) -> None:
        if not self.world.backups:
            return
        chosen = one_of(self.world.backups, which)
        before, wanted = self.world.expected, self.world.backups[chosen]
        known = {backup.conversion_id for backup in list_backups(self.world.path)}
        self._survive(
            lambda points: restore_backup(self.world.path, chosen, failpoints=points),
            kill_at,
            again,
            also=wanted,
        )
        found = self.world.found()
        if kill_at is None:
            assert found == wanted
        self.tally["restorations"] += found == wanted != before
        self.world.take(found)
        for backup in list_backups(self.world.path):
            if backup.conversion_id not in known:
                self.world.backups[backup.conversion_id] = before

    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        deletable = [one.conversion_id for one in list_backups(self.world.path) if not one.pinned]
        if deletable:
            delete_backup(self.world.path, one_of(deletable, which))
            self.world.settle_backups()

    @rule(name=st.sampled_from(sorted(SPECS)))
    def rehearse(self, name: str) -> None:
        plan(self.world.path, Format.from_spec(SPECS[name]), rehearse=True)

    @rule(name=st.sampled_from(sorted(SPECS)), kill_at=st.integers(0, 24))
    def copy_the_volume(self, name: str, kill_at: int) -> None:
        """A snapshot of the volume in the middle of a conversion recovers as the volume itself does."""
        with tempfile.TemporaryDirectory(prefix="storageformat-copy-") as parent:
            copy = Path(parent) / "volume"
            shutil.copytree(self.world.folder, copy)
            target = Format.from_spec(SPECS[name])
            in_a_process(
                lambda points: convert(copy / "app.db", target, failpoints=points), kill_at
            )
            snapshot = Path(parent) / "snapshot"
            # Hard links become files of their own, as they do in most copies.
            shutil.copytree(copy, snapshot)
            self.tally["copies"] += 1
            for folder in (copy, snapshot):
                recover(folder / "app.db")
                assert self.world.found(folder / "app.db") == self.world.expected

    def _survive(
        self,
        work: Callable[[Failpoints], object],
        kill_at: int | None,
        again: int | None,
        *,
        also: Content | None = None,
        may_refuse: bool = False,
    ) -> None:
        self.tally["operations"] += 1
        before = self.world.expected
        refused = in_a_process(work, kill_at)
        assert may_refuse or not refused
        if kill_at is not None:
            self.tally["crashes"] += 1
            in_a_process(lambda points: recover(self.world.path, failpoints=points), again)
            recover(self.world.path)
        found = self.world.found()
        assert found in (before, also), "not what it was, and not what it was to become"
        self.world.settle_backups()

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        if not self.world.path.exists():
            return  # before the beginning
        recover(self.world.path)
        assert self.world.found() == self.world.expected
        kept = {f"backups/{name}/" for name in self.world.backups}
        rest = [
            one
            for one in leftovers(self.world.path)
            if not one.startswith((*kept, "app.db-", "backups/"))
        ]
        assert rest == []


def run(examples: int, steps: int, *, seeded: bool) -> Counter[str]:
    """Play so many histories of at most so many steps; what has happened in them. Raises AssertionError.

    In a process of its own: this one may have threads, whose locks a fork would take along.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.proof.histories",
            str(examples),
            str(steps),
            *(["seeded"] * seeded),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)
    return Counter(json.loads(done.stdout.splitlines()[-1]))


def _play(examples: int, steps: int, *, seeded: bool) -> Counter[str]:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=seeded,
            database=None,
            # What fails is told as it is: finding a shorter history takes minutes.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Counter(Histories.tally)


def long(report: Report) -> None:
    """A thousand histories, others each time."""
    begun, lost, note = time.monotonic(), 0, ""
    tally: Counter[str] = Counter()
    try:
        tally = run(1000, 30, seeded=False)
        note = ", ".join(f"{count:,} {what}" for what, count in sorted(tally.items()))
    except AssertionError as error:
        lost, note = 1, str(error)
    report.add(
        "histories", "random histories with a model", tally["operations"], lost,
        time.monotonic() - begun, note,
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_play(int(sys.argv[1]), int(sys.argv[2]), seeded="seeded" in sys.argv)))
