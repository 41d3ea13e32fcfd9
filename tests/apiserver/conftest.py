"""The fixtures of these tests are in ``tests/support/controlplane.py``: other folders use them, too."""

from __future__ import annotations

from tests.support.controlplane import DEPLOY

__all__ = ["DEPLOY"]
