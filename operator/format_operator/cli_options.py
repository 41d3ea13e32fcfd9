"""What the commands have in common: options, what a StorageFormat's file asks for, and stopping on a signal."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from format_operator.api.models import StorageFormat
from format_operator.api.names import API_VERSION
from format_operator.api.schema import InvalidObject
from format_store import Abort, Format, Retention
from format_store.errors import UsageError

_STOPPING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Wish:
    """What a StorageFormat's file asks for."""

    target: Format
    unmarked: tuple[Format, ...]
    retention: Retention
    openers_unchecked: bool


def wish(arguments: argparse.Namespace) -> Wish:
    declared = _read(arguments.to)
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
    unmarked = declared.spec.unmarked_for(named)
    return Wish(
        target=Format.from_spec(named.to_spec()),
        unmarked=tuple(Format.from_spec(known.to_spec()) for known in unmarked),
        retention=Retention(declared.spec.backup.retain_for, declared.spec.backup.pinned),
        openers_unchecked=declared.spec.database.openers_unchecked or arguments.openers_unchecked,
    )


def _read(file: str) -> StorageFormat:
    try:
        text = sys.stdin.buffer.read().decode() if file == "-" else Path(file).read_text("utf-8")
        documents = [
            document
            for document in yaml.safe_load_all(text)
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


def _usage(file: str, message: str) -> UsageError:
    return UsageError(
        message,
        operation="read",
        path="standard input" if file == "-" else file,
        hint="Nothing was touched. --to takes the YAML of one StorageFormat, as kubectl apply does.",
    )


def abort_on_signals() -> Abort:
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


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace, Any], int], help_text: str
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


def target_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--to",
        metavar="FILE",
        required=required,
        help="the YAML of a StorageFormat; -: standard input",
    )
    parser.add_argument("--format", metavar="NAME", help="another of its formats than the target")
    parser.add_argument(
        "--pickle-allow",
        metavar="MODULE.CLASS",
        action="append",
        default=[],
        help="a data class of the standard library that pickled values may contain; repeatable",
    )
    openers_option(parser)


def openers_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--openers-unchecked",
        action="store_true",
        help="nothing else opens the file: go on where the filesystem has no leases",
    )


def quiet_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
