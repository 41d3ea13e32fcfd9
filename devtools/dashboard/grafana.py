"""The panels as the JSON that Grafana imports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dashboard.panels import ROWS, Panel, Query

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
#: Columns of Grafana's grid.
_WIDTH: Final = 24


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "uid": "storageformat",
        "title": "storageformat-operator",
        "description": "Conversions of embedded databases: rollouts, pods, backups, recoveries.",
        "tags": ["storageformat"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def queries(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(title of the panel, expression) of each query of a dashboard."""
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def rare() -> frozenset[str]:
    """Expressions without an answer while all is well."""
    return frozenset(
        query.expr for row in ROWS for panel in row.panels for query in panel.queries if query.rare
    )


def substituted(expr: str, **values: str) -> str:
    """An expression as Grafana sends it; ``interval`` is ``$__rate_interval``."""
    names = {"__rate_interval": values.pop("interval", "5m")}
    for name, value in {**values, **names}.items():
        expr = expr.replace(f"${name}", value)
    return expr


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }
    for name, label, query in (
        ("namespace", "Namespace", "label_values(storageformat_gate_open, namespace)"),
        (
            "storageformat",
            "StorageFormat",
            'label_values(storageformat_gate_open{namespace=~"$namespace"}, storageformat)',
        ),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _SOURCE,
            "query": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for row in ROWS:
        number += 1
        yield {
            "type": "row",
            "id": number,
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
            "panels": [],
        }
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            yield _panel(panel, number, place)
            x += panel.width
            tallest = max(tallest, panel.height)
        y += tallest


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"drawStyle": "line", "lineInterpolation": "stepAfter", "showPoints": "never"}
        if panel.stacked:
            custom |= {"fillOpacity": 30, "stacking": {"mode": "normal", "group": "A"}}
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": custom}
    if panel.colours:
        steps = [{"value": value, "color": colour} for value, colour in panel.colours]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in panel.overrides
    ]
    return {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(panel, query, index) for index, query in enumerate(panel.queries)],
        **(_AS_TABLE if panel.kind == "table" else {}),
    }


def _target(panel: Panel, query: Query, index: int) -> dict[str, Any]:
    now = panel.kind in {"table", "stat"}
    kind = {"table": "table"}.get(panel.kind, "heatmap" if query.heatmap else "time_series")
    return {
        "refId": chr(ord("A") + index),
        "datasource": _SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": kind,
        "instant": now,
        "range": not now,
    }


_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "timeseries": {
        "legend": {
            "displayMode": "list",
            "placement": "bottom",
            "showLegend": True,
            "calcs": [],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "state-timeline": {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.9,
        "alignValue": "left",
        "legend": {
            "displayMode": "list",
            "placement": "bottom",
            "showLegend": False,
            "calcs": [],
        },
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "stat": {
        "graphMode": "none",
        "colorMode": "background",
        "justifyMode": "auto",
        "textMode": "value",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
    },
    "table": {"frameIndex": 0, "showHeader": True},
    "heatmap": {
        "calculate": False,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "cellGap": 1,
        "yAxis": {"unit": "s"},
        "legend": {"show": True},
        "tooltip": {"show": True, "yHistogram": False},
    },
}
_AS_TABLE: Final = {
    "transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]
}
