"""``python -m format_operator`` and ``storageformat``: picks the process, imports nothing else.

The gate has to start in a moment and the supervisor has to stay small, so each command's module is imported
when it is the one that was asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final, cast

_PROCESSES: Final = {
    "controller": "format_operator.controller.app",
    "gate": "format_operator.gate",
    "render": "format_operator.render",
    "sidecar": "format_operator.sidecar.supervisor",
    "sidecar-worker": "format_operator.sidecar.app",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` begins with; everything that is no process of its own is the CLI's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    module = _PROCESSES.get(arguments[0]) if arguments else None
    if module is not None:
        return _main_of(module)(arguments[1:])
    return _main_of("format_operator.cli")(arguments)


def _main_of(module: str) -> Callable[[Sequence[str]], int]:
    return cast("Callable[[Sequence[str]], int]", importlib.import_module(module).main)


if __name__ == "__main__":
    sys.exit(main())
