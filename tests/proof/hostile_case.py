"""What the families of hostile cases share: a case's place, and what a call came to."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from format_store import errors
from tests.support.databases import sample

RECORDS: Final = sample(24)
VICTIM: Final = b"what belongs to somebody else\n"


@dataclass(frozen=True)
class Case:
    """``chance`` is seeded by the case's number; ``folder`` is empty and its own."""

    chance: random.Random
    pristine: dict[str, Path]
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "app.db"

    @property
    def canary(self) -> Path:
        """A file that a pickle, or SQL, makes if it is run."""
        return self.folder / "canary"

    def copy(self, kind: str = "") -> Path:
        """The database, as it was made; ``kind`` is one of ``pristine``, or drawn."""
        kind = kind or self.chance.choice(("small", "small", "every kind"))
        return Path(shutil.copyfile(self.pristine[kind], self.path))


def attempt(call: Callable[[], Any]) -> tuple[str, errors.StoreError | None]:
    """What ``call`` came to, in a word, and the store's error. Anything else that is raised is a finding."""
    try:
        result = call()
    except errors.StoreError as error:
        words = {2: "refused", 3: "refused", 4: "needs a person", 75: "not now"}
        return words.get(error.exit_code, "failed"), error
    return str(getattr(result, "outcome", "done")), None


def peak_memory(pid: int | str = "self") -> int:
    """The most that a process has ever had in memory since ``forget_peak``, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no peak of memory")


def forget_peak() -> int:
    """Begin anew with what there is now (proc(5), clear_refs); returns that."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def plant_victim(folder: Path) -> Path:
    """A directory of somebody else's, with a file and a database in it; see ``touched``."""
    victim = folder / "victim"
    victim.mkdir(mode=0o751)
    (victim / "secret").write_bytes(VICTIM)
    (victim / "secret").chmod(0o640)
    if os.geteuid() == 0:
        for path in (victim, victim / "secret"):
            os.chown(path, 4321, 4322)
    return victim


def identity(path: Path) -> tuple[Any, ...]:
    """All that must not change of a file or directory that is none of the store's."""
    found = os.lstat(path)
    data = path.read_bytes() if path.is_file() else sorted(os.listdir(path))
    return (found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, data)
