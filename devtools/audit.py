"""Known vulnerabilities of what is shipped: ``python -m audit``, with pip-audit and PyPI's advisories.

Exit code 1 where a dependency has one that is not accepted below, or one that is accepted and is gone. Where no advisory
database can be reached nothing is known: that is said, and fails with ``--require``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
#: Advisories that we live with, and why that is right.
ACCEPTED: Final = {
    "PYSEC-2026-1939": (
        "sqlitedict unpickles whatever it finds. We never let it: values are read by our own restricted unpickler, in a "
        "process of its own; helping people to leave pickles is what this project is for."
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--require", action="store_true", help="fail where nothing can be known")
    required: bool = parser.parse_args().require
    dependencies = _audited()
    known = [one for one in dependencies if "skip_reason" not in one]
    if not known:
        print("audit: no advisory database could be reached; nothing is known", file=sys.stderr)
        return int(required)
    found, problems = judge(known)
    for problem in problems:
        print(f"audit: {problem}", file=sys.stderr)
    print(
        f"audit: {len(known)} of {len(dependencies)} packages, {len(found)} known advisories, {len(problems)} problems"
    )
    return int(bool(problems))


def judge(known: list[dict[str, Any]]) -> tuple[set[str], list[str]]:
    """The identities of all advisories that were found, and what is wrong about them, in words."""
    found, problems = set(), []
    for one in known:
        for advisory in one["vulns"]:
            names = {advisory["id"], *advisory["aliases"]}
            found |= names
            if not names & ACCEPTED.keys():
                fixed = ", ".join(advisory["fix_versions"]) or "no release"
                problems.append(
                    f"{one['name']} {one['version']}: {advisory['id']}, fixed in {fixed}"
                )
    problems += [
        f"{one} is accepted and no longer found: remove it"
        for one in sorted(ACCEPTED.keys() - found)
    ]
    return found, problems


def _audited() -> list[dict[str, Any]]:
    """pip-audit's answer for what the image contains. Raises CalledProcessError."""
    uv = str(ROOT / "devtools" / "uv")
    with tempfile.TemporaryDirectory() as folder:
        locked = Path(folder, "requirements.txt")
        export = [uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project"]
        subprocess.run(
            [*export, "--extra=operator", "--extra=otel", f"--output-file={locked}"],
            cwd=ROOT,
            check=True,
        )
        audit = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner=off"]
        # It exits with 1 for whatever it finds, and also for a database that it cannot reach.
        done = subprocess.run(
            [*audit, "--format=json", "--requirement", str(locked)],
            capture_output=True,
            text=True,
            check=False,
        )
    if not done.stdout:
        print(done.stderr, file=sys.stderr)
        return []
    answer: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return answer


if __name__ == "__main__":
    sys.exit(main())
