"""The Grafana dashboard of the chart: ``python -m dashboard FILE`` writes it, ``--check`` says whether it is current."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dashboard.grafana import dashboard, queries, rare, substituted

FILE: Final = Path(__file__).parents[2] / "charts/storageformat-operator/files/dashboard.json"

__all__ = ["FILE", "dashboard", "queries", "rare", "substituted"]
