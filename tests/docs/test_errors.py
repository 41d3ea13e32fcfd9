"""Every message and reason of the product is told, with cause and cure; and none that is not there."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from docsite import messages, reference
from format_operator.api.models import Phase
from format_operator.controller.plan import RolloutPhase
from format_operator.controller.standing import Standing
from format_store import errors

ROOT = Path(__file__).parents[2]
STORE, CLUSTER = ((ROOT / page).read_text(encoding="utf-8") for page in messages.PAGES)
#: Words of Kubernetes and of HTTP among the CamelCase ones, and what is only a part of a reason.
NO_REASONS = frozenset({
    "Accept", "Always", "AndUnreadable", "Authorization", "Closed", "DaemonSet", "Date", "Deployment", "DoesNotExist",
    "Event", "Eviction", "Exists", "Failed", "In", "Lease", "Normal", "NotIn", "OnDelete", "Open", "Pod", "Ready", "Recreate",
    "RollingUpdate", "StatefulSet", "Succeeded", "Success", "True", "Warning",
})  # fmt: skip


def test_every_message_is_told_once() -> None:
    """Of the code, the API server's rules, the policy and the charts; `python -m docsite messages` lists what is amiss."""
    known = messages.texts()
    told = messages.documented(STORE) + messages.documented(CLUSTER)
    assert len(known) > 300
    assert sorted(known.items()) == sorted((text, known.get(text, "")) for text in told)


def test_each_has_a_cause_and_a_cure() -> None:
    """No cell of these tables is empty."""
    for page in (STORE, CLUSTER):
        rows = re.findall(
            r"^\| (?!message|reason|-)(.+?) \|(.*)\|(.*)\|$", page.replace("\\|", ""), re.MULTILINE
        )
        assert len(rows) > 100
        for message, cause, cure in rows:
            assert cause.strip(), message
            assert cure.strip(), message


@pytest.mark.parametrize("kind", reference.all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_store_has_a_part(kind: type[errors.StoreError]) -> None:
    """Below a heading of its reason, with the exit code that it has."""
    (section,) = re.findall(
        rf"^### {kind.__name__}\n\n(.*?)(?=^##|\Z)", STORE, re.MULTILINE | re.DOTALL
    )
    assert section.startswith(f"Exit code {kind.exit_code}.")


def test_a_message_stands_with_an_error_that_has_it() -> None:
    """Where the code gives a text to a class by name, the page has it in the part of that class."""
    kinds = messages.kinds_of()
    compared = 0
    for section in re.split(r"^### ", STORE, flags=re.MULTILINE)[1:]:
        name, _, content = section.partition("\n")
        for text in messages.documented(content.split("\n## ")[0]):
            if text in kinds:
                compared += 1
                assert name in kinds[text] or text == "integrity_check: …", (text, kinds[text])
    assert compared > 70


def test_no_part_is_about_nothing() -> None:
    """Every heading of the third level names an error that there is."""
    known = {kind.__name__ for kind in reference.all_errors()}
    assert set(re.findall(r"^### (\w+)$", STORE, re.MULTILINE)) == known


def test_every_reason_is_told() -> None:
    """What sidecar, gate and controller give as a reason stands in the page, in code; phases stand in their tables."""
    elsewhere = {str(one) for enum in (Phase, RolloutPhase, Standing) for one in _words(enum)}
    elsewhere |= {kind.__name__ for kind in reference.all_errors()}
    rollout = (ROOT / "docs" / "rollout.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([A-Za-z]+)`", CLUSTER + rollout))
    missing = messages.reasons() - NO_REASONS - elsewhere - told
    assert missing == set()


def test_the_table_of_reasons_has_no_other() -> None:
    """Each reason in the FormatState's table is one that the code has."""
    table = CLUSTER[CLUSTER.index("| reason | cause |") :].split("\n\n")[0]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(told) > 15
    assert set(told) <= messages.reasons()


def test_a_message_is_found_wherever_it_is_made(tmp_path: Path) -> None:
    """Directly, through a helper, from a variable, from a function that returns it, and beside a reason."""
    for package in messages.PACKAGES:
        (tmp_path / package).mkdir(parents=True)
    (tmp_path / "store/format_store/one.py").write_text(
        """
class Broken(Exception):
    pass

def direct(name):
    raise Broken(f"there is no {name} here")

def _usage(file, message):
    return Broken(message, path=file)

def helped(x):
    raise _usage(x, "it is not " + x + " at all") from None

def variable(x):
    if x:
        why = "first of two texts"
    else:
        why = "second of two texts"
    raise Broken(why)

def _reason(x):
    return "told by a function"

def returned(x):
    raise Broken(_reason(x))

def pair(x):
    return "SomeReason", f"beside a reason: {x}"

def ours():
    assert False, "nobody reads this one"
    raise AssertionError("nor is this read")
"""
    )
    assert {one.text for one in messages.collect(tmp_path)} == {
        "there is no … here",
        "it is not … at all",
        "first of two texts",
        "second of two texts",
        "told by a function",
        "beside a reason: …",
    }


def _words(enum: type[StrEnum]) -> list[StrEnum]:
    return list(enum)
