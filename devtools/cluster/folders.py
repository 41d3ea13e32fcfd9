"""Where everything of this package lives: the user's cache, never the checkout."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """The project's folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "storageformat-operator"


def images() -> Path:
    """Images and the storage that they are built in."""
    return cache() / "images"


def clusters() -> Path:
    """One folder per cluster that is up, or whose logs were kept."""
    return cache() / "clusters"
