"""An application that opens the database at every step of a conversion: no acknowledged write is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from format_store import Failpoints, Format, convert, errors, history
from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.crash.opener import KEY, VALUE
from tests.crash.test_kill_at_failpoints import CONVERSION
from tests.support.databases import Records, leftovers, records_on_disk, sample, write_plain

RECORDS = sample(30)
TARGET = Format.from_spec(HIERARCHICAL)
OPENER = Path(__file__).with_name("opener.py")
PATIENCE_SECONDS = 20.0


class Opener:
    """The application's process. ``started`` returns once it waits for a lease, waits for us, or has ended."""

    def __init__(self, path: Path, *flags: str) -> None:
        self.path = path
        self.flags = flags
        self.process: subprocess.Popen[str] | None = None
        self.inode = 0

    def start(self) -> None:
        self.inode = os.stat(self.path).st_ino
        self.process = subprocess.Popen(
            [sys.executable, str(OPENER), str(self.path), *self.flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if "--hold" in self.flags:
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == "open\n"
            return
        wait_for(lambda: self.waits_for_a_lease() or self.has_settled())

    def waits_for_a_lease(self) -> bool:
        """proc(5), locks: a lease that somebody waits for is BREAKING; the file is told by its inode."""
        return any(
            "LEASE" in line and "BREAKING" in line and line.split()[5].endswith(f":{self.inode}")
            for line in Path("/proc/locks").read_text().splitlines()
        )

    def has_settled(self) -> bool:
        """It ended, or it waits for SQLite's lock (it sleeps in its busy handler, with the file open)."""
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        try:
            descriptors = [
                os.readlink(link) for link in Path(f"/proc/{self.process.pid}/fd").iterdir()
            ]
            waiting = "sleep" in Path(f"/proc/{self.process.pid}/wchan").read_text()
        except OSError:
            return False
        return waiting and str(self.path) in descriptors

    def end(self) -> bool:
        """Let it write and end; whether its write was acknowledged."""
        assert self.process is not None
        out, _ = self.process.communicate("go\n", timeout=PATIENCE_SECONDS)
        assert "acknowledged" in out or "refused" in out
        return "acknowledged" in out


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@contextmanager
def stepping_back() -> Iterator[None]:
    """The conversion may succeed, or step back because somebody has the database open."""
    with suppress(errors.InUse):
        yield


def expected(acknowledged: bool) -> Records:
    return [*RECORDS, (KEY, VALUE)] if acknowledged else RECORDS


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", CONVERSION)
def test_an_opener_at_every_step(tmp_path: Path, name: str, journal_mode: str) -> None:
    """Opening, reading and writing at any step: what was acknowledged is in the database afterwards."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode=journal_mode)
    opener = Opener(path)
    with stepping_back():
        convert(path, TARGET, failpoints=Failpoints({name: once(opener.start)}))
    acknowledged = opener.end()
    require_intact(path, expected(acknowledged), HIERARCHICAL)


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", CONVERSION[: CONVERSION.index("swap.before-preimage")])
def test_an_idle_opener_during_the_build(tmp_path: Path, name: str, journal_mode: str) -> None:
    """A connection that was opened during the build and sits idle stops the swap; it can write later."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS, journal_mode=journal_mode)
    opener = Opener(path, "--hold")
    with pytest.raises(errors.InUse):
        convert(path, TARGET, failpoints=Failpoints({name: once(opener.start)}))
    assert opener.end()
    assert leftovers(path) == []
    require_intact(path, expected(acknowledged=True), HIERARCHICAL)


def once(action: Callable[[], None]) -> Callable[[], None]:
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


def test_blocked_in_open_over_the_swap(tmp_path: Path) -> None:
    """Somebody waits in open() for the old file while it is replaced: the old file is put back."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    inode = os.stat(path).st_ino
    opener = Opener(path)
    with pytest.raises(errors.InUse, match="old file is in place again") as caught:
        convert(path, TARGET, failpoints=Failpoints({"swap.before-rename": opener.start}))
    assert caught.value.exit_code == 75
    assert opener.end()
    assert os.stat(path).st_ino == inode
    assert records_on_disk(path) == expected(acknowledged=True)
    assert leftovers(path) == []
    assert history.read(path).totals["conversions.aborted"] == 1
    require_intact(path, expected(acknowledged=True), HIERARCHICAL)


def test_blocked_in_open_of_the_new_file(tmp_path: Path) -> None:
    """Somebody opens the path right after the rename: it waits, and gets the new file, whole."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    opener = Opener(path)
    convert(path, TARGET, failpoints=Failpoints({"swap.after-rename": opener.start}))
    assert not opener.end()  # an application of the old format is refused by the guards
    assert records_on_disk(path) == RECORDS
    assert leftovers(path) == []


def test_one_waits_for_the_old_file_and_one_for_the_new(tmp_path: Path) -> None:
    """Both at once: the old file is put back, the new one goes to quarantine with whatever was written."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    early, late = Opener(path), Opener(path)
    with pytest.raises(errors.StrayWrites) as caught:
        convert(
            path,
            TARGET,
            failpoints=Failpoints(
                {"swap.before-rename": early.start, "step-back.before-rename": late.start}
            ),
        )
    assert early.end()
    late.end()
    assert "quarantine" in caught.value.hint
    quarantined = list(tmp_path.glob(".orders.db.storageformat/quarantine/*/staging.db"))
    assert [records_on_disk(file) for file in quarantined] == [RECORDS]
    assert records_on_disk(path) == expected(acknowledged=True)


@pytest.mark.parametrize("name", ["step-back.before-rename", "step-back.after-rename"])
def test_killed_while_stepping_back(tmp_path: Path, name: str) -> None:
    """SIGKILL in the middle of stepping back: what the opener wrote is kept, whichever file it got."""
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    opener = Opener(path)
    driver = subprocess.Popen(
        [
            sys.executable, str(OPENER.with_name("driver.py")), "convert", str(path),
            "--failpoint", "swap.before-rename", "stop", "--failpoint", name, "kill",
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    stopped = Path(f"{path}.stopped")
    wait_for(stopped.exists)
    opener.start()
    driver.send_signal(signal.SIGUSR1)
    driver.communicate(timeout=PATIENCE_SECONDS)
    assert driver.returncode == -9
    acknowledged = opener.end()
    try:
        require_intact(path, expected(acknowledged), HIERARCHICAL)
    except errors.StrayWrites as error:
        # The opener got the old file after the process that would have put it back was dead.
        kept = next(tmp_path.glob(".orders.db.storageformat/quarantine/*/preimage.db"))
        assert str(kept) in error.hint  # noqa: PT017 - either ending is right
        assert records_on_disk(kept) == expected(acknowledged)
        assert records_on_disk(path) == RECORDS
