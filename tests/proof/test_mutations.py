"""The mutation gate: its list can be made, and a sample of it is caught; ``python -m tests.proof.mutations`` does all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.proof import mutations
from tests.proof.mutations import Mutation, Verdict
from tests.proof.report import Report

#: Of each kind one, and of these the quickest.
SAMPLE = (
    "fsync: staging copy's content",
    "fsync: pre-image's name before the swap",
    "order: the manifest goes first",
    "lock: shared",
    "lease: a pre-image goes without one",
    "proof: backups are pruned before their time",
    "refusal: a newer marker",
    "content: the marker is not read back",
    "sqlite: the header is not compared",
    "migration: the authorizer allows everything",
)
QUICK = ("tests/store/test_refusals_markers.py::test_newer_marker",)
BY_NAME = {mutation.name: mutation for mutation in mutations.everything()}


@pytest.mark.parametrize("mutation", BY_NAME.values(), ids=BY_NAME)
def test_it_can_be_made(mutation: Mutation) -> None:
    """The text that it replaces is there, once, and what comes of it is Python: the list has not rotted."""
    assert mutations.unmade(mutation) is None


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_is_caught(name: str) -> None:
    """The store with this mutation fails the test that is there for it."""
    verdict = mutations.judge(BY_NAME[name])
    assert verdict.caught, str(verdict)


def test_the_gate_can_fail() -> None:
    """A change that means nothing is told as a survivor, and one that breaks the import as no catch."""
    harmless = replace(
        BY_NAME["lock: shared"],
        tests=QUICK,
        old='_OPERATION = "lock"',
        new='_OPERATION = "lock"  # same',
    )
    survivor = mutations.judge(harmless)
    assert not survivor.caught
    assert "SURVIVED" in str(survivor)
    broken = mutations.judge(replace(harmless, new="import nothing_of_that_name"))
    assert not broken.caught
    assert broken.trouble


def test_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row says how many were tried and how many survived, and names these."""
    some = list(BY_NAME.values())[:3]
    monkeypatch.setattr(mutations, "passes_unmutated", lambda _: "")
    monkeypatch.setattr(
        mutations, "judge", lambda one: Verdict(one, "" if one is some[1] else "a test", 0.1)
    )
    report = Report()
    assert [verdict.mutation for verdict in mutations.gate(some, report)] == [some[1]]
    (row,) = report.rows
    assert (row.proof, row.tried, row.lost, row.note) == ("mutations", 3, 1, some[1].name)
