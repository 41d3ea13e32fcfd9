"""Disk full at every size: conversions on a volume that ends after so many bytes, or so many files.

One process in a mount namespace of its own mounts a tmpfs of each size, with the store's own check of free space
switched off: what is to be seen is what happens when space runs out in the middle. Afterwards the volume is made
larger, and everything must be there. Recoveries on a volume that has become full meanwhile are tried as well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from format_store import Failpoints, Format, convert, errors, preflight, recover
from tests.proof.report import Report
from tests.support.databases import leftovers, marker_of, read_table, sample, write_plain
from tests.support.interpreter import environment
from tests.support.namespaces import MountNamespace
from tests.support.sqlite_files import EVERY_KIND, everything, write_sql

RECORDS: Final = sample(250)
SPECS: Final[dict[str, dict[str, Any]]] = {
    "keys": {"sqlitedict": {"keyEncoding": "hierarchical"}},
    "values": {"sqlitedict": {"valueCodec": "msgpack"}},
    "everything": {
        "sqlite": {
            "pageSize": 1024,
            "journalMode": "wal",
            "migrations": [{"number": 1, "sql": "CREATE TABLE added AS SELECT * FROM log"}],
        },
        "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "json"},
    },
}
LARGE: Final = "64m"
#: What a conversion may say when space runs out: refused beforehand, or failed and left as it was.
NO_SPACE: Final = {"InsufficientSpace", "OutOfSpace"}
DEATHS: Final = (
    "prepare.after-manifest", "build.after-staging", "verify.after-ready", "swap.after-preimage",
    "swap.before-rename", "swap.after-rename", "cleanup.before-delete-preimage", "cleanup.before-clear",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """``limit``: a mount option of tmpfs; ``death``: instead, the volume is full when recovery begins."""

    spec: str
    limit: str
    death: str = ""


@dataclass(frozen=True)
class Found:
    """``said``: the outcome, or the error's name; ``lost``: what was not as promised, in words."""

    case: Case
    said: str
    lost: str = ""


def cases(size: int, *, step: int) -> Iterator[Case]:
    """Every limit from where the file itself just fits to where everything does. Sizes in bytes."""
    for spec in SPECS:
        for limit in range(size + 8192, 4 * size, step):
            yield Case(spec, f"size={limit}")
        for inodes in range(3, 14):
            yield Case(spec, f"nr_inodes={inodes}")
        for death in DEATHS:
            yield Case(spec, f"size={LARGE}", death)


def pristine(folder: Path) -> Path:
    path = write_sql(folder / "app.db", EVERY_KIND)
    write_plain(path, RECORDS)
    return path


def play(step: int) -> list[Found]:
    """Try all cases, in a process that sees mounts of its own."""
    said = apart("tests.proof.disk_full", step)
    return [Found(Case(**line.pop("case")), **line) for line in map(json.loads, said.splitlines())]


def apart(module: str, *arguments: object) -> str:
    """What a module prints that is run in a mount namespace of its own, with a folder and these. Raises AssertionError."""
    with MountNamespace() as namespace, tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*namespace.prefix, sys.executable, "-m", module, folder, *map(str, arguments)],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


def long(report: Report) -> None:
    """Every 4 KiB."""
    begun = time.monotonic()
    found = play(4096)
    said = Counter(one.said for one in found)
    report.add(
        "disk full", "sizes, inodes, and recoveries on a full volume", len(found),
        sum(bool(one.lost) for one in found), time.monotonic() - begun,
        ", ".join(f"{count} {what}" for what, count in said.most_common()),
    )  # fmt: skip


# --- in the namespace -----------------------------------------------------------------------------------------


def _mount(volume: Path, *options: str) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(volume)], check=True
    )


def _enlarge(volume: Path) -> None:
    options = f"remount,size={LARGE},nr_inodes=10000"
    subprocess.run(["mount", "-o", options, str(volume)], check=True)


def forked(work: Callable[[], str]) -> str:
    """What ``work`` returns, or the name of what it raises, in a process of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            said = work()
        except errors.StoreError as error:
            said = f"{error.reason} {error.exit_code}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return said or f"signal {os.WTERMSIG(status)}"


def content(path: Path) -> dict[str, Any]:
    """All that is neither sqlitedict's nor the migration's, and the records by an oracle."""
    found = everything(path)
    found["schema"] = [row for row in found["schema"] if row[2] not in {"unnamed", "added"}]
    marker = marker_of(path)
    found["table unnamed"] = read_table(path, marker["format"]["sqlitedict"] if marker else {})
    found.pop("table added", None)
    return found


def _fill(volume: Path) -> None:
    """Take what space is left, to the last byte."""
    with open(volume / "filler", "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _try(case: Case, source: Path, volume: Path, before: dict[str, Any]) -> Found:
    path = volume / source.name
    shutil.copyfile(source, path)
    target = Format.from_spec(SPECS[case.spec])
    if case.death:
        die = Failpoints({case.death: lambda: os.kill(os.getpid(), signal.SIGKILL)})
        died = forked(lambda: str(convert(path, target, failpoints=die).outcome))
        if died != f"signal {int(signal.SIGKILL)}":
            return Found(case, died, "did not die")
        _fill(volume)
        said = forked(lambda: str(recover(path).outcome))
        (volume / "filler").unlink()
    else:
        said = forked(lambda: str(convert(path, target).outcome))
    _enlarge(volume)
    return Found(case, said, lost(case, path, said, target, before))


def lost(case: Case, path: Path, said: str, target: Format, before: dict[str, Any]) -> str:
    name = said.split(maxsplit=1)[0]
    if not case.death and said != "converted" and name not in NO_SPACE:
        return f"it said {said}"
    recover(path)
    if content(path) != before:
        return "the content is not what it was"
    if said == "converted" and marker_of(path) is None:
        return "it said that it was converted"
    convert(path, target)
    if content(path) != before:
        return "the content is not what it was once it was converted"
    rest = leftovers(path)
    return f"{rest} are left over" if rest else ""


def main(folder: str, step: str) -> None:
    volume = Path(folder) / "volume"
    volume.mkdir()
    source = pristine(Path(folder))
    before = content(source)
    preflight.require_space = lambda *_: None
    for case in cases(source.stat().st_size, step=int(step)):
        _mount(volume, case.limit)
        try:
            found = _try(case, source, volume, before)
        finally:
            subprocess.run(["umount", str(volume)], check=True)
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
