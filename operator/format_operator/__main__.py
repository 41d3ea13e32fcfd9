"""``python -m format_operator`` and ``storageformat``: picks the process, imports nothing else.

The gate has to start in a moment and the supervisor has to stay small, so each command's module is imported
when it is the one that was asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Final, cast

_PROCESSES: Final = {
    "controller": "format_operator.controller.app",
    "gate": "format_operator.gate",
    "render": "format_operator.render",
    "sidecar": "format_operator.sidecar.supervisor",
    "sidecar-worker": "format_operator.sidecar.app",
    "webhook": "format_operator.admission.app",
}
#: What the extra ``operator`` brings, of each process that cannot do without.
_EXTRA: Final = {
    "controller": ("kopf", "kubernetes", "prometheus_client"),
    "sidecar": ("aiohttp", "kopf", "prometheus_client"),
    "sidecar-worker": ("aiohttp", "kopf", "prometheus_client"),
    "webhook": ("aiohttp", "cryptography", "prometheus_client"),
}
_USAGE: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` begins with; everything that is no process of its own is the CLI's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    module = _PROCESSES.get(arguments[0]) if arguments else None
    if module is not None:
        # Before the supervisor starts: it would start a worker that cannot begin, again and again.
        missing = [name for name in _EXTRA.get(arguments[0], ()) if find_spec(name) is None]
        if missing:
            print(
                f"storageformat {arguments[0]}: needs {', '.join(missing)}, which the extra 'operator' "
                "brings: pip install 'storageformat-operator[operator]'",
                file=sys.stderr,
            )
            return _USAGE
        return _main_of(module)(arguments[1:])
    return _main_of("format_operator.cli")(arguments)


def _main_of(module: str) -> Callable[[Sequence[str]], int]:
    return cast("Callable[[Sequence[str]], int]", importlib.import_module(module).main)


if __name__ == "__main__":
    sys.exit(main())
