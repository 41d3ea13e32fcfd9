"""One conversion, recovery or way back in a process of its own, for tests that kill it.

    driver.py convert|recover|undo|restore|rehearse|delete PATH [--to JSON] [--unmarked JSON]
              [--retain SECONDS] [--backup ID]
              [--failpoint NAME ACTION] [--trace FILE] [--mark]

ACTION: ``kill`` (SIGKILL to itself), ``exit`` an error of an errno's name (``ENOSPC``), or ``stop`` (creates
PATH.stopped and waits for SIGUSR1). ``--mark`` announces the beginning to strace by a system call.
The exit code is the store's; the result, or the error, is printed as JSON.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Loaded before the mark: what a conversion does to files is of interest, not how Python finds its modules.
import format_store.codecs.pool
import format_store.engines.sqlitedict.engine
import format_store.keys
import format_store.store  # noqa: F401 - loaded before the mark
from format_store import (
    Failpoints,
    Format,
    Retention,
    convert,
    delete_backup,
    plan,
    recover,
    restore_backup,
    undo,
)
from format_store.errors import StoreError

MARK = "/storageformat-test-begins-here"


def action(name: str, path: str) -> Callable[[], None]:
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def stop() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        Path(f"{path}.stopped").touch()
        signal.sigwait({signal.SIGUSR1})

    def fail() -> None:
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number))

    return {"kill": kill, "stop": stop}.get(name, fail)


def rehearse(arguments: argparse.Namespace, target: Format, failpoints: Failpoints) -> Any:
    planned = plan(arguments.path, target, rehearse=True, failpoints=failpoints)
    if planned.refusal is not None:
        raise planned.refusal
    return planned


OTHERS: dict[str, Callable[[argparse.Namespace, Format, Failpoints], Any]] = {
    "recover": lambda given, _, failpoints: recover(given.path, failpoints=failpoints),
    "undo": lambda given, _, failpoints: undo(given.path, failpoints=failpoints),
    "restore": lambda given, _, failpoints: restore_backup(
        given.path, given.backup, failpoints=failpoints
    ),
    "delete": lambda given, _, failpoints: delete_backup(
        given.path, given.backup, failpoints=failpoints
    ),
    "rehearse": rehearse,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("operation", choices=("convert", *OTHERS))
    parser.add_argument("path")
    parser.add_argument(
        "--to", type=json.loads, default={"sqlitedict": {"keyEncoding": "hierarchical"}}
    )
    parser.add_argument("--unmarked", type=json.loads, default={"sqlitedict": {}})
    parser.add_argument("--retain", type=float, default=0.0)
    parser.add_argument("--backup", default="")
    parser.add_argument("--failpoint", nargs=2, action="append", default=[])
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--mark", action="store_true")
    arguments = parser.parse_args()

    reached: list[str] = []
    failpoints = Failpoints(
        {name: action(what, arguments.path) for name, what in arguments.failpoint},
        trace=reached.append,
    )
    target = Format.from_spec(arguments.to)
    unmarked = (Format.from_spec(arguments.unmarked),)
    if arguments.mark:
        os.access(MARK, os.F_OK)
    try:
        if arguments.operation == "convert":
            result: Any = convert(
                arguments.path,
                target,
                unmarked=unmarked,
                retention=Retention(arguments.retain),
                failpoints=failpoints,
            )
        else:
            result = OTHERS[arguments.operation](arguments, target, failpoints)
    except StoreError as error:
        print(json.dumps({"reason": error.reason, "message": str(error), "hint": error.hint}))
        return error.exit_code
    finally:
        if arguments.trace:
            arguments.trace.write_text("\n".join(reached))
    print(json.dumps(result.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
