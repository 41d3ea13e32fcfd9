"""``make proof``: every proof in its long form, a table of what was tried and what was lost, and a report.

    python -m tests.proof [--only NAME ...] [--jobs N] [--json FILE]

Several proofs run N at a time, each in a process of its own, by default one for each processor. Exit code 1 where
anything was lost, or a proof could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from tests.proof.report import Report, Row

#: Modules beside this one with a function ``long(report)``, the longest first.
PROOFS = (
    "operator_side",
    "kills",
    "errors",
    "hostile",
    "histories",
    "openers",
    "crash_states",
    "mutations",
    "real_filesystems",
    "soak",
    "limits",
    "flush_failures",
    "fuzzing",
    "disk_full",
)


def table(report: Report) -> str:
    lines = [f"{'proof':<14}{'what':<46}{'tried':>10}{'lost':>6}{'seconds':>9}"]
    lines += [
        f"{row.proof:<14}{row.what:<46}{row.tried:>10,}{row.lost:>6}{row.seconds:>9.0f}"
        for row in report.rows
    ]
    tried, lost = (sum(getattr(row, name) for row in report.rows) for name in ("tried", "lost"))
    lines.append(f"{'all':<60}{tried:>10,}{lost:>6}")
    return "\n".join(lines)


def here(name: str, report: Report) -> None:
    """Run one proof in this process. One that cannot be run is a row with ``tried`` 0."""
    report.progress(f"=== {name}")
    begun = time.monotonic()
    long: Callable[[Report], None] = import_module(f"tests.proof.{name}").long
    try:
        long(report)
    except Exception as error:
        seconds = time.monotonic() - begun
        report.add(name, f"could not be run: {type(error).__name__}: {error}", 0, 1, seconds)


def apart(name: str, folder: Path) -> list[Row]:
    """Run one proof in a process of its own."""
    file = folder / f"{name}.json"
    command = [sys.executable, "-m", "tests.proof", "--only", name, "--json", str(file)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if not file.exists():
        return [Row(name, f"its process ended with {done.returncode}", 0, 1, 0.0)]
    return [Row(**row) for row in json.loads(file.read_text())]


def several(names: Sequence[str], jobs: int, report: Report, file: Path) -> None:
    """Run so many proofs at a time: some wait more than they compute, and some use one processor only.

    The report is written anew when one has ended: what hours have shown outlives a run that is broken off.
    """
    with ThreadPoolExecutor(jobs) as pool, tempfile.TemporaryDirectory() as folder:
        running = {pool.submit(apart, name, Path(folder)): name for name in names}
        ended: dict[str, list[Row]] = {}
        for one in as_completed(running):
            ended[running[one]] = one.result()
            report.rows = [row for name in names for row in ended.get(name, ())]
            write(report, file)


def write(report: Report, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(row) for row in report.rows], indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=PROOFS)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, default=Path("build/proof.json"))
    arguments = parser.parse_args()
    report, names = Report(), arguments.only or PROOFS
    if len(names) == 1:
        here(names[0], report)
    else:
        several(names, arguments.jobs, report, arguments.json)
    print(table(report))
    write(report, arguments.json)
    print(f"report: {arguments.json}")
    return 1 if any(row.lost for row in report.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
