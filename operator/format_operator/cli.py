"""``storageformat inspect | plan | convert | verify | recover | undo | backups``: the store from a shell.

``--to FILE`` takes the very YAML that ``kubectl apply`` takes. Exit codes: 0 done · 1 failed, database as it
was · 2 usage · 3 refused, nothing touched · 4 needs a person, both copies kept · 75 try again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import cast

from format_operator import cli_backups
from format_operator.cli_options import (
    abort_on_signals,
    command,
    openers_option,
    quiet_option,
    target_options,
    wish,
)
from format_operator.cli_output import Printer, ProgressLines, formats_differ
from format_store import VERSION, convert, inspect, plan, recover, verify
from format_store.errors import StoreError

_PROCESSES = (
    "in a cluster: storageformat sidecar, storageformat gate, storageformat controller, storageformat webhook; for your "
    "manifests: storageformat render sidecar (each has its own --help)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    printer = Printer(arguments.output, color=sys.stdout.isatty())
    function = cast("Callable[[argparse.Namespace, Printer], int]", arguments.command)
    try:
        return function(arguments, printer)
    except StoreError as error:
        printer.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("storageformat: interrupted; the database is as it was", file=sys.stderr)
        return 75


def _inspect(arguments: argparse.Namespace, printer: Printer) -> int:
    found = inspect(arguments.path)
    printer.inspection(found)
    return 0


def _plan(arguments: argparse.Namespace, printer: Printer) -> int:
    wanted = wish(arguments)
    rehearse = not arguments.dry_run and arguments.rehearse
    with ProgressLines(sys.stderr, quiet=arguments.quiet or not rehearse) as progress:
        planned = plan(
            arguments.path,
            wanted.target,
            unmarked=wanted.unmarked,
            retention=wanted.retention,
            rehearse=rehearse,
            while_in_use=not arguments.dry_run and arguments.while_in_use,
            observer=progress,
            openers_unchecked=wanted.openers_unchecked,
            pickle_allow=arguments.pickle_allow,
            abort=abort_on_signals(),
        )
    printer.plan(planned)
    if planned.refusal is not None:
        return planned.refusal.exit_code
    return 3 if planned.obstacles else 0


def _convert(arguments: argparse.Namespace, printer: Printer) -> int:
    if arguments.dry_run:
        return _plan(arguments, printer)
    wanted = wish(arguments)
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        result = convert(
            arguments.path,
            wanted.target,
            unmarked=wanted.unmarked,
            retention=wanted.retention,
            observer=progress,
            abort=abort_on_signals(),
            openers_unchecked=wanted.openers_unchecked,
            pickle_allow=arguments.pickle_allow,
        )
    printer.result(result)
    return 0


def _recover(arguments: argparse.Namespace, printer: Printer) -> int:
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        result = recover(
            arguments.path,
            observer=progress,
            abort=abort_on_signals(),
            openers_unchecked=arguments.openers_unchecked,
        )
    printer.result(result)
    return 0


def _verify(arguments: argparse.Namespace, printer: Printer) -> int:
    expected = None
    if arguments.to is not None:
        expected = wish(arguments).target
        found = inspect(arguments.path).format
        if found is not None and not found.same_bytes_as(expected):
            raise formats_differ(arguments.path, found, expected)
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        rows = verify(
            arguments.path,
            expected=expected,
            pickle_allow=arguments.pickle_allow,
            observer=progress,
            abort=abort_on_signals(),
        )
    printer.document(
        {"path": arguments.path, "rows": rows, "sound": True}, f"sound: {rows:,} records decoded"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="storageformat",
        description="Crash-safe format conversion of embedded databases.",
        epilog=_PROCESSES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"storageformat {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command(commands, "inspect", _inspect, "show what a database is, without changing it")
    planning = command(
        commands, "plan", _plan, "show what convert would do and what stands in its way"
    )
    target_options(planning, required=True)
    quiet_option(planning)
    planning.add_argument(
        "--rehearse", action="store_true", help="do all of it on a throw-away copy, and measure it"
    )
    planning.add_argument(
        "--while-in-use",
        action="store_true",
        help="also beside an application that has it open: what is told is of this moment",
    )
    planning.set_defaults(dry_run=False)
    converting = command(commands, "convert", _convert, "back up, convert, verify, swap, clean up")
    target_options(converting, required=True)
    quiet_option(converting)
    converting.add_argument("--dry-run", action="store_true", help="the same as plan")
    verifying = command(commands, "verify", _verify, "decode every record and check the file")
    target_options(verifying, required=False)
    quiet_option(verifying)
    recovering = command(
        commands, "recover", _recover, "end what a crash left; nothing if nothing is pending"
    )
    quiet_option(recovering)
    openers_option(recovering)
    cli_backups.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
