"""`make bench`: every measurement, one after the other, with the machine it was made on.

    bench/run.py [--records N] [--large N] [--repetitions N] [--skip NAME] [--json FILE]

Prints tables; the figures also go to ``build/bench.json``, and a plot beside it. Compare ratios, not seconds:
machines differ, and a shared one differs from itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import conversion
import goals
import sidecar


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=10_000_000, help="0: without")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--skip", action="append", default=[], choices=("conversion", "sidecar"))
    parser.add_argument(
        "--folder", type=Path, help="where the databases lie; needs 12 GB for the large one"
    )
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"environment": environment()}
    print(", ".join(f"{name} {value}" for name, value in results["environment"].items()), "\n")
    if "conversion" not in arguments.skip:
        with tempfile.TemporaryDirectory(
            prefix="storageformat-bench-", dir=arguments.folder
        ) as name:
            folder = Path(name)
            results["conversion"] = conversion.run(arguments.records, arguments.repetitions, folder)
            results["large"] = (
                conversion.large(arguments.large, folder) if arguments.large else None
            )
        found = goals.goals(results["conversion"], results["large"])
        results["goals"] = [{**goal._asdict(), "met": goal.met} for goal in found]
        print(goals.table(results["conversion"], found), "\n")
        picture = arguments.json.with_suffix(".svg")
        goals.plot(found, picture)
        print(f"plot: {picture}")
    if "sidecar" not in arguments.skip:
        results["sidecar"] = sidecar.run()
        print(sidecar.table(results["sidecar"]), "\n")
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"figures: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
