"""``storageformat undo`` and ``storageformat backups list|restore|pin|unpin|delete``: the way back."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from format_operator.cli_options import abort_on_signals, command, openers_option, quiet_option
from format_operator.cli_output import Printer, ProgressLines, backup_line, backups_table
from format_store import (
    Backup,
    delete_backup,
    list_backups,
    pin_backup,
    restore_backup,
    undo,
    unpin_backup,
)

_UNSOUND = 4


def add_commands(commands: Any) -> None:
    """Add ``undo`` and ``backups`` to the parser's commands."""
    undoing = command(
        commands, "undo", _undo, "convert back to the format before the last conversion"
    )
    undoing.description = (
        "Convert back to the format before the last conversion; everything written since stays."
    )
    undoing.add_argument(
        "--restore-backup",
        metavar="ID",
        help="instead: put this backup in the database's place, as it was",
    )
    undoing.add_argument(
        "--losing-later-writes",
        action="store_true",
        help="with --restore-backup: what was written since is in the database no more (it is kept as a backup)",
    )
    _allow_option(undoing)
    quiet_option(undoing)
    openers_option(undoing)
    group = commands.add_parser(
        "backups",
        help="list, restore, pin, unpin or delete the backups of a database",
        description="The old files that conversions and restorations kept.",
        allow_abbrev=False,
    )
    _add_backups(group.add_subparsers(title="commands", required=True, metavar="COMMAND"))


def _add_backups(commands: Any) -> None:
    listing = command(commands, "list", _list, "show what there is, and until when")
    listing.add_argument(
        "--verify", action="store_true", help="read each one, and compare it with its manifest"
    )
    openers_option(listing)
    restoring = command(
        commands, "restore", _restore, "put a backup in the database's place, as it was"
    )
    _id(restoring)
    quiet_option(restoring)
    openers_option(restoring)
    _id(command(commands, "pin", _pin, "keep a backup until it is unpinned"))
    unpinning = command(commands, "unpin", _unpin, "let a backup's time run, from now on")
    _id(unpinning)
    unpinning.add_argument(
        "--retain-for",
        metavar="SECONDS",
        type=float,
        help="default: as long as its conversion was asked to keep it",
    )
    deleting = command(
        commands, "delete", _delete, "delete a backup, once every row of the database was decoded"
    )
    _id(deleting)
    _allow_option(deleting)
    quiet_option(deleting)
    openers_option(deleting)


def _id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="as storageformat backups list shows it")


def _allow_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pickle-allow",
        metavar="MODULE.CLASS",
        action="append",
        default=[],
        help="a data class of the standard library that pickled values may contain; repeatable",
    )


def _undo(arguments: argparse.Namespace, printer: Printer) -> int:
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        result = undo(
            arguments.path,
            to_backup=arguments.restore_backup,
            losing_later_writes=arguments.losing_later_writes,
            observer=progress,
            abort=abort_on_signals(),
            openers_unchecked=arguments.openers_unchecked,
            pickle_allow=arguments.pickle_allow,
        )
    printer.result(result)
    return 0


def _list(arguments: argparse.Namespace, printer: Printer) -> int:
    found = list_backups(
        arguments.path,
        verify=arguments.verify,
        openers_unchecked=arguments.openers_unchecked,
    )
    printer.document(
        {"path": arguments.path, "backups": [backup.to_dict() for backup in found]},
        backups_table(found),
    )
    return _UNSOUND if any(backup.sound is False for backup in found) else 0


def _restore(arguments: argparse.Namespace, printer: Printer) -> int:
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        result = restore_backup(
            arguments.path,
            arguments.id,
            observer=progress,
            abort=abort_on_signals(),
            openers_unchecked=arguments.openers_unchecked,
        )
    printer.result(result)
    return 0


def _pin(arguments: argparse.Namespace, printer: Printer) -> int:
    return _tell(printer, arguments, pin_backup(arguments.path, arguments.id), "pinned")


def _unpin(arguments: argparse.Namespace, printer: Printer) -> int:
    backup = unpin_backup(arguments.path, arguments.id, retain_for=arguments.retain_for)
    return _tell(printer, arguments, backup, "unpinned")


def _delete(arguments: argparse.Namespace, printer: Printer) -> int:
    with ProgressLines(sys.stderr, quiet=arguments.quiet) as progress:
        backup = delete_backup(
            arguments.path,
            arguments.id,
            observer=progress,
            abort=abort_on_signals(),
            openers_unchecked=arguments.openers_unchecked,
            pickle_allow=arguments.pickle_allow,
        )
    return _tell(printer, arguments, backup, "deleted")


def _tell(printer: Printer, arguments: argparse.Namespace, backup: Backup, what: str) -> int:
    printer.document(
        {"path": arguments.path, "done": what, "backup": backup.to_dict()},
        f"{what}: {backup_line(backup)}",
    )
    return 0
