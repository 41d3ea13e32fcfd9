"""The history: bounded, its totals outlive what was dropped, torn lines are passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from format_store import errors, history
from format_store.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout.of(tmp_path / "orders.db")
    found.state.mkdir()
    return found


def succeed(layout: Layout, identity: str) -> None:
    history.record(layout, "conversion", identity, ("conversions.succeeded",), result="succeeded")


def test_no_history_yet(layout: Layout) -> None:
    """Without a file there is nothing to tell, and every total is zero."""
    found = history.read(layout.primary)
    assert found == history.History()
    assert set(found.totals.values()) == {0}
    assert found.last_conversion is None
    assert found.last_success_at is None
    assert found.last_recovery_outcome is None


def test_it_is_bounded(layout: Layout) -> None:
    """Only the last entries are kept, and the totals count all that there ever were."""
    for number in range(history.MAX_ENTRIES + 30):
        succeed(layout, f"id-{number}")
    found = history.read(layout.primary)
    assert len(found.entries) == history.MAX_ENTRIES
    assert found.entries[0]["conversionID"] == "id-30"
    assert found.totals["conversions.succeeded"] == history.MAX_ENTRIES + 30
    assert len(layout.history.read_bytes().splitlines()) == history.MAX_ENTRIES


def test_large_formats_are_kept_of_the_last_ones(layout: Layout) -> None:
    """A format can be as large as its migrations: older entries lose it before the file grows without end."""
    large = {"sqlite": {"migrations": [{"number": 1, "sql": "x" * (history.MAX_BYTES // 4)}]}}
    for number in range(10):
        details = {"source": {"sqlite": {}}, "target": large, "rows": number}
        history.record(layout, "conversion", f"id-{number}", ("conversions.succeeded",), **details)
    found = history.read(layout.primary).entries
    assert [entry["rows"] for entry in found] == list(range(10))
    assert ["target" in entry for entry in found] == [False] * 6 + [True] * 4
    assert found[-1]["target"] == large
    assert layout.history.stat().st_size < history.MAX_BYTES * 2


def test_one_format_may_be_larger_than_all(layout: Layout) -> None:
    """The last entry is written in full, however large its formats are."""
    large = {"sqlite": {"migrations": [{"number": 1, "sql": "x" * history.MAX_BYTES * 2}]}}
    for identity in ("one", "two"):
        history.record(layout, "conversion", identity, ("conversions.succeeded",), target=large)
    assert ["target" in entry for entry in history.read(layout.primary).entries] == [False, True]


def test_recorded_twice_counts_once(layout: Layout) -> None:
    """A crash lay between the entry and the clean-up: recording it again changes nothing."""
    succeed(layout, "one")
    before = layout.history.read_bytes()
    succeed(layout, "one")
    assert layout.history.read_bytes() == before
    succeed(layout, "two")
    assert history.read(layout.primary).totals["conversions.succeeded"] == 2


@pytest.mark.parametrize(
    "torn",
    [
        b"{",
        b"\x00" * 64,
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"1",
        b'{"kind": "conversion"}',
        b'{"kind": "conversion", "at": "x", "totals": 7}',
        b'{"kind": "conversion", "at": "x", "totals": {"conversions.succeeded": "many"}}',
        b'{"kind": "conversion", "at": "x", "totals": {"conversions.succeeded": null}}',
        b"[" * 100_000,
    ],
    ids=lambda torn: repr(torn[:40]),
)
@pytest.mark.parametrize("where", ["first", "last"])
def test_torn_lines(layout: Layout, torn: bytes, where: str) -> None:
    """A line that cannot be read costs that line: the others count, and recording goes on."""
    succeed(layout, "one")
    succeed(layout, "two")
    good = layout.history.read_bytes()
    layout.history.write_bytes(torn + b"\n" + good if where == "first" else good + torn)
    found = history.read(layout.primary)
    assert [entry["conversionID"] for entry in found.entries] == ["one", "two"]
    assert found.totals["conversions.succeeded"] == 2
    succeed(layout, "three")
    assert history.read(layout.primary).totals["conversions.succeeded"] == 3


def test_totals_of_another_version(layout: Layout) -> None:
    """Totals that this version does not know are passed over, those that are missing are zero."""
    line = {"kind": "conversion", "at": "x", "totals": {"conversions.succeeded": 5, "undone": 3}}
    layout.history.write_text(json.dumps(line) + "\n", encoding="utf-8")
    found = history.read(layout.primary)
    assert found.totals["conversions.succeeded"] == 5
    assert "undone" not in found.totals
    assert found.totals["recoveries.failed"] == 0


def test_a_history_that_cannot_be_read(layout: Layout) -> None:
    """'Not there' is one thing; an error of the device or a directory in its place is told."""
    layout.history.mkdir()
    with pytest.raises(errors.StorageError, match=r"history\.jsonl") as caught:
        history.read(layout.primary)
    assert caught.value.hint
