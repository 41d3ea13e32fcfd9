"""One conversion in a process of its own, which ends itself at a failpoint. Run as a script, not imported.

    python -P crash_child.py '{"import": [...], "path": …, "source": …, "target": …, "kill": NAME or null}'

Prints the failpoints that it passes, one a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys

given = json.loads(sys.argv[1])
sys.path[:] = given["import"]

from format_store import Failpoints, Format, convert  # noqa: E402 - from where the parent has it


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def passed(name: str) -> None:
    print(name, flush=True)  # noqa: T201 - this is what the parent reads


convert(
    given["path"],
    Format.from_spec(given["target"]),
    unmarked=[Format.from_spec(given["source"])],
    failpoints=Failpoints({given["kill"]: kill} if given["kill"] else {}, trace=passed),
)
