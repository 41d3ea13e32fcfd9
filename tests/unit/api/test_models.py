"""The models without a server: what they read, refuse, hash and write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_operator.api.formats import IMPLIED_UNMARKED
from format_operator.api.models import (
    FormatState,
    FormatStateStatus,
    InvalidObject,
    Permit,
    Phase,
    StorageFormat,
    Strategy,
)
from format_operator.api.schema import Duration
from tests.support.objects import (
    ABSENT,
    INVALID,
    Invalid,
    complete,
    migrations,
    put,
    storageformat,
)


def target_hash(**changes: Any) -> str:
    return StorageFormat.from_object(storageformat(**changes)).spec.target_hash()


def test_defaults_are_filled_in() -> None:
    """What is left out has the documented default, in seconds where it is a duration."""
    spec = StorageFormat.from_object(storageformat()).spec
    assert spec.backup.retain_for == 0.0
    assert spec.rollout.strategy is Strategy.ROLLING_RESTART
    assert spec.rollout.max_unavailable == 1
    assert spec.rollout.canary is None
    assert spec.target_format.to_spec() == {
        "name": "v2",
        "sqlitedict": {
            "keyEncoding": "hierarchical",
            "valueCodec": "msgpack",
            "compression": "zstd",
            "sharedReferences": "refuse",
        },
    }


@pytest.mark.parametrize("invalid", INVALID, ids=lambda one: one.id)
def test_invalid_is_refused(invalid: Invalid) -> None:
    """Without a server, every mistake is refused at the same field and says what to write."""
    with pytest.raises(InvalidObject) as refused:
        StorageFormat.from_object(invalid.body)
    assert (invalid.python_says or invalid.says) in refused.value.message
    assert refused.value.path == (invalid.field or "metadata.name")


def test_unknown_fields() -> None:
    """A field that nobody knows is let through from a server, and refused in a person's file."""
    body = storageformat(spec__unmarkt=["v1"])
    StorageFormat.from_object(body)
    with pytest.raises(InvalidObject, match=r'unknown field "unmarkt".*unmarked') as refused:
        StorageFormat.from_object(body, strict=True)
    assert refused.value.path == "spec"


def test_unknown_parameters_of_an_engine() -> None:
    """A parameter of a newer release is refused even from a server: it would change the bytes."""
    body = storageformat()
    put(body, "spec.formats.1.sqlitedict.pageSize", 4096)
    with pytest.raises(InvalidObject, match='unknown field "pageSize"'):
        StorageFormat.from_object(body)


def test_unknown_engines_and_fields_of_a_migration() -> None:
    """An engine beside a known one, or a field of a migration, that a newer release has: refused."""
    body = storageformat()
    put(body, "spec.formats.1.leveldb", {})
    with pytest.raises(InvalidObject, match=r'unknown field "leveldb".*name, sqlitedict, sqlite'):
        StorageFormat.from_object(body)
    body = storageformat()
    put(body, "spec.formats.1.sqlite", {"migrations": migrations(1, up="")})
    with pytest.raises(InvalidObject, match='unknown field "up"') as refused:
        StorageFormat.from_object(body)
    assert refused.value.path == "spec.formats[1].sqlite.migrations[0]"


def test_the_hash_is_stable() -> None:
    """The hash is what it was in earlier releases: a new one would start every conversion anew."""
    assert target_hash() == "5c8ee212022bffed"


@pytest.mark.parametrize(
    "changes",
    [
        {"spec__rollout": {"suspended": True, "partition": 2}},
        {"spec__backup": {"retainFor": "24h"}},
        {"spec__onFailure": "StartApp"},
        {"spec__database": {"path": "/data/orders.db", "openersUnchecked": True}},
        {"spec__unmarked": None},  # plain sqlitedict is what v1 says
    ],
)
def test_the_hash_ignores_what_changes_no_bytes(changes: dict[str, Any]) -> None:
    """Retention, rollout and names start nothing anew; nor does saying a default in full."""
    assert target_hash(**changes) == target_hash()


def test_the_hash_ignores_names_and_order() -> None:
    """Renaming a format, or listing tables or unmarked formats in another order, is no change."""
    renamed = storageformat(spec__target="new")
    renamed["spec"]["formats"][1]["name"] = "new"
    assert StorageFormat.from_object(renamed).spec.target_hash() == target_hash()
    one, other = storageformat(), storageformat()
    one["spec"]["unmarked"] = ["v1", "v2"]
    other["spec"]["unmarked"] = ["v2", "v1"]
    put(one, "spec.formats.1.sqlitedict.tables", ["a", "b"])
    put(other, "spec.formats.1.sqlitedict.tables", ["b", "a"])
    hashes = {StorageFormat.from_object(body).spec.target_hash() for body in (one, other)}
    assert len(hashes) == 1


def test_the_hash_sees_what_changes_bytes() -> None:
    """Path, target, the target's parameters and what unmarked files may be are in the hash."""
    body = storageformat()
    put(body, "spec.formats.1.sqlitedict.compression", "zlib")
    hashes = {
        target_hash(),
        target_hash(spec__target="v1"),
        target_hash(spec__unmarked=["v2"]),
        target_hash(spec__database={"path": "/data/others.db"}),
        StorageFormat.from_object(body).spec.target_hash(),
    }
    assert len(hashes) == 5


def sqlite_hash(part: dict[str, Any] | None, *, alone: bool = False, **changes: Any) -> str:
    """The hash with this ``sqlite`` part in the target, beside its sqlitedict part or alone."""
    body = storageformat(**changes)
    target = body["spec"]["formats"][1]
    if alone:
        del target["sqlitedict"]
    if part is not None:
        target["sqlite"] = part
    return StorageFormat.from_object(body).spec.target_hash()


def test_both_parts_are_kept_apart() -> None:
    """A format with both parts is written as it was read, each part with its own defaults."""
    part = {"pageSize": 8192, "journalMode": "wal", "migrations": migrations(1, 20260131120000)}
    body = storageformat()
    put(body, "spec.formats.1.sqlite", part)
    named = StorageFormat.from_object(body).spec.target_format
    plain = StorageFormat.from_object(storageformat()).spec.target_format
    assert named.to_spec() == plain.to_spec() | {"sqlite": part}
    again = storageformat(spec__formats=[named.to_spec()], spec__target="v2", spec__unmarked=["v2"])
    assert StorageFormat.from_object(again).spec.target_format == named


def test_an_empty_part_beside_sqlitedict_says_nothing() -> None:
    """The hash is that of sqlitedict alone; alone, an empty part is a format of its own."""
    assert sqlite_hash({}) == target_hash()
    assert sqlite_hash({}, alone=True) != target_hash()


def test_the_hash_sees_what_a_migration_does() -> None:
    """Layout, statements, checks and the way back are in the hash; what a migration is called is not."""
    one = migrations(1)
    hashes = [
        sqlite_hash({"pageSize": 8192}),
        sqlite_hash({"autoVacuum": "full"}),
        sqlite_hash({"migrations": one}),
        sqlite_hash({"migrations": migrations(2)}),
        sqlite_hash({"migrations": migrations(1, 2)}),
        sqlite_hash({"migrations": migrations(1, down="DROP TABLE t1")}),
        sqlite_hash({"migrations": migrations(1, checks=["SELECT 1"])}),
        sqlite_hash({"migrationsFrom": {"folder": "/migrations"}}),
        sqlite_hash({"migrationsFrom": {"folder": "/migrations", "upTo": 3}}),
        sqlite_hash({"migrationsFrom": {"folder": "/migrations", "upTo": 0}}),
        target_hash(),
    ]
    assert len(set(hashes)) == len(hashes)
    assert sqlite_hash({"migrations": migrations(1, name="first")}) == hashes[2]


def test_what_an_unmarked_file_may_be() -> None:
    """Left out, it is plain sqlitedict where the target has such a part, and nothing is implied otherwise."""
    part = {"migrations": migrations(1)}
    body = storageformat(spec__unmarked=ABSENT)
    put(body, "spec.formats.1.sqlite", part)
    spec = StorageFormat.from_object(body).spec
    assert spec.unmarked_formats == (IMPLIED_UNMARKED,)
    put(body, "spec.formats.1", {"name": "v2", "sqlite": part})
    spec = StorageFormat.from_object(body).spec
    assert spec.unmarked_formats == ()
    assert spec.unmarked_for(spec.format("v1")) == (IMPLIED_UNMARKED,)
    put(body, "spec.unmarked", ["v1"])
    spec = StorageFormat.from_object(body).spec
    assert spec.unmarked_formats == (spec.format("v1"),)


def test_the_older_of_two_sorts_first() -> None:
    """Age decides between two objects for one path, and the uid between two of one second."""

    def made(uid: str, created: str) -> StorageFormat:
        body = storageformat()
        body["metadata"] |= {"uid": uid, "creationTimestamp": created}
        return StorageFormat.from_object(body)

    old = made("z", "2026-01-31T12:00:00Z")
    new = made("a", "2026-01-31T12:00:01Z")
    twin = made("b", "2026-01-31T12:00:01Z")
    unborn = StorageFormat.from_object(storageformat())
    ordered = sorted([unborn, twin, new, old], key=StorageFormat.age_key)
    assert ordered == [old, new, twin, unborn]


def test_deletion_is_seen() -> None:
    """An object on its way out says so."""
    body = storageformat()
    assert not StorageFormat.from_object(body).deleting
    body["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert StorageFormat.from_object(body).deleting


def test_a_permit_is_for_one_target_and_ends() -> None:
    """A permit allows a conversion to its target until it expires, and nothing else."""
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    body = {"spec": {"permit": {"targetHash": "aa", "expires": "2026-01-31T13:00:00+01:00"}}}
    permit = FormatState.from_object(body).permit
    assert permit == Permit("aa", now)
    assert permit is not None
    assert permit.allows("aa", now - timedelta(seconds=1))
    assert not permit.allows("aa", now)
    assert not permit.allows("bb", now - timedelta(seconds=1))


def test_a_formatstate_without_spec() -> None:
    """A FormatState as a sidecar makes it holds no permit."""
    state = FormatState.from_object({"metadata": {"name": "orders.orders-0", "uid": "u"}})
    assert state.name == "orders.orders-0"
    assert state.permit is None
    assert state.claim_uid is None


def test_a_status_is_written_as_it_was_read() -> None:
    """Reading and writing a status are inverse, with all fields set and with each one alone."""
    body = complete(FormatStateStatus)
    assert FormatStateStatus.from_dict(body).to_dict() == body
    for key, value in body.items():
        assert FormatStateStatus.from_dict({key: value}).to_dict() == {key: value}


def test_a_merge_patch_names_every_key() -> None:
    """What is not known is null in a merge patch, in nested objects too, so that it goes away."""
    patch = FormatStateStatus.from_dict({"phase": "Idle", "backup": {"present": False}})
    written = patch.to_merge_patch()
    assert set(written) == set(complete(FormatStateStatus))
    assert written["phase"] == Phase.IDLE
    assert written["progress"] is None
    assert written["backup"] == dict.fromkeys(written["backup"], None) | {"present": False}


@given(st.integers(min_value=0, max_value=10**9))
def test_durations_survive(milliseconds: int) -> None:
    """A duration that is written is read back as the same number of seconds."""
    kind = Duration()
    assert kind.parse(kind.dump(milliseconds / 1000), "x") == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("10m", 600), ("24h", 86400), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    """Durations mean what they mean in Go."""
    assert Duration().parse(text, "x") == seconds
