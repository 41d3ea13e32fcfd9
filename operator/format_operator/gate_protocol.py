"""What gate and sidecar say to each other over the unix socket in the volume they share.

One JSON object per line, each with the protocol's version ``v``. The gate speaks once, the sidecar whenever
its word changes:

    gate    → {"v": 1, "hello": "gate"}                              waits for every database of the pod
              {"v": 1, "hello": "gate", "databases": ["orders"]}     or for these
    sidecar → {"v": 1, "gate": "closed", "database": "orders", "reason": "Converting", "message": "…"}
              {"v": 1, "gate": "open", "message": "…"}               the app may start; the last line

The open connection itself is the message that matters most: as long as it stands and was not told ``open``,
the app cannot be running, and only then may a database be touched.

Standard library only: the gate must start in a moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

VERSION: Final = 1
DEFAULT_SOCKET: Final = "/run/storageformat/gate.sock"
MAX_LINE: Final = 64 * 1024


class ProtocolError(ValueError):
    """A line that neither side of this version says."""


@dataclass(frozen=True)
class Word:
    """What the sidecar last said: open, or closed and why."""

    is_open: bool
    reason: str = ""
    message: str = ""
    database: str = ""

    def __str__(self) -> str:
        if self.is_open:
            return f"gate=open message={json.dumps(self.message)}"
        about = f" database={self.database}" if self.database else ""
        return f"gate=closed{about} reason={self.reason} message={json.dumps(self.message)}"


def hello(databases: tuple[str, ...]) -> bytes:
    """The gate's only line."""
    body: dict[str, Any] = {"v": VERSION, "hello": "gate"}
    if databases:
        body["databases"] = list(databases)
    return _line(body)


def parse_hello(line: bytes) -> tuple[str, ...]:
    """The databases that a gate waits for; none named means all. Raises ProtocolError."""
    body = _parse(line)
    names = body.get("databases", [])
    if body.get("hello") != "gate" or not isinstance(names, list):
        raise ProtocolError(f"not a gate's greeting: {line[:200]!r}")
    return tuple(str(name) for name in names)


def word(value: Word) -> bytes:
    """The sidecar's line for it."""
    if value.is_open:
        return _line({"v": VERSION, "gate": "open", "message": value.message})
    body = {"v": VERSION, "gate": "closed", "reason": value.reason, "message": value.message}
    if value.database:
        body["database"] = value.database
    return _line(body)


def parse_word(line: bytes) -> Word:
    """The inverse of ``word``. Anything but a clear "open" is closed. Raises ProtocolError."""
    body = _parse(line)
    if body.get("gate") not in {"open", "closed"}:
        raise ProtocolError(f"neither open nor closed: {line[:200]!r}")
    return Word(
        body["gate"] == "open",
        str(body.get("reason", "")),
        str(body.get("message", "")),
        str(body.get("database", "")),
    )


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"not JSON: {line[:200]!r}") from error
    if not isinstance(body, dict) or body.get("v") != VERSION:
        raise ProtocolError(f"not version {VERSION} of the protocol: {line[:200]!r}")
    return body
