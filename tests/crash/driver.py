"""One conversion, recovery or way back in a process of its own, for tests that kill it.

    driver.py convert|recover|undo|restore|rehearse|delete|prune PATH [--to JSON] [--unmarked JSON]
              [--retain SECONDS] [--backup ID] [--without-hard-links]
              [--failpoint NAME ACTION] [--trace FILE] [--told CODE]
    driver.py --serve

ACTION: ``kill`` (SIGKILL to itself), ``exit`` an error of an errno's name (``ENOSPC``), ``stop`` (creates
PATH.stopped and waits for SIGUSR1), ``opened`` (from here on somebody waits for the file that was at PATH in the
beginning, as far as leases tell) or ``closed`` (no longer). The exit code is the store's; the result, or the error, is
printed as JSON. ``--told``: the error with this exit code is what is expected, and the exit code is 0.

``--serve`` does many, each in a child of its own: an interpreter that has loaded everything starts in no time.
Each line of stdin is a list of arguments. The child stops itself before it begins, its number is printed; when
it has ended, its exit code is. An empty list ends the server, and so does the end of stdin. Of the first line
there are no child and no number: it is done here, so that what is loaded on first use is loaded.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from format_store import (
    Failpoints,
    Format,
    Retention,
    convert,
    delete_backup,
    durable,
    lease,
    plan,
    prune_backups,
    recover,
    restore_backup,
    undo,
)
from format_store.errors import StoreError

# So that a tracer that is not its ancestor may attach, where the kernel restricts that.
PR_SET_PTRACER = 0x59616D61
PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


def action(name: str, path: str) -> Callable[[], None]:
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def stop() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        Path(f"{path}.stopped").touch()
        signal.sigwait({signal.SIGUSR1})

    inode = os.stat(path).st_ino if name == "opened" else 0
    held = lease.WriteLease.held

    def opened() -> None:
        told = lambda self: self.stat().st_ino != inode and held(self)  # noqa: E731
        lease.WriteLease.held = told  # type: ignore[method-assign]

    def closed() -> None:
        lease.WriteLease.held = held  # type: ignore[method-assign]

    def fail() -> None:
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number))

    known = {"kill": kill, "stop": stop, "opened": opened, "closed": closed}
    return known.get(name, fail)


def rehearse(arguments: argparse.Namespace, target: Format, failpoints: Failpoints) -> Any:
    planned = plan(arguments.path, target, rehearse=True, failpoints=failpoints)
    if planned.refusal is not None:
        raise planned.refusal
    return planned


def prune(arguments: argparse.Namespace) -> Any:
    following = prune_backups(arguments.path)
    return SimpleNamespace(to_dict=lambda: {"following": following})


def without_hard_links() -> None:
    """As on a filesystem that has none."""
    for name in ("link", "has_hard_links"):
        setattr(durable, name, lambda *_: False)


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
    "prune": lambda given, *_: prune(given),
}


def main(words: Sequence[str]) -> int:
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
    parser.add_argument("--told", type=int)
    parser.add_argument("--without-hard-links", action="store_true")
    arguments = parser.parse_args(words)
    if arguments.without_hard_links:
        without_hard_links()

    reached: list[str] = []
    failpoints = Failpoints(
        {name: action(what, arguments.path) for name, what in arguments.failpoint},
        trace=reached.append,
    )
    target = Format.from_spec(arguments.to)
    unmarked = (Format.from_spec(arguments.unmarked),)
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
        return 0 if error.exit_code == arguments.told else error.exit_code
    finally:
        if arguments.trace:
            arguments.trace.write_text("\n".join(reached))
    print(json.dumps(result.to_dict()))
    return 0


def serve() -> int:
    requests, answers = os.dup(0), os.dup(1)
    # A child reports to whoever reads the errors; it has no business with requests and answers.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with open(requests) as lines, open(answers, "w", buffering=1) as out:
        code = main(json.loads(next(lines)))
        print(code, file=out)
        for line in lines:
            child = os.fork()
            if child == 0:
                os.close(requests)
                os.close(answers)
                ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                sys.stdout.flush()
                os._exit(main(json.loads(line)))
            os.waitpid(child, os.WUNTRACED)
            print(child, file=out)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=out)
    return 0


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1:] == ["--serve"] else main(sys.argv[1:]))
