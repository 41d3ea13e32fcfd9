"""What is wrong is found, by the check that is meant to find it."""

from __future__ import annotations

import json
import zlib
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any

import msgpack
import pytest

from format_store import Format, inspect
from format_store.codecs.compressions import NoCompression, Zlib
from format_store.codecs.errors import Undecodable, ValueTooLarge
from format_store.codecs.json_codec import Json
from format_store.codecs.msgpack_codec import MessagePack
from format_store.keys import Hierarchical, Natural, directory_of
from format_store.testing import (
    CodecConformance,
    CompressionConformance,
    EngineConformance,
    KeyEncodingConformance,
    tools,
)
from tests.conformance.broken_engines import ENGINES
from tests.conformance.test_engines import PlainSource, Records
from tests.support.databases import read_table


def run(suite: object, check: str, **fixtures: Any) -> None:
    """The check as pytest would run it, with each of its parameters."""
    method = getattr(suite, check)
    marks = [mark for mark in getattr(method, "pytestmark", []) if mark.name == "parametrize"]
    if not marks:
        method(**fixtures)
    for mark in marks:
        name, values = mark.args
        for value in values:
            method(**fixtures, **{name: value})


def name_of(part: object) -> str:
    return part if isinstance(part, str) else type(part).__name__


def require_caught(suite: object, check: str, because: str | None = None, **fixtures: Any) -> None:
    """The check fails; by an assertion, or by an error that it does not allow."""
    with pytest.raises(BaseException, match=because) as caught:
        run(suite, check, **fixtures)
    # Nor is it a mistake of this test.
    assert not isinstance(
        caught.value,
        (pytest.skip.Exception, KeyboardInterrupt, NameError, AttributeError, ImportError),
    )


# --- codecs ----------------------------------------------------------------------------------------------


class TuplesBecomeLists(Json):
    """Says that tuples come back."""

    name = "t"
    exact_types = frozenset({NoneType, int, list, tuple})


class Lenient(MessagePack):
    """Reads the first value, and leaves the rest."""

    name = "t"

    def decode(self, stored: Any) -> object:
        unpacker = msgpack.Unpacker(strict_map_key=False)
        try:
            unpacker.feed(stored)
            return unpacker.unpack()
        except (ValueError, TypeError, msgpack.OutOfData) as error:
            raise Undecodable("no") from error


class OtherErrors(MessagePack):
    """Lets the library's errors out."""

    name = "t"

    def decode(self, stored: Any) -> object:
        return msgpack.unpackb(stored, strict_map_key=False)


class NullSignature(MessagePack):
    """Is NULL for NULL, which a CHECK takes."""

    name = "t"

    def signature_sql(self, column: str) -> str:
        return f"{column} >= x'00'"


class WideSignature(MessagePack):
    """Takes every blob."""

    name = "t"

    def signature_sql(self, column: str) -> str:
        return f"(typeof({column})='blob')"


class NarrowSignature(MessagePack):
    """Does not take what is one byte long."""

    name = "t"

    def signature_sql(self, column: str) -> str:
        return f"({super().signature_sql(column)} AND length({column})>1)"


class Believing(MessagePack):
    """Finds everything plausible."""

    name = "t"

    def plausible(self, _data: bytes) -> bool:
        return True


class Endless(MessagePack):
    """Looks forever for the rest of a value that is cut short."""

    name = "t"

    def decode(self, stored: Any) -> object:
        while True:
            try:
                return super().decode(stored)
            except Undecodable as error:
                if "incomplete" not in str(error):
                    raise


class Obliging(Json):
    """Makes words of what it does not know."""

    name = "t"

    def encode(self, value: object) -> str:
        return json.dumps(value, default=repr)


class Sorting(MessagePack):
    """Tidies up the value that it is given."""

    name = "t"

    def encode(self, value: object) -> bytes:
        if isinstance(value, list):
            value.reverse()
        return super().encode(value)


class Forgetful(MessagePack):
    """Zero is None."""

    name = "t"

    def encode(self, value: object) -> bytes:
        return super().encode(None if value == 0 else value)


class Padded(MessagePack):
    """Ends with a byte that may as well be missing."""

    name = "t"

    def encode(self, value: object) -> bytes:
        return super().encode(value) + b"\0"

    def decode(self, stored: Any) -> object:
        try:
            return super().decode(stored)
        except Undecodable:
            return super().decode(stored[:-1])


class OfAnArgument(MessagePack):
    """Cannot be made by its entry point."""

    name = "t"

    def __init__(self, _level: int) -> None:
        pass


class TextLoving(MessagePack):
    """Takes text for bytes."""

    name = "t"

    def decode(self, stored: Any) -> object:
        return super().decode(stored.encode() if isinstance(stored, str) else stored)


CODECS = [
    (TuplesBecomeLists(), "test_exact_types_come_back_exactly"),
    (TuplesBecomeLists(), "test_conversion_there_and_back"),
    (Forgetful(), "test_values_come_back"),
    (Sorting(), "test_values_come_back"),
    (Lenient(), "test_nothing_after_the_value_is_passed_over"),
    (Padded(), "test_truncated_values_are_not_taken_for_the_whole"),
    (OtherErrors(), "test_damaged_values_are_refused_in_time"),
    (Endless(), "test_damaged_values_are_refused_in_time"),
    (OtherErrors(), "test_numbers_and_null_are_no_values"),
    (NullSignature(), "test_numbers_and_null_are_no_values"),
    (NullSignature(), "test_signature_is_true_for_its_own"),
    (NarrowSignature(), "test_signature_is_true_for_its_own"),
    (WideSignature(), "test_signature_is_apart_from_the_built_in_ones"),
    (Believing(), "test_python_and_sql_agree"),
    (Obliging(), "test_what_it_cannot_hold_is_refused"),
    (TextLoving(), "test_text_is_no_value_of_a_binary_codec"),
    (OfAnArgument(1), "test_protocol"),
]


@pytest.mark.parametrize(("broken", "check"), CODECS, ids=name_of)
def test_broken_codecs(broken: Any, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake of a codec fails its check."""
    monkeypatch.setattr(tools, "SECONDS", 0.2)

    class Suite(CodecConformance):
        codec = broken
        overlaps = frozenset({"msgpack", "json"} if broken.text else {"msgpack"})

    require_caught(Suite(), check)


# --- compressions ----------------------------------------------------------------------------------------


class Unbounded(Zlib):
    """Unpacks first and looks at the size then."""

    def decompress(self, data: bytes, max_size: int) -> bytes:
        try:
            plain = zlib.decompress(data)
        except zlib.error as error:
            raise Undecodable("no") from error
        if len(plain) > max_size:
            raise ValueTooLarge("too large")
        return plain


class Partial(Zlib):
    """Takes what there is of a stream."""

    def decompress(self, data: bytes, max_size: int) -> bytes:
        try:
            return zlib.decompressobj().decompress(data, max_size)
        except zlib.error as error:
            raise Undecodable("no") from error


class Raising(Zlib):
    """Lets the library's errors out."""

    def decompress(self, data: bytes, _max_size: int) -> bytes:
        return zlib.decompress(data)


class Stripping(NoCompression):
    """Drops zeros at the end."""

    name = "strip"

    def compress(self, data: bytes) -> bytes:
        return data.rstrip(b"\0")


class Anything(Zlib):
    """Takes every blob for its own."""

    def signature_sql(self, column: str) -> str:
        return f"(typeof({column})='blob')"


class Nothing(Zlib):
    """Is NULL for NULL."""

    def signature_sql(self, column: str) -> str:
        return f"({column} > x'00')"


class OfALevel(Zlib):
    """Cannot be made by its entry point."""

    def __init__(self, _level: int) -> None:
        pass


COMPRESSIONS = [
    (OfALevel(1), "test_protocol"),
    (Stripping(), "test_bytes_come_back"),
    (Raising(), "test_the_size_limit_holds"),
    (Unbounded(), "test_a_bomb_is_refused_before_it_is_unpacked"),
    (Raising(), "test_damaged_data_is_refused_in_time"),
    (Partial(), "test_truncated_data_is_not_taken_for_the_whole"),
    (Partial(), "test_nothing_after_the_end_is_passed_over"),
    (Nothing(), "test_signature_is_false_for_what_is_no_blob"),
    (Nothing(), "test_signature_is_true_for_its_own"),
    (Anything(), "test_signature_is_apart_from_the_built_in_ones"),
]


@pytest.mark.parametrize(("broken", "check"), COMPRESSIONS, ids=name_of)
def test_broken_compressions(broken: Any, check: str) -> None:
    """Each mistake of a compression fails its check."""

    class Suite(CompressionConformance):
        compression = broken

    require_caught(Suite(), check)


# --- keys ------------------------------------------------------------------------------------------------


class Folding(Natural):
    """Two keys are one."""

    def encode(self, key: str) -> str:
        return super().encode(key).casefold()


class Short(Natural):
    """Keeps two characters."""

    def encode(self, key: str) -> str:
        return super().encode(key)[:2]


class Forgiving(Hierarchical):
    """Does not look at the level."""

    def decode(self, stored: Any) -> str:
        return super().decode(
            self.encode(stored[2:].replace(b"\xff", b"/").decode("utf-8", "replace"))
        )


class Unguarded(Natural):
    """Its guard is NULL for NULL, and true for blobs."""

    def guard(self, column: str) -> str:
        return f"{column} >= ''"


class Strict(Natural):
    """Its guard does not take all that it stores."""

    def guard(self, column: str) -> str:
        return f"(typeof({column})='text' AND length({column})>0)"


class NarrowRange(Natural):
    """Forgets names that begin with what sorts high."""

    def range_of_children(self, path: str) -> tuple[str, str]:
        super().range_of_children(path)
        return directory_of(path), directory_of(path) + "z"


class SurrogatesPass(Natural):
    """Takes whatever it is given."""

    def encode(self, key: str) -> str:
        return key


class LevelOfText(Hierarchical):
    """Counts characters in SQL, where a NUL ends the text."""

    def encode_sql(self, key: str, otherwise: str) -> str:
        return super().encode_sql(f"substr({key}, 1, length({key}))", otherwise)


class AnyLevel(Hierarchical):
    """Does not look at the level in SQL."""

    def decodes_sql(self, stored: str, key: str, otherwise: str) -> str:
        text = f"replace(CAST(substr({stored},3) AS TEXT),CAST(x'ff' AS TEXT),'/')"
        return f"{otherwise} IS {key} OR {text} IS {key}"


class Incomplete:
    """Has no guard."""

    name = "incomplete"
    affinity = "TEXT"
    encode = decode = range_of_children = str


KEYS = [
    (Incomplete(), "test_protocol"),
    (Folding(), "test_keys_come_back"),
    (Short(), "test_different_keys_are_stored_differently"),
    (Forgiving(), "test_what_it_never_writes_is_refused"),
    (Forgiving(), "test_other_types_are_refused"),
    (SurrogatesPass(), "test_what_is_no_key_is_refused"),
    (Hierarchical(), "test_order"),
    (Unguarded(), "test_guard"),
    (Strict(), "test_guard"),
    (NarrowRange(), "test_range_of_children_holds_every_child"),
    (LevelOfText(), "test_sql_encodes_as_python_does"),
    (AnyLevel(), "test_sql_decodes_as_python_does"),
]


@pytest.mark.parametrize(("broken", "check"), KEYS, ids=name_of)
def test_broken_key_encodings(broken: Any, check: str) -> None:
    """Each mistake of a key encoding fails its check. (Hierarchical keys are not in natural order.)"""

    class Suite(KeyEncodingConformance):
        encoding = broken
        order = staticmethod(str.encode)

    require_caught(Suite(), check)


# --- engines ---------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken engines as an installed distribution declares its entry points."""
    site = tmp_path / "site"
    metadata = site / "broken-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    lines = [f"{engine.name} = {engine.__module__}:{engine.__name__}" for engine in ENGINES]
    (metadata / "entry_points.txt").write_text("\n".join(["[storageformat.engines]", *lines, ""]))
    monkeypatch.syspath_prepend(site)


ENGINES_AND_CHECKS = [
    ("broken-permissive", "test_formats", "DID NOT RAISE"),
    ("broken-demanding", "test_without_records", "it has no marker"),
    ("broken-loses-one", "test_there_and_back", "read \\["),
    ("broken-credulous", "test_what_is_undeclared_is_refused", "integrity_check"),
    ("broken-unverified", "test_corrupted_staging_is_found", "its marker is gone"),
    ("broken-careless", "test_a_damaged_source_is_an_error_of_ours", "unexpected"),
    ("broken-borrowing", "test_a_crash_at_any_failpoint_loses_nothing", "no such table"),
]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("name", "check", "because"), ENGINES_AND_CHECKS)
def test_broken_engines(name: str, check: str, because: str, tmp_path: Path) -> None:
    """Each mistake of an engine fails its check."""

    class Suite(PlainSource):
        source = Format.from_spec({name: {}})
        target = Format.from_spec({name: {"keyEncoding": "hierarchical"}})

        def read(self, path: Path) -> Records:
            found = inspect(path).format
            return read_table(path, {} if found is None else found.parameters)

    suite = Suite()
    path = tmp_path / "database.db"
    possible: dict[str, Any] = {"tmp_path": tmp_path, "database": path}
    wanted = {name: possible[name] for name in signature(getattr(suite, check)).parameters}
    if "database" in wanted:
        suite.write(path, suite.records)
    require_caught(suite, check, because, **wanted)


def test_every_check_was_seen_to_fail() -> None:
    """Nobody adds a check to a suite without a mistake that it catches."""
    caught = {
        CodecConformance: {check for _, check in CODECS},
        CompressionConformance: {check for _, check in COMPRESSIONS},
        KeyEncodingConformance: {check for _, check in KEYS},
        EngineConformance: {check for _, check, _ in ENGINES_AND_CHECKS},
    }
    for suite, checks in caught.items():
        known = {name for name in vars(suite) if name.startswith("test_")}
        assert known - checks == set(), suite.__name__
