"""``history.jsonl``: the last conversions and recoveries of a database, with totals since its beginning.

Every line carries the totals as they were then, so that the last readable line alone tells them and the
file can be bounded. An entry is identified by its kind and conversion: recording one twice (a crash lay
between the entry and the clean-up) counts once.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from format_store import clock, durable, errors
from format_store.layout import Layout

MAX_ENTRIES = 100
#: What the lines before the last may have together, formats included: those with migrations can be large.
MAX_BYTES = 1 << 18
#: Larger than with two formats of a million characters in its last line it cannot be.
_LIMIT = 1 << 25
_FORMATS = ("source", "target")

TOTALS = (
    "conversions.succeeded",
    "conversions.failed",
    "conversions.aborted",
    "backups.created",
    "recoveries.discarded",
    "recoveries.completed",
    "recoveries.restored",
    "recoveries.cleaned",
    "recoveries.failed",
)


@dataclass(frozen=True)
class History:
    """What is remembered. ``entries`` are oldest first; times RFC 3339 in UTC."""

    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOTALS, 0))
    entries: tuple[dict[str, Any], ...] = ()

    def _last(self, kind: str, **having: str) -> dict[str, Any] | None:
        for entry in reversed(self.entries):
            if entry["kind"] == kind and all(
                entry.get(key) == value for key, value in having.items()
            ):
                found: dict[str, Any] = entry
                return found
        return None

    @property
    def last_conversion(self) -> dict[str, Any] | None:
        return self._last("conversion")

    @property
    def last_success_at(self) -> str | None:
        entry = self._last("conversion", result="succeeded")
        return str(entry["at"]) if entry else None

    @property
    def last_recovery_at(self) -> str | None:
        entry = self._last("recovery")
        return str(entry["at"]) if entry else None

    @property
    def last_recovery_outcome(self) -> str | None:
        entry = self._last("recovery")
        return str(entry["outcome"]) if entry else None


def read(path: str | os.PathLike[str]) -> History:
    """The history of the database at ``path``; lines that cannot be read are passed over."""
    layout = Layout.of(path)
    try:
        return _read(layout)
    except OSError as error:
        raise errors.from_os_error(error, operation="read history", path=layout.history) from error


def _read(layout: Layout) -> History:
    try:
        data = durable.read_file(layout.history, _LIMIT) or b""
    except FileNotFoundError:
        return History()
    entries = [entry for entry in map(_entry, data.splitlines()) if entry is not None]
    totals = dict.fromkeys(TOTALS, 0)
    if entries:
        totals |= {key: entries[-1]["totals"].get(key, 0) for key in TOTALS}
    return History(totals, tuple(entries))


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not {"kind", "at", "totals"} <= entry.keys():
        return None
    totals = entry["totals"]
    if not isinstance(totals, dict) or not all(isinstance(count, int) for count in totals.values()):
        return None
    return entry


def record(
    layout: Layout, kind: str, conversion_id: str, counts: tuple[str, ...], **details: Any
) -> None:
    """Append one entry and add one to each total in ``counts``, durably and once per conversion.

    Raises OSError.
    """
    history = _read(layout)
    identity = (kind, conversion_id, list(counts))
    if any(
        (entry["kind"], entry.get("conversionID"), entry.get("counts")) == identity
        for entry in history.entries
    ):
        return
    totals = dict(history.totals)
    for name in counts:
        totals[name] += 1
    entry = {
        "kind": kind,
        "conversionID": conversion_id,
        "at": clock.now(),
        **details,
        "counts": list(counts),
        "totals": totals,
    }
    durable.write_file(layout.history, "".join(_lines([*history.entries, entry])).encode())


def _lines(entries: list[dict[str, Any]]) -> list[str]:
    """The last ones, as they are written. Where their formats are large, older ones are without."""
    *older, last = [_line(entry) for entry in entries[-MAX_ENTRIES:]]
    left = MAX_BYTES
    lines = [last]
    for entry, line in zip(reversed(entries[-MAX_ENTRIES:-1]), reversed(older), strict=True):
        left -= len(line)
        bare = {key: value for key, value in entry.items() if key not in _FORMATS}
        lines.append(line if left >= 0 else _line(bare))
    return lines[::-1]


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True) + "\n"
