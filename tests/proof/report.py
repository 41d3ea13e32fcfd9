"""What the proofs have tried and found: rows of one table, and a line now and then while they run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(frozen=True)
class Row:
    """``lost`` counts cases in which something that was promised did not hold: it must be 0."""

    proof: str
    what: str
    tried: int
    lost: int
    seconds: float
    note: str = ""


@dataclass
class Report:
    """Collects rows; tells them, and progress, to ``stream``."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    rows: list[Row] = field(default_factory=list)

    def add(
        self, proof: str, what: str, tried: int, lost: int, seconds: float, note: str = ""
    ) -> None:
        self.rows.append(Row(proof, what, tried, lost, seconds, note))
        self.progress(
            f"{proof}: {what}: {tried} tried, {lost} lost, {seconds:.0f} s {note}".rstrip()
        )

    def progress(self, text: str) -> None:
        print(text, file=self.stream, flush=True)
