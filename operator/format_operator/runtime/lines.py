"""How a line of a log is written: as text for people, or as one JSON object for programs.

2026-11-23T10:46:39.123Z info gate connected database=orders
{"time":"2026-11-23T10:46:39.123Z","level":"info","event":"gate connected","role":"sidecar","database":"orders"}

Standard library only, and little of it: gate and supervisor write their lines with this.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any, Final

TEXT: Final = "text"
JSON: Final = "json"
STYLES: Final = (TEXT, JSON)

_PLAIN: Final = re.compile(r"[\w./:@+,*-]+")


def moment(seconds: float) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def as_text(event: str, fields: Mapping[str, Any]) -> str:
    """Without time and level. Fields that say nothing are left out."""
    parts = [event]
    for key, value in _said(fields):
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        parts.append(f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text)}")
    return " ".join(parts)


def as_json(seconds: float, level: str, event: str, fields: Mapping[str, Any]) -> str:
    """The whole line; numbers stay numbers, anything else is what ``str`` makes of it."""
    line = {"time": moment(seconds), "level": level, "event": event}
    line |= {key: _plain(value) for key, value in _said(fields)}
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False)


def _said(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in fields.items() if value is not None and value != ""]


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    # Enums of text are told apart from text by nobody who reads JSON; lone surrogates are no UTF-8.
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
