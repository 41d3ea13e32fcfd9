"""What docs/logs.md promises to those who read logs by program."""

from __future__ import annotations

import re

from format_store import Phase
from tests.docs.test_docs import ROOT

TEXT = (ROOT / "docs/logs.md").read_text()
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "operator").rglob("*.py")))


def test_every_event_exists() -> None:
    """An event that the page names is written by some line of the operator, with those words."""
    tables = TEXT[TEXT.index("## The story") :]
    rows = re.findall(r"^\| (`[a-zA-Z].*?`) \|", tables, re.MULTILINE)
    events = [event for row in rows for event in re.findall(r"`([^`]+)`", row)]
    assert len(events) >= 20
    for event in events:
        assert f'"{event}"' in SOURCES, event


def test_every_phase_of_a_conversion_is_told() -> None:
    """In their order."""
    (row,) = re.findall(r"^\| `phase ended` .*$", TEXT, re.MULTILINE)
    phases = [str(one) for one in Phase if one not in {Phase.IDLE, Phase.RECOVERING}]
    assert [word for word in re.findall(r"`(\w+)`", row) if word in set(Phase)] == phases


def test_every_result_is_told() -> None:
    """The values of `result`."""
    from format_operator.sidecar import work

    paragraph = TEXT[TEXT.index("`result` is") :].split("\n\n")[0]
    for result in ("succeeded", *work._RESULTS.values()):
        assert f"`{result}`" in paragraph, result
