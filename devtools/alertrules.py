"""The chart's alerts as a plain Prometheus takes them: ``python -m alertrules > rules.yml``.

The same as the chart's PrometheusRule has with default values; a test compares both.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml

SOURCE: Final = Path(__file__).parents[1] / "charts/storageformat-operator/files/alerts.yaml"
GROUP: Final = "storageformat"


def alerts() -> list[dict[str, Any]]:
    """The alerts as they are written."""
    found: list[dict[str, Any]] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return found


def groups() -> dict[str, Any]:
    """A file of rules, with the default thresholds."""
    rules = [
        {
            "alert": one["alert"],
            "expr": one["expr"].replace("THRESHOLD", str(one["threshold"])),
            "for": one["for"],
            "labels": {"severity": one["severity"]},
            "annotations": {key: one[key] for key in ("summary", "description")},
        }
        for one in alerts()
    ]
    return {"groups": [{"name": GROUP, "rules": rules}]}


if __name__ == "__main__":
    yaml.safe_dump(groups(), sys.stdout, sort_keys=False)
