"""The real supervisor over a worker with failpoints (``PAUSE_AT`` and ``KILL_AT``, see the driver's docstring)."""

from __future__ import annotations

import sys

from format_operator.sidecar import supervisor

if __name__ == "__main__":
    worker = [sys.executable, "-W", "error", "-m", "tests.sidecar.driver"]
    sys.exit(supervisor.main(worker_command=worker))
