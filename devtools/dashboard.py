"""The Grafana dashboard of the chart: ``python -m dashboard FILE`` writes it, ``--check`` says whether it is current.

Sidecars' series have the labels ``namespace`` and ``pod`` from scraping; the controller's name the StorageFormat that
they are about in ``storageformat_namespace`` and ``storageformat``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parents[1] / "charts/storageformat-operator/files/dashboard.json"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
#: Columns of Grafana's grid.
_WIDTH: Final = 24

POD: Final = 'namespace=~"$namespace",storageformat=~"$storageformat"'
ABOUT: Final = 'storageformat_namespace=~"$namespace",storageformat=~"$storageformat"'


@dataclass(frozen=True)
class Query:
    """``rare``: it has no answer while all is well."""

    expr: str
    legend: str = ""
    rare: bool = False
    heatmap: bool = False


@dataclass(frozen=True)
class Panel:
    """``kind`` is a panel plug-in of Grafana's own. ``text`` says what the reader learns."""

    title: str
    kind: str
    text: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    unit: str = "short"
    stacked: bool = False
    colours: tuple[tuple[float | None, str], ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    """(name of a series, colour)"""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...] = field(default_factory=tuple)


_GOOD_AT_0: Final = ((None, "green"), (1.0, "red"))
_GOOD_AT_1: Final = ((None, "red"), (1.0, "green"))

ROWS: Final = (
    Row(
        "What is the rollout doing?",
        (
            Panel(
                "Phase",
                "state-timeline",
                "The phase of each rollout; docs/rollout.md says what each means.",
                (
                    Query(
                        f"max by (storageformat_namespace, storageformat, phase) "
                        f"(storageformat_controller_rollout_phase{{{ABOUT}}}) > 0",
                        "{{storageformat_namespace}}/{{storageformat}} {{phase}}",
                    ),
                ),
                width=12,
            ),
            Panel(
                "Pods by where they stand",
                "timeseries",
                "All pods of a selector: the rollout is over when all are Converted.",
                (Query(f"sum by (state) (storageformat_controller_pods{{{ABOUT}}})", "{{state}}"),),
                width=12,
                stacked=True,
                overrides=(
                    ("Converted", "green"),
                    ("Converting", "blue"),
                    ("Pending", "yellow"),
                    ("Failed", "red"),
                    ("Skewed", "orange"),
                ),
            ),
            Panel(
                "Conditions",
                "table",
                "As in kubectl describe sf.",
                (
                    Query(
                        "max by (storageformat_namespace, storageformat, condition, status, reason) "
                        f"(storageformat_controller_condition{{{ABOUT}}})"
                    ),
                ),
                width=12,
            ),
            Panel(
                "Evictions",
                "timeseries",
                "Asked for by the controller; refused: a PodDisruptionBudget.",
                (
                    Query(
                        "sum by (result) "
                        f"(increase(storageformat_controller_evictions_total{{{ABOUT}}}[$__rate_interval]))",
                        "{{result}}",
                    ),
                ),
                width=12,
            ),
        ),
    ),
    Row(
        "Which pods are where?",
        (
            Panel(
                "Pods",
                "table",
                "Phase and reason that each sidecar reports.",
                (
                    Query(
                        "max by (namespace, pod, storageformat, database, phase, reason) "
                        f"(storageformat_state_info{{{POD}}})"
                    ),
                ),
                width=12,
            ),
            Panel(
                "Formats on disk",
                "timeseries",
                "How many databases are in which format.",
                (
                    Query(
                        f"sum by (format) (storageformat_database_format_info{{{POD}}})",
                        "{{format}}",
                    ),
                ),
                width=12,
                stacked=True,
            ),
            Panel(
                "Gates closed",
                "stat",
                "Pods whose app is held back now.",
                (
                    Query(
                        f"count(storageformat_gate_open{{{POD}}} == 0) or vector(0)", "gates closed"
                    ),
                ),
                width=4,
                height=5,
                colours=_GOOD_AT_0,
            ),
            Panel(
                "Wait for a restart",
                "stat",
                "Pods that convert when they are restarted.",
                (Query(f"sum(storageformat_restart_required{{{POD}}})", "wait"),),
                width=4,
                height=5,
                colours=((None, "green"), (1.0, "yellow")),
            ),
            Panel(
                "Not as wanted",
                "timeseries",
                "Databases whose last attempt failed, by what that promises; attention: needs a person.",
                (
                    Query(
                        f"sum by (kind) (storageformat_databases_failing{{{POD}}})",
                        "{{kind}}",
                    ),
                ),
                width=8,
                height=5,
                overrides=(("attention", "dark-red"), ("failed", "red"), ("refused", "orange")),
            ),
            Panel(
                "Gates by pod",
                "state-timeline",
                "1: the app may run.",
                (
                    Query(
                        f"min by (namespace, pod) (storageformat_gate_open{{{POD}}})",
                        "{{namespace}}/{{pod}}",
                    ),
                ),
                width=8,
                height=5,
            ),
        ),
    ),
    Row(
        "Conversions",
        (
            Panel(
                "Conversions that ended",
                "timeseries",
                "Totals come from the volumes' histories.",
                (
                    Query(
                        # A pod that is being replaced is not scraped; its volume's total does not fall.
                        "sum by (result) "
                        f"(max_over_time(storageformat_conversions_total{{{POD}}}[10m]))",
                        "{{result}}",
                    ),
                ),
                overrides=(("succeeded", "green"), ("failed", "red"), ("refused", "orange")),
            ),
            Panel(
                "How long they took",
                "heatmap",
                "From the lock to the clean-up.",
                (
                    Query(
                        "sum by (le) (increase("
                        f"storageformat_conversion_duration_seconds_bucket{{{POD}}}[$__rate_interval]))",
                        "{{le}}",
                        heatmap=True,
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Progress",
                "timeseries",
                "Within the present phase, 0 to 1.",
                (
                    Query(
                        f"max by (namespace, pod) (storageformat_conversion_progress_ratio{{{POD}}})",
                        "{{namespace}}/{{pod}}",
                    ),
                ),
                unit="percentunit",
            ),
            Panel(
                "Rate",
                "timeseries",
                "Conversions per minute, by result.",
                (
                    Query(
                        "60 * sum by (result) "
                        f"(rate(storageformat_conversions_total{{{POD}}}[$__rate_interval]))",
                        "{{result}}",
                    ),
                ),
                width=12,
            ),
            Panel(
                "Size of the databases",
                "timeseries",
                "A conversion often changes it.",
                (
                    Query(
                        f"max by (namespace, pod, database) (storageformat_database_size_bytes{{{POD}}})",
                        "{{namespace}}/{{pod}} {{database}}",
                    ),
                ),
                width=12,
                unit="bytes",
            ),
        ),
    ),
    Row(
        "Backups",
        (
            Panel(
                "Backups kept",
                "timeseries",
                "Pinned ones stay until somebody unpins them.",
                (
                    Query(
                        f"sum by (pinned) (storageformat_backups_kept{{{POD}}})",
                        "pinned: {{pinned}}",
                    ),
                ),
                width=6,
            ),
            Panel(
                "Bytes of backups",
                "timeseries",
                "On each volume.",
                (
                    Query(
                        f"max by (namespace, pod) (storageformat_backup_size_bytes{{{POD}}})",
                        "{{namespace}}/{{pod}}",
                    ),
                ),
                width=6,
                unit="bytes",
            ),
            Panel(
                "Age of the oldest",
                "timeseries",
                "Nothing where there is none.",
                (
                    Query(
                        "time() - min by (namespace, pod) "
                        f"(storageformat_backup_created_timestamp_seconds{{{POD}}})",
                        "{{namespace}}/{{pod}}",
                    ),
                ),
                width=6,
                unit="s",
            ),
            Panel(
                "Free on the volumes",
                "timeseries",
                "A conversion makes its copy there.",
                (
                    Query(
                        f"min by (namespace, pod) (storageformat_volume_free_bytes{{{POD}}} / "
                        f"storageformat_volume_size_bytes{{{POD}}})",
                        "{{namespace}}/{{pod}}",
                    ),
                ),
                width=6,
                unit="percentunit",
            ),
        ),
    ),
    Row(
        "Recoveries and failures",
        (
            Panel(
                "Recoveries",
                "timeseries",
                "Interrupted conversions that the next start brought to an end, ever.",
                (
                    Query(
                        f"sum by (outcome) (storageformat_recoveries_total{{{POD}}})", "{{outcome}}"
                    ),
                ),
            ),
            Panel(
                "Since the last recovery",
                "table",
                "In seconds; pods that never had one are not listed.",
                (
                    Query(
                        "time() - max by (namespace, pod, database) "
                        f"(storageformat_last_recovery_timestamp_seconds{{{POD}}})"
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Workers replaced",
                "timeseries",
                "Of the sidecars' containers, since these were started.",
                (
                    Query(
                        'max by (namespace, pod) (storageformat_worker_restarts_total{namespace=~"$namespace"})',
                        "{{namespace}}/{{pod}} ended",
                    ),
                    Query(
                        "max by (namespace, pod) "
                        '(storageformat_worker_hangs_total{namespace=~"$namespace"}) > 0',
                        "{{namespace}}/{{pod}} hung",
                        rare=True,
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Health of the controller and of the sidecars",
        (
            Panel(
                "Leaders",
                "stat",
                "Controllers that act: one.",
                (Query("sum(storageformat_controller_leading)", "leading"),),
                width=4,
                height=6,
                colours=_GOOD_AT_1,
            ),
            Panel(
                "Last full list",
                "stat",
                "Seconds ago, of the kind that waits longest; every five minutes.",
                (
                    Query(
                        "max(time() - storageformat_controller_last_list_timestamp_seconds)",
                        "seconds",
                    ),
                ),
                width=4,
                height=6,
                unit="s",
                colours=((None, "green"), (1200.0, "red")),
            ),
            Panel(
                "Reconciliations",
                "timeseries",
                "Median and 99th percentile of their duration, and errors.",
                (
                    Query(
                        "histogram_quantile(0.5, sum by (le) (rate("
                        "storageformat_controller_reconcile_duration_seconds_bucket[$__rate_interval])))",
                        "median",
                    ),
                    Query(
                        "histogram_quantile(0.99, sum by (le) (rate("
                        "storageformat_controller_reconcile_duration_seconds_bucket[$__rate_interval])))",
                        "99 %",
                    ),
                    Query(
                        "sum(rate(storageformat_controller_reconcile_errors_total[$__rate_interval]))",
                        "errors per second",
                    ),
                ),
                height=6,
                unit="s",
            ),
            Panel(
                "Objects watched",
                "timeseries",
                "In the controller's cache.",
                (
                    Query(
                        "max by (resource) (storageformat_controller_watched_objects)",
                        "{{resource}}",
                    ),
                ),
                height=6,
            ),
            Panel(
                "Requests to the API server",
                "timeseries",
                "Per second, by role and code; none: no answer.",
                (
                    Query(
                        "sum by (code) (rate(storageformat_controller_api_requests_total[$__rate_interval]))",
                        "controller {{code}}",
                    ),
                    Query(
                        "sum by (code) (rate("
                        'storageformat_api_requests_total{namespace=~"$namespace"}[$__rate_interval]))',
                        "sidecars {{code}}",
                    ),
                ),
                width=12,
            ),
            Panel(
                "Releases",
                "table",
                "What runs.",
                (Query("count by (role, version) (storageformat_build_info)"),),
                width=6,
            ),
            Panel(
                "Scrape errors, watches begun anew",
                "timeseries",
                "Both are 0 on a good day.",
                (
                    Query(
                        'sum(storageformat_scrape_errors_total{namespace=~"$namespace"})',
                        "scrape errors",
                    ),
                    Query(
                        f"sum(storageformat_watch_restarts_total{{{POD}}})",
                        "watches of sidecars",
                    ),
                    Query(
                        "sum(storageformat_controller_watch_restarts_total)",
                        "watches of the controller",
                    ),
                ),
                width=6,
            ),
        ),
    ),
)


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboard")
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    options = parser.parse_args(arguments)
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if options.file.exists() and options.file.read_text(encoding="utf-8") == text:
        return 0
    if options.check:
        sys.stderr.write(f"{options.file} is stale: run python -m dashboard {options.file}\n")
        return 1
    options.file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
