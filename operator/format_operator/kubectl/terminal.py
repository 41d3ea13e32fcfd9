"""What the screen can show: colours, characters, width. Pure but for ``of``, which looks at the stream."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Final

_CODES: Final[Mapping[str, str]] = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36",
}  # fmt: skip
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")
_DEFAULT_WIDTH: Final = 120
#: A column that gives way keeps so much.
_NARROWEST: Final = 12


@dataclass(frozen=True)
class Look:
    """How to draw: in which width, and with what. ``height``: None where nobody scrolls back."""

    width: int = _DEFAULT_WIDTH
    color: bool = False
    unicode: bool = True
    height: int | None = None

    def paint(self, text: str, *styles: str) -> str:
        """With these styles, where there are any."""
        codes = ";".join(_CODES[style] for style in styles if style)
        return f"\x1b[{codes}m{text}\x1b[0m" if codes and text and self.color else text

    def bar(self, share: float, width: int) -> str:
        """A progress bar."""
        full, empty = ("█", "░") if self.unicode else ("#", ".")
        filled = min(width, max(0, int(share * width)))
        return full * filled + empty * (width - filled)

    @property
    def dot(self) -> str:
        return "●" if self.unicode else "*"

    @property
    def sep(self) -> str:
        return " · " if self.unicode else " - "

    @property
    def arrow(self) -> str:
        return "→" if self.unicode else "->"

    def cut(self, text: str, width: int) -> str:
        """At most so wide: what stands in the middle goes, names differ at their ends."""
        if len(text) <= width:
            return text
        dots = "…" if self.unicode else ".."
        keep = max(1, width - len(dots))
        tail = keep * 2 // 3
        return text[: keep - tail] + dots + text[len(text) - tail :]

    def wrap(self, text: str, indent: int) -> Iterator[str]:
        """Lines of at most the width, all indented."""
        width = max(20, self.width - indent)
        for line in textwrap.wrap(text, width, break_on_hyphens=False) or [""]:
            yield " " * indent + line


def of(stream: IO[str]) -> Look:
    """What that stream can show. ``NO_COLOR`` and ``TERM=dumb`` are heard."""
    terminal = stream.isatty()
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    columns, lines = shutil.get_terminal_size((_DEFAULT_WIDTH, 24))
    return Look(
        width=max(60, columns) if terminal or "COLUMNS" in os.environ else _DEFAULT_WIDTH,
        color=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        unicode=encoding.startswith("utf"),
        height=lines if terminal else None,
    )


def safe(text: object) -> str:
    """One line without control characters: what a pod reports must not steer somebody's terminal."""
    return _CONTROL.sub(" ", str(text)).strip()


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" or count >= 100 else f"{count:,.1f} {unit}"


def age(then: str | None, now: datetime) -> str:
    """How long ago, as kubectl writes it; empty where nobody knows."""
    if not then:
        return ""
    try:
        seconds = int((now - datetime.fromisoformat(then)).total_seconds())
    except (ValueError, TypeError):
        return ""
    return duration(max(0, seconds))


def duration(seconds: float) -> str:
    """As kubectl writes ages."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 or float(seconds).is_integer() else f"{seconds:.1f}s"


def width(rows: Sequence[Sequence[str]]) -> int:
    """How wide a table of them is where nothing is cut."""
    return sum(_widths(rows)) + 2 * (len(rows[0]) - 1)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def table(
    look: Look,
    rows: Sequence[Sequence[str]],
    styles: Sequence[Sequence[Sequence[str]]],
    *,
    shrink: int = 0,
) -> list[str]:
    """Aligned columns; ``rows[0]`` is the head. The column ``shrink`` gives way where the width is too small."""
    widths = _widths(rows)
    over = width(rows) - look.width
    if over > 0:
        widths[shrink] = max(min(_NARROWEST, widths[shrink]), widths[shrink] - over)
    lines = []
    for row, style in zip(rows, styles, strict=True):
        cells = [
            look.paint(look.cut(cell, room), *painted) + " " * (room - len(cell))
            for cell, room, painted in zip(row, widths, style, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def utf8() -> None:
    """A terminal that cannot show a character shows another, and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
