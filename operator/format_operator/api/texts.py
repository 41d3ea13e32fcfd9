"""Texts that several models hold: names that are DNS labels, and paths. Each with its rules, once."""

from __future__ import annotations

import re
from typing import Final

from format_operator.api.schema import Rule, String

MAX_LABEL: Final = 63
MAX_PATH: Final = 1024

_DNS_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


def label(what: str, examples: str) -> String:
    """A DNS label. ``what`` and ``examples`` are for the message: "the name of a format", "v2 or v3"."""
    message = (
        f"write {what} in lower-case letters, digits and dashes, beginning and ending with a "
        f"letter or digit, such as {examples}"
    )
    rule = Rule(
        cel=f"self.matches('^{_DNS_LABEL}$')",
        message=message,
        holds=lambda name: re.fullmatch(_DNS_LABEL, name) is not None,
    )
    return String(MAX_LABEL, min_length=1, rules=(rule,))


def absolute(hint: str) -> Rule:
    """``hint``: whose view counts, and an example."""
    return Rule(
        cel="self.startsWith('/')",
        message=f"write an absolute path, {hint}",
        holds=lambda path: path.startswith("/"),
    )


SHORTEST: Final = Rule(
    cel=(
        "!self.endsWith('/') && !self.contains('//') "
        "&& !(self + '/').contains('/./') && !(self + '/').contains('/../')"
    ),
    message=(
        "write the path in its shortest form: no empty, '.' or '..' parts and no slash at the end"
    ),
    holds=lambda path: not re.search(r"//|/\.{0,2}$|/\.{1,2}/", path),
)

PRINTABLE: Final = Rule(
    cel="!self.matches('[\\\\x00-\\\\x1f\\\\x7f]')",
    message="write the path without line breaks and other control characters",
    holds=lambda path: not re.search(r"[\x00-\x1f\x7f]", path),
)
