"""The conformance suite over everything that is built in."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from format_store import keys
from format_store.codecs import codec_names, compression_names, get_codec, get_compression
from format_store.keys import compare_with_slash
from format_store.testing import (
    CodecConformance,
    CompressionConformance,
    KeyEncodingConformance,
)


class TestPickle(CodecConformance):
    codec = get_codec("pickle")


class TestJson(CodecConformance):
    codec = get_codec("json")
    overlaps = frozenset({"msgpack"})  # a BLOB of one digit is MessagePack's, too


class TestMessagePack(CodecConformance):
    codec = get_codec("msgpack")


class TestRaw(CodecConformance):
    codec = get_codec("raw")
    overlaps = frozenset({"pickle", "json", "msgpack", "zlib", "zstd"})


class TestNoCompression(CompressionConformance):
    compression = get_compression("none")
    overlaps = frozenset({"pickle", "json", "msgpack", "zlib", "zstd"})


class TestZlib(CompressionConformance):
    compression = get_compression("zlib")


class TestZstd(CompressionConformance):
    compression = get_compression("zstd")


class TestNatural(KeyEncodingConformance):
    encoding = keys.get("natural")
    order = staticmethod(str.encode)


def by_level(key: str) -> tuple[bool, int, bytes]:
    level = key.count("/") - key.endswith("//")
    return key.startswith("__oxia/"), level, key.encode().replace(b"/", b"\xff")


class TestHierarchical(KeyEncodingConformance):
    encoding = keys.get("hierarchical")
    order = staticmethod(by_level)
    keys = st.text(st.sampled_from("/ab"), max_size=6).map("__oxia/".__add__)


def by_span(key: str) -> list[tuple[bool, bytes]]:
    *spans, last = key.encode().split(b"/")
    return [*((True, span) for span in spans), (False, last)]


class TestOldCompareHierarchical(KeyEncodingConformance):
    encoding = keys.get("old-compare-hierarchical")
    order = staticmethod(by_span)
    compare = staticmethod(compare_with_slash)


@pytest.mark.parametrize(
    ("names", "suite", "attribute"),
    [
        (codec_names, CodecConformance, "codec"),
        (compression_names, CompressionConformance, "compression"),
        (keys.names, KeyEncodingConformance, "encoding"),
    ],
    ids=["codecs", "compressions", "keys"],
)
def test_nothing_built_in_is_left_out(names: object, suite: type, attribute: str) -> None:
    """Every name that the registries know has its class above."""
    assert callable(names)
    classes: list[type] = suite.__subclasses__()
    tested = [getattr(found, attribute).name for found in classes if found.__module__ == __name__]
    assert sorted(tested) == sorted(names())
