"""Small JSON documents in the state directory that belong to whoever runs the store (``desired.json``)."""

from __future__ import annotations

import json
import os
from typing import Any

from format_store import durable, errors, lock
from format_store.layout import Layout

_LIMIT = 1 << 25


def load(path: str | os.PathLike[str], name: str) -> dict[str, Any] | None:
    """The document, or None when there is none or it is not a JSON object (it is advice, not data)."""
    file = Layout.of(path).state / name
    try:
        document = json.loads(durable.read_file(file, _LIMIT) or b"")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise errors.from_os_error(error, operation="read", path=file) from error
    return document if isinstance(document, dict) else None


def save(path: str | os.PathLike[str], name: str, document: dict[str, Any]) -> None:
    """Replace the document atomically and durably. Raises StoreError."""
    layout = Layout.of(path)
    file = layout.state / name
    try:
        durable.make_directory(layout.state)
        lock.require_ours(layout)
        durable.write_file(file, (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise errors.from_os_error(error, operation="write", path=file) from error
