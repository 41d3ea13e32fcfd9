"""What the command line prints: documents, tables, errors with their hint, progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Self

import yaml

from format_store import (
    Backup,
    Format,
    Inspection,
    Observer,
    Outcome,
    Phase,
    Plan,
    Recovery,
    Result,
)
from format_store.errors import MarkerMismatch, StoreError

_BAR_WIDTH = 28
_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 5.0


class Printer:
    """Prints one command's answer as a table for people, or as JSON or YAML for programs."""

    def __init__(self, output: str, *, color: bool) -> None:
        self._output = output
        self._color = color

    def document(self, document: dict[str, Any], table: str) -> None:
        if self._output == "json":
            print(json.dumps(document, indent=2))
        elif self._output == "yaml":
            print(yaml.safe_dump(document, sort_keys=False).rstrip())
        else:
            print(table)

    def error(self, error: StoreError) -> None:
        """The error goes to stderr for people; with -o json or yaml it is the document as well."""
        if self._output != "table":
            document = {
                "error": {
                    "reason": error.reason,
                    "message": str(error),
                    "hint": error.hint,
                    "exitCode": error.exit_code,
                }
            }
            self.document(document, "")
        print(f"storageformat: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}", file=sys.stderr)

    def inspection(self, found: Inspection) -> None:
        rows = [("path", found.path), ("state", found.state)]
        if found.format is not None and found.marker is not None:
            rows.append(("format", f"{found.format}, since {found.marker.converted_at}"))
        rows.append(("size", size(found.size)))
        if found.journal_mode:
            rows.append(("journal", f"{found.journal_mode}, pages of {found.page_size} bytes"))
        rows += [("table", f"{name}: {count:,} rows") for name, count in found.tables]
        rows += [
            ("pending", f"{identity} (storageformat recover ends it)") for identity in found.pending
        ]
        rows += [("backup", backup_line(backup)) for backup in found.backups]
        if found.note:
            rows.append(("note", found.note))
        self.document(found.to_dict(), aligned(rows))

    def plan(self, planned: Plan) -> None:
        rows = [("path", planned.path), ("action", planned.action)]
        if planned.source is not None:
            rows.append(("from", str(planned.source)))
        rows.append(("to", str(planned.target)))
        rows += [("table", f"{name}: {count:,} rows") for name, count in planned.tables]
        rows.append(("size", size(planned.size)))
        if planned.in_use:
            rows.append(
                ("in use", "another process has it open; a conversion waits until it has closed it")
            )
        rows += [
            ("step", f"{number}. {text}") for number, text in enumerate(planned.steps, start=1)
        ]
        if planned.bytes_needed:
            kept = f", {size(planned.bytes_kept)} stay as a backup" if planned.bytes_kept else ""
            needed, free = size(planned.bytes_needed), size(planned.bytes_available)
            rows.append(("space", f"needs {needed} meanwhile, {free} free{kept}"))
        if planned.estimate is not None:
            told = planned.estimate
            rows += [("time", f"about {told.seconds:,.1f} s, an estimate"), ("", told.basis)]
        if planned.rehearsal is not None:
            done = planned.rehearsal
            sizes = f"{size(done.bytes_before)} -> {size(done.bytes_after)}"
            rows += [
                (
                    "rehearsed",
                    f"{done.rows:,} rows in {done.seconds:,.2f} s, each verified; {sizes}",
                ),
                ("", f"the copy took {done.copy_seconds:,.2f} s and is gone"),
            ]
        rows += [
            ("pending", f"{identity} would be recovered first") for identity in planned.pending
        ]
        rows += [
            ("obstacle", f"table {found.table!r}, key {found.key}: {found.what}")
            for found in planned.obstacles
        ]
        if planned.refusal is not None:
            rows += [("refused", str(planned.refusal)), ("", planned.refusal.hint)]
        self.document(planned.to_dict(), aligned(rows))

    def result(self, result: Result) -> None:
        rows = [("path", result.path), ("outcome", str(result.outcome))]
        if result.source is not None:
            rows.append(("from", str(result.source)))
        if result.target is not None:
            rows.append(("to", str(result.target)))
        if result.outcome is Outcome.ABSENT:
            rows.append(("note", "there is no such file; nothing was made"))
        if result.outcome is Outcome.RESTORED:
            rows.append(("verified", "byte for byte the backup; what was there is a backup now"))
        elif result.rows:
            rows.append(("rows", f"{result.rows:,}, each verified"))
        if result.conversion_id is not None:
            rows.append(("size", f"{size(result.bytes_before)} -> {size(result.bytes_after)}"))
        rows += [("recovered", f"{found.outcome}: {found.detail}") for found in result.recoveries]
        if result.backup is not None:
            rows.append(("backup", backup_line(result.backup)))
        rows.append(("time", f"{result.seconds:.2f} s"))
        self.document(result.to_dict(), aligned(rows))


def backups_table(backups: Sequence[Backup]) -> str:
    """One line for each backup, and one for what there is to say of it."""
    if not backups:
        return "no backups"
    lines = [("id", "made at", "size", "rows", "kept", "sound", "format")]
    for backup in backups:
        sound = {None: "not checked", True: "yes", False: "NO"}[backup.sound]
        lines.append(
            (
                backup.conversion_id,
                backup.created_at or "unknown",
                size(backup.size),
                "" if backup.rows is None else f"{backup.rows:,}",
                kept(backup),
                sound,
                str(backup.source_format or "unknown")
                + (f" ({backup.note})" if backup.note else ""),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


class ProgressLines(Observer):
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: IO[str], *, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._terminal = stream.isatty()
        self._phase = Phase.IDLE
        self._drawn = 0.0
        self._open_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_line()

    def phase(self, phase: Phase) -> None:
        self._phase = phase
        self._drawn = 0.0
        if phase is not Phase.IDLE:
            self._draw(str(phase))

    def progress(self, done: int, total: int) -> None:
        pause = _REDRAW_SECONDS if self._terminal else _LINE_SECONDS
        if time.monotonic() - self._drawn < pause and done < total:
            return
        self._drawn = time.monotonic()
        share = done / total if total else 1.0
        filled = round(share * _BAR_WIDTH)
        bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] " if self._terminal else ""
        self._draw(f"{self._phase} {bar}{share:4.0%} {done:,} of {total:,} rows")

    def recovered(self, recovery: Recovery) -> None:
        self._end_line()
        self._draw(f"recovered ({recovery.outcome}): {recovery.detail}")
        self._end_line()

    def _draw(self, text: str) -> None:
        if self._quiet:
            return
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._open_line = True
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def _end_line(self) -> None:
        if self._open_line:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open_line = False


def aligned(rows: list[tuple[str, str]]) -> str:
    """Two columns, the first as wide as its widest word."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in rows)


def size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def backup_line(backup: Backup) -> str:
    return f"{backup.path}, {size(backup.size)}, of {backup.created_at}, {kept(backup)}"


def kept(backup: Backup) -> str:
    return "pinned" if backup.pinned else f"until {backup.retain_until}"


def formats_differ(path: str, found: Format, expected: Format) -> MarkerMismatch:
    return MarkerMismatch(
        f"is {found}, not {expected}",
        operation="verify",
        path=path,
        hint="Nothing was touched. Leave --to out to verify it in the format that its marker tells.",
    )
