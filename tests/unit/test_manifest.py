"""The manifest of a conversion: it reads back as it was written, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from format_store import Format, errors, manifest
from format_store.layout import WorkDirectory
from format_store.manifest import FileStat, Manifest

DIGEST = "sha256:" + "0123456789abcdef" * 4
MANIFEST = Manifest(
    conversion_id="20261123T104639Z-3f9a1c2b",
    database="orders.db",
    created_at="2026-11-23T10:46:39Z",
    tool_version="0.1.0",
    source_format=Format.sqlitedict(),
    target_format=Format.sqlitedict(key_encoding="hierarchical", tables=["größer"]),
    source=FileStat(17, 4096, 1_700_000_000_123_456_789),
    started_at=1.5,
    retain_for=3600.0,
    note="a note",
).ready(DIGEST, FileStat(18, 8192, 2), DIGEST, 40)


@pytest.fixture
def work(tmp_path: Path) -> WorkDirectory:
    work = WorkDirectory(tmp_path / MANIFEST.conversion_id)
    work.path.mkdir()
    return work


def document(work: WorkDirectory) -> dict[str, Any]:
    MANIFEST.save(work)
    loaded: dict[str, Any] = json.loads(work.manifest.read_bytes())
    return loaded


def require_unreadable(work: WorkDirectory, data: bytes) -> None:
    work.manifest.write_bytes(data)
    with pytest.raises(errors.UnreadableManifest) as caught:
        manifest.load(work)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert str(work.manifest) in str(caught.value)
    assert work.manifest.read_bytes() == data


def test_round_trip(work: WorkDirectory) -> None:
    """What is saved is what is loaded, nanoseconds and all; nothing else is left in the directory."""
    assert manifest.load(work) is None
    MANIFEST.save(work)
    assert manifest.load(work) == MANIFEST
    assert list(work.path.iterdir()) == [work.manifest]


def test_of_another_conversion(work: WorkDirectory) -> None:
    """A manifest that names another conversion than its directory does is not this conversion's."""
    other = document(work) | {"conversionID": "20200101T000000Z-01234567"}
    require_unreadable(work, json.dumps(other).encode())


FIELDS = [
    "manifestVersion", "conversionID", "database", "createdAt", "startedAt", "toolVersion", "phase", "source",
    "sourceFormat", "targetFormat", "staging", "rows", "retainFor", "pinned", "retainUntil", "note",
]  # fmt: skip
NESTED = [
    (outer, inner)
    for outer in ("source", "staging")
    for inner in ("inode", "size", "mtimeNs", "digest")
]


def test_the_fields_are_all_here(work: WorkDirectory) -> None:
    """The lists that the tests below go through name every field."""
    found = document(work)
    assert sorted(found) == sorted(FIELDS)
    assert (
        sorted(found["source"])
        == sorted(found["staging"])
        == sorted({inner for _, inner in NESTED})
    )


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_missing(work: WorkDirectory, name: str) -> None:
    """No field has a default on disk: a manifest without one was not written by this version."""
    found = document(work)
    del found[name]
    require_unreadable(work, json.dumps(found).encode())


TEXTS = ("conversionID", "database", "toolVersion", "note")
WRONG: list[tuple[str, Any]] = [
    (name, wrong)
    for name in FIELDS
    for wrong in (list[int](), {"a": 1}, "certainly not")
    if not (isinstance(wrong, str) and name in TEXTS)
]


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=str)
def test_a_field_of_another_type(work: WorkDirectory, name: str, wrong: Any) -> None:
    """A field of another type is not bent into shape. (Any text will do where there is one.)"""
    require_unreadable(work, json.dumps({**document(work), name: wrong}).encode())


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"staging", "retainUntil"}))
def test_a_field_that_is_null(work: WorkDirectory, name: str) -> None:
    """Null stands only where something may be absent."""
    require_unreadable(work, json.dumps({**document(work), name: None}).encode())


@pytest.mark.parametrize(("outer", "inner"), NESTED)
@pytest.mark.parametrize(
    "wrong", [..., None, [], "certainly not"], ids=["missing", "null", "list", "text"]
)
def test_a_damaged_stat(work: WorkDirectory, outer: str, inner: str, wrong: Any) -> None:
    """What identifies the files decides about deleting them: every part of it has to be there."""
    found = document(work)
    if wrong is ...:
        del found[outer][inner]
    else:
        found[outer][inner] = wrong
    require_unreadable(work, json.dumps(found).encode())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("manifestVersion", 2),
        ("manifestVersion", 0),
        ("retainFor", 10**400),
        ("phase", "swapped"),
        ("staging", None),
        ("sourceFormat", {"leveldb": {}}),
        ("targetFormat", {"sqlitedict": {"valueCodec": "yaml"}}),
        ("pinned", "false"),
        ("pinned", 0),
        ("rows", 1.5),
        ("rows", "40"),
        ("startedAt", "1.5"),
        ("retainFor", "3600"),
        ("retainUntil", "tomorrow"),
        ("createdAt", "yesterday"),
    ],
)
def test_a_field_with_a_value_that_cannot_be(work: WorkDirectory, name: str, wrong: Any) -> None:
    """A newer version, an unknown phase, a staging copy that is ready and not there, a time that is none."""
    require_unreadable(work, json.dumps({**document(work), name: wrong}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\x00" * 512,
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"manifestVersion": 1}',
        b" " * (2 << 20),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_no_manifest_at_all(work: WorkDirectory, data: bytes) -> None:
    """Empty, cut short, zeros after a power cut, or far too large."""
    require_unreadable(work, data)


@pytest.mark.parametrize("step", range(1, 40))
def test_cut_anywhere(work: WorkDirectory, step: int) -> None:
    """A manifest that is cut short is never taken for a whole one."""
    MANIFEST.save(work)
    data = work.manifest.read_bytes().rstrip()
    require_unreadable(work, data[: len(data) * step // 40])


# --- of a restoration -------------------------------------------------------------------------------------


RESTORATION = replace(
    MANIFEST,
    source_format=None,
    target_format=None,
    restores="20261122T104639Z-00000001",
    pinned=True,
)


@pytest.mark.parametrize(
    "written", [RESTORATION, replace(RESTORATION, source_format=Format.sqlitedict())]
)
def test_round_trip_of_a_restoration(work: WorkDirectory, written: Manifest) -> None:
    """It names what it restores, may not know the formats, and has a version that older tools refuse."""
    written.save(work)
    assert manifest.load(work) == written
    assert json.loads(work.manifest.read_bytes())["manifestVersion"] == 2
    assert written.backup(work).rows is None


def test_a_conversion_knows_its_formats(work: WorkDirectory) -> None:
    """Only a restoration may leave them out; one that does not say what it restores is none."""
    RESTORATION.save(work)
    told = json.loads(work.manifest.read_bytes())
    for changes in ({"manifestVersion": 1}, {"restores": None}):
        require_unreadable(work, json.dumps(told | changes).encode())
    del told["restores"]
    require_unreadable(work, json.dumps(told).encode())
