"""The codec keeps to what the store asks of one, dates and all."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import strategies as st

from format_store.codecs import Undecodable, Unencodable
from format_store.testing import CodecConformance
from shelve_formats.tagged_json import TaggedJson

_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.datetimes(timezones=st.just(UTC) | st.none()).map(lambda moment: moment.replace(fold=0))
    | st.dates()
    | st.times().map(lambda moment: moment.replace(fold=0))
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
)
_names = st.sampled_from(["$date", "$dict", "$tuple", "$", "plain"]) | st.text(max_size=3)


class TestTaggedJson(CodecConformance):
    codec = TaggedJson()
    overlaps = frozenset({"json"})  # it is JSON, too
    values = st.recursive(
        _leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(
                _names | st.integers() | st.tuples(st.text(max_size=2)), inner, max_size=3
            )
        ),
        max_leaves=6,
    )


def test_it_stays_readable() -> None:
    """Values look as the module says."""
    value = {"due": date(2026, 11, 25), "size": (3, 4)}
    text = '["tagged-json/1",{"due":{"$date":"2026-11-25"},"size":{"$tuple":[3,4]}}]'
    assert TaggedJson().encode(value) == text
    assert TaggedJson().decode(text) == value


@pytest.mark.parametrize(
    "value", [{1, 2}, date, object(), datetime, [timedelta], type("Late", (time,), {})(1)], ids=repr
)
def test_what_has_no_form_is_refused(value: object) -> None:
    """Sets, classes, subclasses."""
    with pytest.raises(Unencodable):
        TaggedJson().encode(value)


@pytest.mark.parametrize(
    "text",
    ['["tagged-json/2",1]', '["tagged-json/1"]', "1", '["tagged-json/1",{"$import":"os"}]',
     '["tagged-json/1",{"a":1,"a":2}]', '["tagged-json/1",{"$date":"soon"}]', '["tagged-json/1",{"$dict":[[[],1]]}]',
     '["tagged-json/1",{"$date":"2026-11-25","b":1}]', '["tagged-json/1",{"$decimal":{}}]'],
)  # fmt: skip
def test_what_it_never_writes_is_refused(text: str) -> None:
    """Other versions, unknown tags, keys that are there twice."""
    with pytest.raises(Undecodable):
        TaggedJson().decode(text)
