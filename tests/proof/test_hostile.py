"""A sample of hostile input of every kind; ``hostile`` and the modules that it names say what is done."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.proof import hostile
from tests.support.interpreter import environment


@pytest.mark.timeout(600)
def test_hostile_input() -> None:
    """Refused, failed or done as it must be: nothing lost, run, followed, waited for or touched outside."""
    said, lost = hostile.play(range(5000))
    assert lost == []
    assert said.total() == 5000
    outcomes = {what.rpartition(": ")[2] for what in said}
    assert outcomes >= {
        "converted",
        "failed",
        "refused",
        "unchanged",
        "recovered",
        "needs a person",
        "not now",
    }


FOUND = {
    5815: "a table's name in another case",
    31873: "a key that looks like one of the other encoding",
    25583: "a number in a manifest that is beyond floats",
    13911: "a key that is text in the table or its index only",
    9324: "a pre-image planted beside no manifest",
    14216: "a pre-image planted before the clean-up",
    7169: "a name in the schema that is a blob",
    33922: "SQL in the schema that is a blob",
    106376: "a table's name that is a blob",
    82924: "a FIFO as the source's log before it is attached",
    57799: "compressed values in UTF-16 that were taken for JSON",
    5870: "the copy replaced by a FIFO before the swap",
}


@pytest.mark.parametrize("number", FOUND, ids=FOUND.values())
def test_what_the_long_form_found(number: int) -> None:
    """Cases that were lost once: the store's own error is raised, or the oracle reads what is there."""
    _, lost = hostile.play(range(number, number + 1))
    assert lost == []


@pytest.mark.parametrize(
    ("broken", "module", "first", "finds"),
    [
        ("from format_store import sqlitefile; sqlitefile.require_plain_files = lambda _: None", "planted", 120, "ended with -14"),
        ("from format_store import recovery; recovery.holds_a_database = lambda *_: True", "hostile_state", 80, "copy is gone"),
    ],
)  # fmt: skip
def test_it_can_fail(broken: str, module: str, first: int, finds: str) -> None:
    """With a check of the store's taken out, cases are lost."""
    program = (
        f"import sys; {broken}; from tests.proof import hostile; hostile._PATIENCE_SECONDS = 1; "
        f"hostile._WHEEL[:] = [one for one in hostile._WHEEL if one.__module__.endswith({module!r})]; "
        f"sys.exit(hostile.main(range({first}, {first + 40})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    _, lost = json.loads(done.stdout.splitlines()[-1])
    assert any(finds in line for line in lost), lost
