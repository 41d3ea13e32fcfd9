"""The API's formats and the store's are described apart (the API imports nothing); they agree."""

from __future__ import annotations

import itertools

import pytest

from format_operator.api.formats import (
    IMPLIED_UNMARKED,
    READ_ONLY_KEYS,
    SQLITEDICT,
    SqlitedictParameters,
)
from format_operator.api.models import StorageFormat
from format_operator.api.schema import Choice, props
from format_store import PLAIN_SQLITEDICT, Format, keys
from tests.support.objects import storageformat

CHOICES = {
    info.name: info.kind.words
    for _, info in props(SqlitedictParameters)
    if isinstance(info.kind, Choice)
}


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


def test_the_store_reads_what_the_api_lets_no_target_be() -> None:
    """The encodings that are read only are the same on both sides."""
    names = [name for name in keys.names() if isinstance(keys.get(name), keys.ReadOnlyKeyEncoding)]
    assert names == [READ_ONLY_KEYS]


def test_both_mean_the_same_by_plain() -> None:
    """What is implied when `unmarked` is left out is the store's plain sqlitedict."""
    assert Format.from_spec(IMPLIED_UNMARKED.to_spec()).same_bytes_as(PLAIN_SQLITEDICT)


def test_a_format_left_bare_is_the_same_in_both() -> None:
    """Defaults are the same on both sides."""
    for engine in (SQLITEDICT,):  # the store's `sqlite` comes later
        body = storageformat(
            spec__formats=[{"name": "v1", engine: {}}], spec__target="v1", spec__unmarked=["v1"]
        )
        named = StorageFormat.from_object(body).spec.target_format
        bare = Format.from_spec({"name": "v1", engine: {}})
        assert Format.from_spec(named.to_spec()).parameters == bare.parameters
