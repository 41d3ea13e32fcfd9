"""Where `undo` goes back to, and what it says beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from format_operator.kubectl import rollout
from format_operator.kubectl.overview import overview
from format_operator.kubectl.problems import Problem
from tests.kubectl.scenes import body, converted, pod, state

V3: list[dict[str, Any]] = [{"name": name, "sqlitedict": {}} for name in ("v0", "v1", "v2")]


def test_the_format_before() -> None:
    """Converted volumes tell where they came from, those that wait where they are: all agree."""
    states = [
        converted("orders-0"),
        state("orders-1", "RestartRequired"),
        state("orders-2", "Idle"),
    ]
    found = overview(body(), states, [pod(f"orders-{n}") for n in range(3)])
    assert rollout._back_to(found, None) == "v1"


def test_what_was_never_converted_has_no_say() -> None:
    """A volume that was made in the target does not stand in the way of the others."""
    born = state("orders-1", "Converted")
    found = overview(body(), [converted("orders-0"), born], [pod("orders-0"), pod("orders-1")])
    assert rollout._back_to(found, None) == "v1"


def test_no_agreement_is_refused_with_the_pods() -> None:
    """Volumes of several origins: each is named with its pods, and what to type."""
    other = converted("orders-1")
    other["status"]["lastConversion"]["from"] = "v0"
    found = overview(
        body(spec__formats=V3), [converted("orders-0"), other], [pod("orders-0"), pod("orders-1")]
    )
    with pytest.raises(Problem, match="did not all come from one format") as refused:
        rollout._back_to(found, None)
    assert "v1: orders-0" in refused.value.message
    assert "v0: orders-1" in refused.value.message
    assert "nothing was changed" in refused.value.message
    assert refused.value.hint == "say which: --to v0 or --to v1"
    assert refused.value.code == 3
    assert rollout._back_to(found, "v0") == "v0"


def test_an_origin_that_has_no_name_is_refused() -> None:
    """The format before was taken out of the StorageFormat: said by what it was."""
    unnamed = converted("orders-0")
    unnamed["status"]["lastConversion"]["from"] = "sqlitedict(natural json)"
    found = overview(body(), [unnamed], [pod("orders-0")])
    with pytest.raises(Problem, match=r"came from sqlitedict\(natural json\), which is none of"):
        rollout._back_to(found, None)


def test_nobody_knows() -> None:
    """Without a conversion there is nothing to undo."""
    found = overview(body(), [state("orders-0", "Converted")], [pod("orders-0")])
    with pytest.raises(Problem, match="no volume says which format it was in before"):
        rollout._back_to(found, None)


@pytest.mark.parametrize(
    ("asked", "says"), [("v2", "is the target already"), ("v9", "has no format 'v9'")]
)
def test_a_wish_that_makes_no_sense_is_refused(asked: str, says: str) -> None:
    """Neither the target nor a format that is not there."""
    with pytest.raises(Problem, match=says) as refused:
        rollout._back_to(overview(body(), [], []), asked)
    assert "nothing was changed" in refused.value.message


def test_the_preview_names_who_cannot_follow() -> None:
    """Pods that convert, pods that are there already, apps that do not read the old format, and a pause."""
    states = [converted("orders-0"), converted("orders-1"), state("orders-2", "RestartRequired")]
    pods = [pod("orders-0"), pod("orders-1", reads="v2"), pod("orders-2")]
    found = overview(body(spec__rollout={"suspended": True}), states, pods)
    said = "\n".join(rollout._preview(found, "v1"))
    assert "would convert back, with everything written since: orders-0, orders-1" in said
    assert "in v1 already: orders-2" in said
    assert (
        "cannot read v1 (annotation storageformat.dev/reads), and will not be converted: orders-1"
        in said
    )
    assert "the rollout is paused" in said
