"""A sidecar that takes any 404 for the absence of what it asked for: to show that the proof finds what that loses."""

from __future__ import annotations

import sys

from format_operator.sidecar import app, kube, supervisor

if __name__ == "__main__":
    if "--supervisor-fd" not in sys.argv:
        worker = [sys.executable, "-W", "error", "-m", "tests.proof.gullible"]
        sys.exit(supervisor.main(worker_command=worker))
    kube._names_object = lambda *_: True
    sys.exit(app.main())
