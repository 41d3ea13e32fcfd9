"""As much of RFC 6902 as the webhook writes, applied as an API server does."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any


def applied(document: Mapping[str, Any], operations: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The document after these operations; raises where one does not fit."""
    found: dict[str, Any] = copy.deepcopy(dict(document))
    for one in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:]
        ]
        at: Any = found
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if isinstance(at, list):
            assert one["op"] == "add"
            index = len(at) if last == "-" else int(last)
            assert index <= len(at), one
            at.insert(index, one["value"])
        else:
            assert one["op"] == "add" or last in at, one
            at[last] = one["value"]
    return found
