"""What the audit of dependencies makes of pip-audit's answers."""

from __future__ import annotations

from typing import Any

import audit


def package(name: str, *advisories: str, aliases: tuple[str, ...] = ()) -> dict[str, Any]:
    found = [{"id": one, "aliases": list(aliases), "fix_versions": ["9.9"]} for one in advisories]
    return {"name": name, "version": "1.0", "vulns": found}


def test_what_is_accepted_with_a_reason_is_no_problem() -> None:
    """By any of its names."""
    accepted = next(iter(audit.ACCEPTED))
    assert audit.judge([package("sqlitedict", accepted)])[1] == []
    assert audit.judge([package("sqlitedict", "CVE-1", aliases=(accepted,))])[1] == []


def test_anything_else_is_named_with_its_cure() -> None:
    """The package, the advisory, and the release that is mended."""
    accepted = package("sqlitedict", *audit.ACCEPTED)
    _, problems = audit.judge([accepted, package("left", "PYSEC-1")])
    assert problems == ["left 1.0: PYSEC-1, fixed in 9.9"]


def test_an_acceptance_that_is_no_longer_needed_goes() -> None:
    """Otherwise it would hide the next one of that name."""
    _, problems = audit.judge([package("sqlitedict")])
    assert problems == [
        f"{one} is accepted and no longer found: remove it" for one in audit.ACCEPTED
    ]
