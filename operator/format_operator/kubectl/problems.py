"""What can go wrong, as one line for the person who reads it, with what to do next.

Exit codes: 0 done · 1 the cluster did not do it · 2 usage · 3 refused, nothing was changed · 4 a pod needs a person ·
75 try again.
"""

from __future__ import annotations

import re
from typing import Final

FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
NEEDS_A_PERSON: Final = 4
TRY_AGAIN: Final = 75

_SERVER: Final = re.compile(r"Error from server(?: \((\w+)\))?: (.*)", re.DOTALL)
_UNREACHABLE: Final = re.compile(
    r"Unable to connect to the server|The connection to the server|connection refused|"
    r"no such host|i/o timeout|TLS handshake timeout|was refused|error dialing",
    re.IGNORECASE,
)
_NO_CRD: Final = "the server could not find the requested resource"


class Problem(Exception):
    """``kind``: the API's reason where it has one, such as NotFound or Forbidden."""

    def __init__(self, message: str, *, hint: str = "", code: int = FAILED, kind: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.kind = kind


def from_kubectl(stderr: str, what: str) -> Problem:
    """What kubectl said of a request that failed. ``what`` was asked for, for when it said nothing."""
    text = stderr.strip()
    found = _SERVER.search(text)
    if found is not None:
        return _from_server(found[1] or "", found[2].strip(), what)
    if _UNREACHABLE.search(text):
        return Problem(
            f"the API server does not answer: {_last_line(text)}",
            hint="look whether it runs, and at the context: kubectl config current-context",
            kind="Unreachable",
        )
    if text.endswith("error: EOF"):
        # It asked for a user's name, and nobody was there to be asked.
        return Problem(
            "kubectl has no credentials for this cluster",
            hint="look at the context: kubectl config current-context",
            kind="Unauthorized",
        )
    return Problem(_last_line(text).removeprefix("error: ") or f"{what}: kubectl failed")


def _from_server(kind: str, message: str, what: str) -> Problem:
    if kind == "NotFound" and message.startswith(_NO_CRD):
        return Problem(
            "this cluster does not know StorageFormats: the CustomResourceDefinitions are not installed",
            hint="install the operator (docs/install.md), or choose another --context",
            kind="NoCRD",
        )
    if kind == "Forbidden":
        return Problem(
            message,
            hint="what each command needs, and the ClusterRoles that give it: docs/kubectl.md",
            kind=kind,
        )
    return Problem(message or f"{what}: the API server refused", kind=kind)


def _last_line(text: str) -> str:
    # client-go logs each attempt before kubectl says what it makes of them.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
