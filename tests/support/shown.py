"""Consoles in a page: the commands, and what is shown below each, with ``…`` for what differs from time to time."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A line that a person types, and the lines that the page shows below it."""

    line: str
    shown: str


def consoles(page: str) -> list[Command]:
    """The commands of every console block, in their order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            found.append(Command(line, shown))
    return found


def differs(shown: str, said: str) -> str | None:
    """The first line shown that was not said, in this order; None when all were.

    Nothing shown is nothing promised. A line ``…`` stands for any lines, a ``…`` in a line for any characters, one blank for
    any number of them.
    """
    lines = [" ".join(line.split()) for line in said.splitlines()]
    at = 0
    anywhere = False
    for line in shown.splitlines():
        if line.strip() in {"…", ""}:
            anywhere = True
            continue
        parts = [re.escape(part.strip()) for part in " ".join(line.split()).split("…")]
        pattern = re.compile(r" *.*? *".join(parts))
        places = range(at, len(lines)) if anywhere else range(at, min(at + 1, len(lines)))
        place = next((one for one in places if pattern.fullmatch(lines[one])), None)
        if place is None:
            return f"not said: {line}"
        at, anywhere = place + 1, False
    if shown and not anywhere and any(lines[at:]):
        return f"not shown: {lines[at]}"
    return None
