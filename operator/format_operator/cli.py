"""``storageformat inspect | plan | convert | verify | recover PATH``: the store from a shell.

``--to FILE`` takes the very YAML that ``kubectl apply`` takes. Exit codes: 0 done · 1 failed, database as it
was · 2 usage · 3 refused, nothing touched · 4 needs a person, both copies kept · 75 try again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from format_operator.api.models import StorageFormat
from format_operator.api.names import API_VERSION
from format_operator.api.schema import InvalidObject
from format_operator.cli_output import Printer, ProgressLines, formats_differ
from format_store import (
    PLAIN_SQLITEDICT,
    VERSION,
    Abort,
    Format,
    Retention,
    convert,
    inspect,
    plan,
    recover,
    verify,
)
from format_store.errors import StoreError, UsageError

_PROCESSES = (
    "in a cluster: storageformat sidecar, storageformat gate, storageformat controller; for your "
    "manifests: storageformat render sidecar (each has its own --help)"
)


_STOPPING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Wish:
    """What a StorageFormat's file asks for."""

    target: Format
    unmarked: tuple[Format, ...]
    retention: Retention
    openers_unchecked: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    printer = Printer(arguments.output, color=sys.stdout.isatty())
    command = cast("Callable[[argparse.Namespace, Printer], int]", arguments.command)
    try:
        return command(arguments, printer)
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
    wish = _wish(arguments)
    planned = plan(
        arguments.path,
        wish.target,
        unmarked=wish.unmarked,
        openers_unchecked=wish.openers_unchecked,
        pickle_allow=arguments.pickle_allow,
        abort=_abort_on_signals(),
    )
    printer.plan(planned)
    if planned.refusal is not None:
        return planned.refusal.exit_code
    return 3 if planned.obstacles else 0


def _convert(arguments: argparse.Namespace, printer: Printer) -> int:
    if arguments.dry_run:
        return _plan(arguments, printer)
    wish = _wish(arguments)
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        result = convert(
            arguments.path,
            wish.target,
            unmarked=wish.unmarked,
            retention=wish.retention,
            observer=progress,
            abort=_abort_on_signals(),
            openers_unchecked=wish.openers_unchecked,
            pickle_allow=arguments.pickle_allow,
        )
    printer.result(result)
    return 0


def _recover(arguments: argparse.Namespace, printer: Printer) -> int:
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        result = recover(
            arguments.path,
            observer=progress,
            abort=_abort_on_signals(),
            openers_unchecked=arguments.openers_unchecked,
        )
    printer.result(result)
    return 0


def _verify(arguments: argparse.Namespace, printer: Printer) -> int:
    expected = None
    if arguments.to is not None:
        expected = _wish(arguments).target
        found = inspect(arguments.path).format
        if found is not None and not found.same_bytes_as(expected):
            raise formats_differ(arguments.path, found, expected)
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        rows = verify(
            arguments.path,
            expected=expected,
            pickle_allow=arguments.pickle_allow,
            observer=progress,
            abort=_abort_on_signals(),
        )
    printer.document(
        {"path": arguments.path, "rows": rows, "sound": True}, f"sound: {rows:,} records decoded"
    )
    return 0


def _wish(arguments: argparse.Namespace) -> Wish:
    declared = _read(Path(arguments.to))
    try:
        named = (
            declared.spec.format(arguments.format)
            if arguments.format
            else declared.spec.target_format
        )
    except (KeyError, LookupError) as error:
        names = ", ".join(known.name for known in declared.spec.formats)
        raise _usage(
            arguments.to, f"there is no format {arguments.format!r}; there is {names}"
        ) from error
    unmarked = tuple(Format.from_spec(known.to_spec()) for known in declared.spec.unmarked_formats)
    return Wish(
        target=Format.from_spec(named.to_spec()),
        unmarked=unmarked or (PLAIN_SQLITEDICT,),
        retention=Retention(declared.spec.backup.retain_for, declared.spec.backup.pinned),
        openers_unchecked=declared.spec.database.openers_unchecked or arguments.openers_unchecked,
    )


def _read(file: Path) -> StorageFormat:
    try:
        documents = [
            document
            for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
            if isinstance(document, dict) and document.get("kind") == "StorageFormat"
        ]
    except OSError as error:
        raise _usage(file, f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _usage(file, f"is not YAML: {error}") from error
    if len(documents) != 1:
        raise _usage(file, f"holds {len(documents)} objects of kind StorageFormat, one is needed")
    version = documents[0].get("apiVersion")
    if version != API_VERSION:
        raise _usage(file, f"apiVersion: is {version!r}, this tool knows {API_VERSION}")
    try:
        return StorageFormat.from_object(documents[0], strict=True)
    except InvalidObject as error:
        raise _usage(file, str(error)) from error


def _usage(file: str | Path, message: str) -> UsageError:
    return UsageError(
        message,
        operation="read",
        path=str(file),
        hint="Nothing was touched. --to takes the YAML of one StorageFormat, as kubectl apply does.",
    )


def _abort_on_signals() -> Abort:
    """SIGTERM and SIGINT stop a conversion in order: the staging copy is discarded, exit code 75.

    By a pipe and a thread: Python's own handlers run in the main thread only, and not before a statement of
    SQLite that may take long has come to its end there.
    """
    abort = Abort()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _STOPPING:
        signal.signal(number, lambda _number, _frame: None)

    def wait() -> None:
        while received := os.read(reader, 1):
            if received[0] in _STOPPING:
                abort.request()

    threading.Thread(target=wait, daemon=True).start()
    return abort


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="storageformat",
        description="Crash-safe format conversion of embedded databases.",
        epilog=_PROCESSES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"storageformat {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(commands, "inspect", _inspect, "show what a database is, without changing it")
    planning = _command(
        commands, "plan", _plan, "show what convert would do and what stands in its way"
    )
    _target_options(planning, required=True)
    converting = _command(commands, "convert", _convert, "back up, convert, verify, swap, clean up")
    _target_options(converting, required=True)
    _quiet_option(converting)
    converting.add_argument("--dry-run", action="store_true", help="the same as plan")
    verifying = _command(commands, "verify", _verify, "decode every record and check the file")
    _target_options(verifying, required=False)
    _quiet_option(verifying)
    recovering = _command(
        commands, "recover", _recover, "end what a crash left; nothing if nothing is pending"
    )
    _quiet_option(recovering)
    _openers_option(recovering)
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace, Printer], int], help_text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text.capitalize() + ".", allow_abbrev=False
    )
    parser.add_argument("path", metavar="PATH", help="the database file")
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table", help="default: table"
    )
    parser.set_defaults(command=function)
    return parser


def _target_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--to", metavar="FILE", required=required, help="the YAML of a StorageFormat"
    )
    parser.add_argument("--format", metavar="NAME", help="another of its formats than the target")
    parser.add_argument(
        "--pickle-allow",
        metavar="MODULE.CLASS",
        action="append",
        default=[],
        help="a data class of the standard library that pickled values may contain; repeatable",
    )
    _openers_option(parser)


def _openers_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--openers-unchecked",
        action="store_true",
        help="nothing else opens the file: go on where the filesystem has no leases",
    )


def _quiet_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


if __name__ == "__main__":
    sys.exit(main())
