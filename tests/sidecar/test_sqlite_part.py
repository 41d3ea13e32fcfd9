"""Formats with a `sqlite` part, as the sidecar understands and tells them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from format_operator.api.models import InvalidObject, Phase
from format_operator.series import FormatInfo
from format_operator.sidecar.decide import Planned, decide
from format_operator.sidecar.observed import Answer, Asked, Disk, File, Observed
from format_operator.sidecar.status import format_infos
from format_operator.sidecar.wish import Stored, Wish
from format_store import PLAIN_SQLITEDICT, Format
from tests.support.objects import ABSENT, migrations, storageformat

PATH = "/data/orders.db"
PLAIN: dict[str, Any] = {"name": "v1", "sqlite": {}}
TARGET: dict[str, Any] = {"name": "v2", "sqlite": {"pageSize": 8192, "migrations": migrations(1)}}
ROWS: dict[str, Any] = {"keyEncoding": "hierarchical", "valueCodec": "msgpack"}
BOTH: dict[str, Any] = TARGET | {"sqlitedict": ROWS}
UNMARKED = File(PATH, Disk.UNMARKED)


def wish(*formats: dict[str, Any], **changes: Any) -> Wish:
    """The StorageFormat of these formats, ``unmarked`` left out; the target is called v2."""
    defaults: dict[str, Any] = {
        "spec__formats": [*formats],
        "spec__unmarked": ABSENT,
        "spec__rollout": {"strategy": "OnRestart"},
    }
    return Wish.from_object(storageformat(**(defaults | changes)))


def at_gate(wanted: Wish, file: File, *reads: str) -> Observed:
    return Observed(
        now=datetime(2026, 11, 23, tzinfo=UTC),
        argument=PATH,
        at_gate=True,
        gate_seconds=1.0,
        permit_wait=30.0,
        api_wait=10.0,
        reads=frozenset(reads) if reads else None,
        storageformat=Answer(Asked.FOUND, wanted),
        permit=Answer(Asked.FOUND, None),
        stored=None,
        files=(file,),
    )


def test_what_an_unmarked_file_is_taken_for() -> None:
    """Plain sqlitedict where the target has rows of its kind, what is declared, and else any SQLite file."""
    any_file = Format.from_spec({"sqlite": {}})
    assert wish(PLAIN, BOTH).taken_for == (PLAIN_SQLITEDICT,)
    assert wish(PLAIN, TARGET).taken_for == (any_file,)
    assert wish(PLAIN, TARGET).name_of(any_file) == "v1"
    declared = {"name": "v1", "sqlite": {"migrations": migrations(1, checks=["SELECT 1"])}}
    assert wish(declared, TARGET, spec__unmarked=["v1"]).taken_for == (
        Format.from_spec({"sqlite": declared["sqlite"]}),
    )


def test_an_empty_part_beside_sqlitedict_is_the_same_format() -> None:
    """A database in the one is in the other: nothing is converted."""
    wanted = wish({"name": "v2", "sqlitedict": ROWS, "sqlite": {}})
    on_disk = File(PATH, Disk.MARKED, Format.from_spec({"sqlitedict": ROWS}))
    action = decide(at_gate(wanted, on_disk))
    assert (action.phase, action.gate_open) == (Phase.CONVERTED, True)


def test_an_app_that_reads_the_new_schema_only() -> None:
    """A file without a marker is guarded like any other: the app must read it to be started on it."""
    suspended = {"strategy": "OnRestart", "suspended": True}
    wanted = wish(PLAIN, TARGET, spec__rollout=suspended)
    assert decide(at_gate(wanted, UNMARKED, "v1", "v2")).gate_open
    held = decide(at_gate(wanted, UNMARKED, "v2"))
    assert not held.gate_open
    assert "the app reads v2, the database is in v1, so the gate stays closed" in held.message
    # Not named by any format: then no app says that it reads it.
    unnamed = decide(at_gate(wish(TARGET, spec__rollout=suspended), UNMARKED, "v2"))
    assert not unnamed.gate_open
    assert decide(at_gate(wish(TARGET), UNMARKED, "v2")).convert == (Planned(PATH, "v2"),)


@pytest.mark.parametrize(
    ("formats", "file", "told"),
    [
        ((PLAIN, TARGET), UNMARKED, FormatInfo("v1", "sqlite", "", "", "")),
        ((PLAIN, BOTH), UNMARKED, FormatInfo("", "sqlitedict", "natural", "pickle", "none")),
        (
            (PLAIN, TARGET),
            File(PATH, Disk.MARKED, Format.from_spec(TARGET)),
            FormatInfo("v2", "sqlite", "", "", ""),
        ),
        (
            (PLAIN, BOTH),
            File(PATH, Disk.MARKED, Format.from_spec(BOTH)),
            FormatInfo("v2", "sqlite", "hierarchical", "msgpack", "none"),
        ),
    ],
)
def test_the_labels_of_the_metric(
    formats: tuple[dict[str, Any], ...], file: File, told: FormatInfo
) -> None:
    """The engine, and of the part about rows the encodings; empty where the format says nothing of rows."""
    assert format_infos(wish(*formats), [file]) == {told: 1}


def test_a_format_that_only_newer_sidecars_know() -> None:
    """A parameter of a newer release is passed over in other formats, and refused in the target."""
    newer = {"name": "v3", "sqlite": {"migrations": migrations(1, up="x")}}
    assert [name for name, _ in wish(PLAIN, TARGET, newer).named] == ["v1", "v2"]
    with pytest.raises(InvalidObject, match='unknown field "up"'):
        wish(PLAIN, TARGET, newer, spec__target="v3")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A format whose migrations are not mounted is passed over as long as nobody asks for it."""
    missing = {"name": "v3", "sqlite": {"migrationsFrom": {"folder": str(tmp_path / "none")}}}
    assert [name for name, _ in wish(PLAIN, TARGET, missing).named] == ["v1", "v2"]
    with pytest.raises(InvalidObject, match=f"{tmp_path}/none cannot be read"):
        wish(PLAIN, TARGET, missing, spec__target="v3")


def test_what_is_kept_on_the_volume() -> None:
    """A wish with migrations is read back from what the volume keeps as it was."""
    wanted = wish(PLAIN, BOTH)
    stored = Stored.from_document(Stored(wanted).to_document())
    assert stored == Stored(wanted)
