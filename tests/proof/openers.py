"""Somebody has the database open, opens it, reads or writes, at every step of whatever the store does.

The application's process holds a connection, reads, writes, or is blocked in ``open()``, in each of SQLite's journal
modes, at each failpoint of conversions, ways back, restorations and recoveries. What was acknowledged to it is in the
database afterwards (or where ``StrayWrites`` says that it is kept, or in the backup that a restoration keeps); everything else
is whole. Several processes at once, clocks that jump and locks that others left: ``openers_many``.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from format_store import (
    Failpoints,
    Format,
    Retention,
    convert,
    errors,
    list_backups,
    recover,
    restore_backup,
    undo,
)  # fmt: skip
from tests.crash.opener import KEY, VALUE
from tests.crash.test_kill_at_failpoints import CONVERSION, run
from tests.crash.test_openers import OPENER, Opener, once, wait_for
from tests.crash.test_restoration import RESTORATION
from tests.proof.hostile_case import attempt
from tests.proof.report import Report
from tests.support.databases import Records, leftovers, records_on_disk, sample, write_plain
from tests.support.interpreter import environment

ROOT: Final = Path(__file__).parents[2]
RECORDS: Final = sample(30)
HIERARCHICAL: Final = Format.sqlitedict(key_encoding="hierarchical")
JOURNAL_MODES: Final = ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL")
#: ``before``: it had the database open already when the call was made.
DOES: Final = ("write", "read", "hold", "hold and read", "before")
#: Where the conversion died before, and what its recovery passes.
RECOVERY: Final = {
    "build.after-staging": ("recover.unbuilt", "discard.before-clear"),
    **dict.fromkeys(
        ("verify.after-ready", "swap.after-preimage", "swap.before-rename"), ("recover.unswapped", "discard.before-clear")
    ),
    **dict.fromkeys(
        ("swap.after-rename", "cleanup.before-delete-preimage"),
        ("recover.swapped", "cleanup.before-delete-preimage", "cleanup.after-delete-preimage", "cleanup.before-clear"),
    ),
    "cleanup.before-clear": ("recover.cleanup",),
}  # fmt: skip
#: What may be said because somebody has the database open.
GIVEN_WAY: Final = (errors.TryAgain, errors.StrayWrites, errors.OutcomeUnknown)


@dataclass(frozen=True)
class Case:
    """``killed``: where the conversion died before, of a recovery."""

    operation: str
    journal_mode: str
    does: str
    failpoint: str
    killed: str = ""


class Application(Opener):
    """Also one that is to hold the database may have to wait in ``open()`` until the call is over."""

    def start(self) -> None:
        self.inode = os.stat(self.path).st_ino
        self.process = subprocess.Popen(
            [sys.executable, "-S", str(OPENER), str(self.path), *self.flags],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: self.waits_for_a_lease() or self.has_settled() or self._said_something())

    def _said_something(self) -> bool:
        assert self.process is not None
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def told(self) -> str:
        """Its last word, once it may go on."""
        assert self.process is not None
        out, _ = self.process.communicate("go\n", timeout=60)
        return str(out).splitlines()[-1]


def cases() -> list[Case]:
    steps = [("convert", name, "") for name in CONVERSION]
    steps += [("undo", name, "") for name in CONVERSION]
    steps += [("restore", name, "") for name in RESTORATION]
    steps += [("recover", name, killed) for killed, names in RECOVERY.items() for name in names]
    return [
        Case(operation, mode, does, name, killed)
        for operation, name, killed in steps
        for mode in JOURNAL_MODES
        for does in DOES
        if does != "before" or name == "settle.after"
    ]


def _operation(case: Case, path: Path) -> Callable[[Failpoints], Any]:
    """The call, after what has to be there before it."""
    if case.operation == "convert":
        return lambda failpoints: convert(path, HIERARCHICAL, failpoints=failpoints)
    if case.operation == "recover":
        done = run(["convert", str(path), "--failpoint", case.killed, "kill"])
        assert done.returncode == -9, done.stderr
        return lambda failpoints: recover(path, failpoints=failpoints)
    result = convert(path, HIERARCHICAL, retention=Retention(3600.0))
    if case.operation == "undo":
        return lambda failpoints: undo(path, failpoints=failpoints)
    assert result.backup is not None
    identity = result.backup.conversion_id
    return lambda failpoints: restore_backup(path, identity, failpoints=failpoints)


def try_case(case: Case, folder: Path) -> tuple[str, str]:
    """What it came to, and what was lost."""
    path = folder / "orders.db"
    write_plain(path, RECORDS, journal_mode="WAL" if case.journal_mode == "WAL" else "DELETE")
    call = _operation(case, path)
    flags = [f"--journal={case.journal_mode}", "--either"]
    flags += ["--hold"] if case.does in {"hold", "hold and read", "before"} else []
    flags += ["--read"] if case.does in {"read", "hold and read"} else []
    opener = Application(path, *flags)
    if case.does == "before":
        opener.start()
        outcome, error = attempt(lambda: call(Failpoints()))
    else:
        outcome, error = attempt(lambda: call(Failpoints({case.failpoint: once(opener.start)})))
    if opener.process is None:
        return "not reached", "" if error is None else str(error)
    told = opener.told()
    word = f"{outcome}, {told.split(maxsplit=1)[0]}"
    if error is not None and not isinstance(error, GIVEN_WAY):
        return word, f"{error.reason}: {error}"
    if (
        told.startswith("acknowledged")
        and "--read" in flags
        and told != f"acknowledged {len(RECORDS)}"
    ):
        return word, f"it read {told}"
    return word, _lost(case, path, wrote=told == "acknowledged", error=error)


def _lost(case: Case, path: Path, *, wrote: bool, error: errors.StoreError | None) -> str:
    stray = isinstance(error, errors.StrayWrites)
    for _ in range(3):
        _, again = attempt(lambda: recover(path))
        stray = stray or isinstance(again, errors.StrayWrites)
        if again is None:
            break
    else:
        return f"it cannot be recovered: {again}"
    found = records_on_disk(path)
    if wrote and (KEY, VALUE) not in found:
        elsewhere = [Path(backup.path) for backup in list_backups(path)]
        if stray:
            elsewhere += path.parent.glob(f".{path.name}.storageformat/quarantine/*/*.db")
        if not any((KEY, VALUE) in records_on_disk(file) for file in elsewhere):
            return f"what was acknowledged is gone ({error})"
    if not _whole(found):
        return f"{len(found)} records"
    convert(path, HIERARCHICAL)
    if not _whole(records_on_disk(path)):
        return "not whole once it was converted"
    allowed: tuple[str, ...] = ("backups/", "quarantine/")
    if case.journal_mode in {"TRUNCATE", "PERSIST"}:
        allowed += (f"{path.name}-journal",)  # the application's, and ended
    rest = [name for name in leftovers(path) if not name.startswith(allowed)]
    return f"{rest} are left over" if rest else ""


def _whole(found: Records) -> bool:
    return [record for record in found if record != (KEY, VALUE)] == RECORDS


def play(part: list[Case], *, processes: int = 1) -> tuple[Counter[str], list[str]]:
    """Try these cases; what they came to, and what was lost."""
    folder = tempfile.TemporaryDirectory()
    parts = [Path(folder.name, str(number)) for number in range(processes)]
    for number, file in enumerate(parts):
        some = [asdict(case) for case in part[number::processes]]
        file.write_text(json.dumps(some), encoding="utf-8")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.proof.openers", file],
            env=environment(), stdout=subprocess.PIPE, text=True,
        )
        for file in parts
    ]  # fmt: skip
    said: Counter[str] = Counter()
    lost: list[str] = []
    for process in running:
        out, _ = process.communicate()
        for what, wrong in map(json.loads, out.splitlines()):
            said[what] += 1
            lost += [wrong] if wrong else []
        if process.returncode != 0:
            lost.append(f"the process ended with {process.returncode}")
    folder.cleanup()
    return said, lost


def long(report: Report) -> None:
    """Every case, and then many at once."""
    from tests.proof import openers_many

    begun = time.monotonic()
    said, lost = play(cases(), processes=len(os.sched_getaffinity(0)))
    for line in lost:
        report.progress(line)
    missed = said.pop("not reached", 0)
    report.add(
        "openers", "journal modes, what they do, steps", said.total(), len(lost), time.monotonic() - begun,
        f"{missed} not reached; " + ", ".join(f"{count} {what}" for what, count in said.most_common(6)),
    )  # fmt: skip
    openers_many.long(report)


def sample_of(count: int, seed: int) -> list[Case]:
    return random.Random(seed).sample(cases(), count)


def main() -> None:
    memory = Path("/dev/shm")
    for given in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        case = Case(**given)
        folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        try:
            what, wrong = try_case(case, folder)
        except Exception as error:
            what, wrong = "", f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(folder)
        print(json.dumps([what, f"{case}: {wrong}" if wrong else ""]), flush=True)


if __name__ == "__main__":
    main()
