"""``make proof``: every proof in its long form, a table of what was tried and what was lost, and a report.

    python -m tests.proof [--only NAME ...] [--json FILE]

Exit code 1 where anything was lost, or a proof could not be run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from tests.proof.report import Report

#: Modules beside this one with a function ``long(report)``, the quickest first.
PROOFS = (
    "disk_full",
    "limits",
    "soak",
    "kills",
    "flush_failures",
    "real_filesystems",
    "operator_side",
    "errors",
    "crash_states",
    "histories",
    "openers",
    "fuzzing",
    "hostile",
    "mutations",
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=PROOFS)
    parser.add_argument("--json", type=Path, default=Path("build/proof.json"))
    arguments = parser.parse_args()
    report, failed = Report(), []
    for name in arguments.only or PROOFS:
        long: Callable[[Report], None] = import_module(f"tests.proof.{name}").long
        report.progress(f"=== {name}")
        begun = time.monotonic()
        try:
            long(report)
        except Exception as error:
            failed.append(name)
            report.add(name, f"could not be run: {error}", 0, 0, time.monotonic() - begun)
    print(table(report))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([asdict(row) for row in report.rows], indent=2) + "\n")
    print(f"report: {arguments.json}")
    return 1 if failed or any(row.lost for row in report.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
