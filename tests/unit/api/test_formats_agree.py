"""The API's formats and the store's are described apart (the API imports nothing); they agree."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from format_operator.api import sqlite
from format_operator.api.formats import (
    ENGINES,
    IMPLIED_UNMARKED,
    READ_ONLY_KEYS,
    SqlitedictParameters,
)
from format_operator.api.models import StorageFormat
from format_operator.api.schema import Choice, Prop, props
from format_store import PLAIN_SQLITEDICT, Format, keys
from format_store.engines.sqlite import migrations as store_migrations
from format_store.engines.sqlite import parameters
from tests.support.objects import ABSENT, migrations, storageformat

SQLITE_CHOICES = [
    info for _, info in props(sqlite.SqliteParameters) if isinstance(info.kind, Choice)
]
CHOICES = {
    info.name: info.kind.words
    for _, info in props(SqlitedictParameters)
    if isinstance(info.kind, Choice)
}


def words(info: Prop) -> list[str]:
    """What a field takes that is one of a few words."""
    assert isinstance(info.kind, Choice)
    return info.kind.words


@pytest.mark.parametrize("values", list(itertools.product(*CHOICES.values())), ids="-".join)
def test_the_store_knows_what_the_api_accepts(values: tuple[str, ...]) -> None:
    """Whatever the API server lets through, the store can be told, and it means the same."""
    parameters = dict(zip(CHOICES, values, strict=True)) | {"tables": ["unnamed"]}
    formats = [{"name": "v1", "sqlitedict": parameters}, {"name": "v2", "sqlitedict": {}}]
    body = storageformat(spec__formats=formats, spec__target="v2", spec__unmarked=["v1"])
    named = StorageFormat.from_object(body).spec.formats[0]
    known = Format.from_spec(named.to_spec())
    assert known.engine in named.parts
    written = dict(known.parameters)
    assert list(written.pop("tables")) == ["unnamed"]
    assert written == dict(zip(CHOICES, values, strict=True))


@pytest.mark.parametrize("part", [None, {"valueCodec": "json"}])
@pytest.mark.parametrize(
    "parameters",
    [
        *({"pageSize": size} for size in sqlite._PAGE_SIZES),
        *({info.name: word} for info in SQLITE_CHOICES for word in words(info)),
        {
            "migrations": migrations(
                1, sqlite.MAX_NUMBER, name="first-step", down="SELECT 1", checks=["SELECT 1"]
            )
        },
    ],
    ids=str,
)
def test_the_store_knows_the_sqlite_part(
    parameters: dict[str, Any], part: dict[str, Any] | None
) -> None:
    """Every value of a `sqlite` part is the store's as well, alone and beside `sqlitedict`."""
    declared = {"name": "v2", "sqlite": parameters}
    if part is not None:
        declared["sqlitedict"] = part
    body = storageformat(spec__formats=[declared], spec__unmarked=ABSENT)
    named = StorageFormat.from_object(body).spec.target_format
    known = Format.from_spec(named.to_spec())
    assert known.engine == "sqlite"
    assert known == Format.from_spec(declared)
    assert known.to_spec()["sqlite"] == named.to_spec()["sqlite"] == parameters


def test_the_store_takes_the_same_fields() -> None:
    """Fields and bounds are declared on both sides, and are the same."""
    assert {info.name for _, info in props(sqlite.SqliteParameters)} == set(parameters._KNOWN)
    assert {info.name for _, info in props(sqlite.Migration)} == set(store_migrations._FIELDS)
    assert sqlite.MAX_NUMBER == store_migrations.MAX_NUMBER


def test_the_store_reads_what_the_api_lets_no_target_be() -> None:
    """The encodings that are read only are the same on both sides."""
    names = [name for name in keys.names() if isinstance(keys.get(name), keys.ReadOnlyKeyEncoding)]
    assert names == [READ_ONLY_KEYS]


def test_both_mean_the_same_by_plain() -> None:
    """What is implied when `unmarked` is left out is the store's plain sqlitedict."""
    assert Format.from_spec(IMPLIED_UNMARKED.to_spec()).same_bytes_as(PLAIN_SQLITEDICT)


def test_a_format_left_bare_is_the_same_in_both() -> None:
    """Defaults are the same on both sides."""
    for engine in ENGINES:
        body = storageformat(
            spec__formats=[{"name": "v1", engine: {}}], spec__target="v1", spec__unmarked=["v1"]
        )
        named = StorageFormat.from_object(body).spec.target_format
        bare = Format.from_spec({"name": "v1", engine: {}})
        assert Format.from_spec(named.to_spec()).parameters == bare.parameters
