"""The tool's version, as markers and manifests record it."""

from __future__ import annotations

VERSION = "0.1.0"
