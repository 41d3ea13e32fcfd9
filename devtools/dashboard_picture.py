"""What a Prometheus answers to the dashboard's queries, and a picture of that: ``make picture``.

There is no Grafana here: it cannot be built without npm's and its own registries. The picture shows the dashboard's panels with
the answers of a real Prometheus to the dashboard's own queries, drawn by matplotlib.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dashboard

if TYPE_CHECKING:
    from cluster.prometheus import Prometheus

Answer = dict[str, Any]
_COLUMN_INCHES: Final = 0.62
_ROW_INCHES: Final = 0.34
_DPI: Final = 90
_LINES: Final = ("#73bf69", "#5794f2", "#f2cc0c", "#ff9830", "#b877d9", "#8ab8ff", "#e02f44")
_BACKGROUND, _PANEL, _TEXT, _GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"


def answers(
    prometheus: Prometheus, start: float, end: float, **variables: str
) -> Iterator[tuple[dict[str, Any], str, list[Answer]]]:
    """(panel, expression, series) of each query of the committed dashboard, as Grafana would ask it."""
    document = json.loads(dashboard.FILE.read_text(encoding="utf-8"))
    step = max(1.0, (end - start) / 400)
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            expr = dashboard.substituted(target["expr"], **variables)
            if target["instant"]:
                found = prometheus.query(expr)
                series = [{**one, "values": [one["value"]]} for one in found]
            else:
                series = prometheus.query_range(expr, start, end, step)
            named = [
                {"legend": _legend(target["legendFormat"], one["metric"]), **one} for one in series
            ]
            yield panel, target["expr"], named


def _legend(template: str, metric: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: metric.get(match[1], ""), template)


def document(
    asked: Iterable[tuple[dict[str, Any], str, list[Answer]]], began: float
) -> list[dict[str, Any]]:
    """The panels, each with all its series, as they are kept for a picture."""
    panels: dict[int, dict[str, Any]] = {}
    for panel, _, series in asked:
        kept = panels.setdefault(panel["id"], {**panel, "series": [], "began": began})
        kept["series"] += series
    return list(panels.values())


def draw(panels: Sequence[dict[str, Any]], target: Path) -> None:
    """All panels where Grafana's grid has them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * _COLUMN_INCHES, height * _ROW_INCHES), facecolor=_BACKGROUND)
    for panel in panels:
        place = panel["gridPos"]
        margin_x, top, bottom = 0.9 / 24, 0.9 / height, 1.1 / height
        axes = figure.add_axes(
            (
                place["x"] / 24 + margin_x,
                1 - (place["y"] + place["h"]) / height + bottom,
                place["w"] / 24 - 1.5 * margin_x,
                place["h"] / height - top - bottom,
            ),
            facecolor=_PANEL,
        )
        axes.set_title(panel["title"], color=_TEXT, fontsize=10, loc="left", fontweight="bold")
        axes.tick_params(colors=_TEXT, labelsize=7)
        for side in axes.spines.values():
            side.set_color(_GRID)
        _DRAW[panel["type"]](axes, panel)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI, facecolor=_BACKGROUND)
    # A picture in a repository is to be small: it has few colours.
    Image.open(drawn).convert("RGB").quantize(96).save(target, optimize=True)


def _lines(axes: Any, panel: dict[str, Any]) -> None:
    began = _began(panel)
    colours = {
        one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"]
        for one in panel["fieldConfig"]["overrides"]
    }
    for index, one in enumerate(panel["series"]):
        times = [(moment - began) / 60 for moment, _ in one["values"]]
        values = [float(value) for _, value in one["values"]]
        name = one["legend"]
        colour = _colour(colours.get(name), index)
        axes.step(times, values, where="post", color=colour, linewidth=1.1, label=name)
    axes.grid(color=_GRID, linewidth=0.5)
    axes.set_ylim(bottom=0)
    if panel["fieldConfig"]["defaults"]["unit"] == "bytes":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value / 2**20:.0f} MiB")
    axes.set_xlabel("minutes", color=_TEXT, fontsize=7)
    if panel["series"]:
        axes.legend(
            fontsize=6.5,
            labelcolor=_TEXT,
            facecolor=_PANEL,
            edgecolor=_GRID,
            loc="upper left",
            framealpha=0.6,
            labelspacing=0.2,
        )


def _colour(name: str | None, index: int) -> str:
    known = {"dark-red": "#c4162a", "red": "#e02f44", "green": "#73bf69", "blue": "#5794f2"}
    if name is not None:
        return known.get(name, name)
    return _LINES[index % len(_LINES)]


def _timeline(axes: Any, panel: dict[str, Any]) -> None:
    began = _began(panel)
    last = 0.0
    for row, one in enumerate(panel["series"]):
        axes.barh(row, 100, color=_GRID, height=0.8)
        times = [(moment - began) / 60 for moment, _ in one["values"]]
        last = max(last, *times)
        for moment, (_, value) in zip(times, one["values"], strict=True):
            colour = "#73bf69" if float(value) else "#e02f44"
            axes.barh(row, 0.05, left=moment, color=colour, height=0.8)
        name = one["legend"].split("/", 1)[-1]
        axes.text(
            0.005, row, name, color="white", fontsize=7, va="center",
            transform=axes.get_yaxis_transform(),
            bbox={"facecolor": _PANEL, "edgecolor": "none", "pad": 1.5, "alpha": 0.8},
        )  # fmt: skip
    axes.set_yticks([])
    axes.set_xlim(0, last)
    axes.set_xlabel("minutes", color=_TEXT, fontsize=7)


def _table(axes: Any, panel: dict[str, Any]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    rows = []
    for one in panel["series"][:9]:
        value = float(one["values"][-1][1])
        said = [text for key, text in sorted(one["metric"].items()) if key != "__name__"]
        rows.append("  ".join([*said, f"{value:.0f}"]))
    axes.text(
        0.01, 0.97, "\n".join(rows), color=_TEXT, fontsize=7, va="top", family="monospace",
        transform=axes.transAxes, clip_on=True,
    )  # fmt: skip


def _stat(axes: Any, panel: dict[str, Any]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    value = float(panel["series"][0]["values"][-1][1]) if panel["series"] else float("nan")
    colour = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    axes.set_facecolor(_colour(colour, 0) if colour != "yellow" else "#f2cc0c")
    axes.text(
        0.5, 0.5, f"{value:.0f}", color="#111217", fontsize=22, ha="center", va="center",
        transform=axes.transAxes,
    )  # fmt: skip


def _heatmap(axes: Any, panel: dict[str, Any]) -> None:
    began = _began(panel)
    series = sorted(panel["series"], key=lambda one: float(one["metric"]["le"]))
    below: dict[float, float] = {}
    for row, one in enumerate(series):
        for moment, text in one["values"]:
            count = float(text)
            inside = count - below.get(moment, 0.0)
            below[moment] = count
            if inside > 0:
                axes.barh(
                    row, 0.1, left=(moment - began) / 60, color="#ff780a",
                    alpha=min(1.0, 0.2 + inside / 2),
                )  # fmt: skip
    axes.set_yticks(range(len(series)), [f"≤ {one['metric']['le']} s" for one in series])
    axes.set_xlabel("minutes", color=_TEXT, fontsize=7)


def _began(panel: dict[str, Any]) -> float:
    return float(panel["began"])


_DRAW: Final = {
    "timeseries": _lines,
    "state-timeline": _timeline,
    "table": _table,
    "stat": _stat,
    "heatmap": _heatmap,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dashboard_picture")
    parser.add_argument("answers", type=Path, help="what tests/cluster/test_prometheus.py wrote")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    draw(json.loads(options.answers.read_text(encoding="utf-8")), options.picture)


if __name__ == "__main__":
    main()
