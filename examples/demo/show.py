"""What the demo prints: a timeline, tables, checks. Colour only for a terminal that did not decline it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

_WHO_WIDTH = 9
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Show:
    """Prints to stdout and counts the seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.failures: list[str] = []
        self._colourful = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def event(self, who: str, what: str, colour: str = "") -> None:
        """A line of the timeline."""
        moment = self._paint(f"{self.seconds:5.1f} s", "dim")
        self._print(
            f"{moment}  {self._paint(f'{who:<{_WHO_WIDTH}}', 'cyan')} {self._paint(what, colour)}"
        )

    def heading(self, text: str) -> None:
        self._print("\n" + self._paint(text, "bold"))

    def text(self, text: str) -> None:
        """Indented as it is."""
        for line in text.splitlines():
            self._print(f"  {line}".rstrip())

    def check(self, holds: bool, what: str, why_not: str = "") -> None:
        """Something that has to be so. What is not is remembered, and printed with the reason."""
        if holds:
            self._print(f"  {self._paint('ok', 'green')}      {what}")
            return
        text = f"{what}: {why_not}" if why_not else what
        self.failures.append(text)
        self._print(f"  {self._paint('FAILED', 'red')}  {text}")

    def closing(self, text: str, *, good: bool) -> None:
        self._print("\n" + self._paint(text, "green" if good else "red"))

    def _paint(self, text: str, colour: str) -> str:
        if not colour or not self._colourful:
            return text
        return f"\033[{_COLOURS[colour]}m{text}\033[0m"

    @staticmethod
    def _print(text: str) -> None:
        print(text, flush=True)


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Columns as wide as they have to be; those of ``right`` are numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def readable(size: float) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,.0f} bytes"
