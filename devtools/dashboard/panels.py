"""What the dashboard shows: rows of panels, each with its queries and with what a reader learns from it.

Sidecars' series have the labels ``namespace`` and ``pod`` from scraping; the controller's name the StorageFormat that
they are about in ``storageformat_namespace`` and ``storageformat``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_POD: Final = 'namespace=~"$namespace",storageformat=~"$storageformat"'
_ABOUT: Final = 'storageformat_namespace=~"$namespace",storageformat=~"$storageformat"'


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
                        f"(storageformat_controller_rollout_phase{{{_ABOUT}}}) > 0",
                        "{{storageformat_namespace}}/{{storageformat}} {{phase}}",
                    ),
                ),
                width=12,
            ),
            Panel(
                "Pods by where they stand",
                "timeseries",
                "All pods of a selector: the rollout is over when all are Converted.",
                (
                    Query(
                        f"sum by (state) (storageformat_controller_pods{{{_ABOUT}}})", "{{state}}"
                    ),
                ),
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
                        f"(storageformat_controller_condition{{{_ABOUT}}})"
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
                        f"(increase(storageformat_controller_evictions_total{{{_ABOUT}}}[$__rate_interval]))",
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
                        f"(storageformat_state_info{{{_POD}}})"
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
                        f"sum by (format) (storageformat_database_format_info{{{_POD}}})",
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
                        f"count(storageformat_gate_open{{{_POD}}} == 0) or vector(0)",
                        "gates closed",
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
                (Query(f"sum(storageformat_restart_required{{{_POD}}})", "wait"),),
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
                        f"sum by (kind) (storageformat_databases_failing{{{_POD}}})",
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
                        f"min by (namespace, pod) (storageformat_gate_open{{{_POD}}})",
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
                        f"(max_over_time(storageformat_conversions_total{{{_POD}}}[10m]))",
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
                        f"storageformat_conversion_duration_seconds_bucket{{{_POD}}}[$__rate_interval]))",
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
                        f"max by (namespace, pod) (storageformat_conversion_progress_ratio{{{_POD}}})",
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
                        f"(rate(storageformat_conversions_total{{{_POD}}}[$__rate_interval]))",
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
                        f"max by (namespace, pod, database) (storageformat_database_size_bytes{{{_POD}}})",
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
                        f"sum by (pinned) (storageformat_backups_kept{{{_POD}}})",
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
                        f"max by (namespace, pod) (storageformat_backup_size_bytes{{{_POD}}})",
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
                        f"(storageformat_backup_created_timestamp_seconds{{{_POD}}})",
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
                        f"min by (namespace, pod) (storageformat_volume_free_bytes{{{_POD}}} / "
                        f"storageformat_volume_size_bytes{{{_POD}}})",
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
                        f"sum by (outcome) (storageformat_recoveries_total{{{_POD}}})",
                        "{{outcome}}",
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
                        f"(storageformat_last_recovery_timestamp_seconds{{{_POD}}})"
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
                        f"sum(storageformat_watch_restarts_total{{{_POD}}})",
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
