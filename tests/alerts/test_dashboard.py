"""The Grafana dashboard: that it is current, and that Grafana would understand it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import dashboard
from dashboard.__main__ import main
from tests.docs.test_docs import documented_metrics
from tests.support.requirements import requires

DOCUMENT: dict[str, Any] = json.loads(dashboard.FILE.read_text(encoding="utf-8"))


def test_it_is_current(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The chart's file is what the module writes; another one is told, and left as it is."""
    assert main([str(dashboard.FILE), "--check"]) == 0
    stale = tmp_path / "dashboard.json"
    stale.write_text("{}")
    assert main([str(stale), "--check"]) == 1
    assert "is stale" in capsys.readouterr().err
    assert stale.read_text() == "{}"
    assert main([str(stale)]) == 0
    assert stale.read_text() == dashboard.FILE.read_text()


def understood(document: Any) -> Any:
    """What is left of it once it has gone through Grafana's schema: a field that is unknown there is gone."""
    register_default_plugins()
    return json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))


def lost(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Where something of ours is missing, or otherwise."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return [at]
        return [
            place
            for key, value in ours.items()
            for place in (
                lost(value, theirs[key], f"{at}.{key}") if key in theirs else [f"{at}.{key}"]
            )
        ]
    if isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return [at]
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [place for index, (a, b) in pairs for place in lost(a, b, f"{at}[{index}]")]
    return [] if ours == theirs else [at]


def test_grafana_knows_every_field() -> None:
    """Each field and value survives Grafana's own schema, with the options of each panel and query."""
    assert lost(DOCUMENT, understood(DOCUMENT)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(titel="x"),
        lambda document: document["panels"][1].update(grid={}),
        lambda document: document["panels"][1]["targets"][0].update(legend="x"),
        lambda document: document["panels"][2]["options"].update(legends={}),
        lambda document: document["templating"]["list"][1].update(values=[]),
    ],
)
def test_a_field_that_is_none_would_be_seen(change: Any) -> None:
    """The check can fail: at the top, in a panel, a query, an option and a variable."""
    document = json.loads(json.dumps(DOCUMENT))
    change(document)
    assert len(lost(document, understood(document))) == 1


def test_panels_have_their_place() -> None:
    """Ids are there once, and no panel lies upon another or over the edge."""
    taken: set[tuple[int, int]] = set()
    for panel in DOCUMENT["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in DOCUMENT["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_metric_is_one_of_ours() -> None:
    """A panel on a metric that nobody exposes would stay empty for ever."""
    known = set(documented_metrics("Of the sidecar")) | set(documented_metrics("Of the controller"))
    words = {"storageformat_namespace"}
    for title, expr in dashboard.queries(DOCUMENT):
        used = {name.removesuffix("_bucket") for name in re.findall(r"storageformat_\w+", expr)}
        assert used - words, title
        assert used - words <= known, (title, used - words - known)


@requires("promtool", how="apt-get install prometheus")
def test_every_expression_is_promql(tmp_path: Path) -> None:
    """With the variables filled in as Grafana does; no variable is left."""
    rules = []
    for index, (_, expr) in enumerate(dashboard.queries(DOCUMENT)):
        filled = dashboard.substituted(expr, namespace=".*", storageformat="orders|users")
        assert "$" not in filled
        rules.append({"record": f"q{index}", "expr": filled})
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
