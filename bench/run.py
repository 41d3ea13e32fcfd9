"""`make bench`: every measurement, one after the other, with the machine it was made on.

    bench/run.py [--records N] [--skip NAME] [--json FILE]

Prints tables; the figures also go to ``build/bench.json``. Compare ratios, not seconds: machines differ, and
a shared one differs from itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from pathlib import Path
from typing import Any

import conversion
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
    parser.add_argument("--skip", action="append", default=[], choices=("conversion", "sidecar"))
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()

    results: dict[str, Any] = {"environment": environment()}
    print(", ".join(f"{name} {value}" for name, value in results["environment"].items()), "\n")
    if "conversion" not in arguments.skip:
        results["conversion"] = conversion.run(arguments.records)
        print(conversion.table(results["conversion"]), "\n")
    if "sidecar" not in arguments.skip:
        results["sidecar"] = sidecar.run()
        print(sidecar.table(results["sidecar"]), "\n")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"figures: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
