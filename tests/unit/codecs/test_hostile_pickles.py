"""Pickles that want something: nothing of it happens."""

from __future__ import annotations

import collections
import contextlib
import copyreg
import datetime as dt
import decimal
import fractions
import ipaddress
import os
import pathlib
import pickle
import struct
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format_store.codecs import Forbidden, Undecodable, Unencodable, get_codec
from format_store.codecs.canonical import canonical
from format_store.codecs.pickle_codec import ALLOWABLE

PLAIN = get_codec("pickle")
EVERYTHING = [f"{module}.{name}" for module, names in ALLOWABLE.items() for name in sorted(names)]
if os.name == "posix":
    EVERYTHING.remove("pathlib.WindowsPath")
GENEROUS = get_codec("pickle", pickle_allow=EVERYTHING)


class Calls:
    """Pickles as a call of ``function``, which runs when an unrestricted unpickler reads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that hostile pickles try to create; at the end it must not be there."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("codec", [PLAIN, GENEROUS], ids=["plain", "generous"])
@pytest.mark.parametrize("protocol", range(6))
def test_no_call_is_ever_made(canary: Path, codec: Any, protocol: int) -> None:
    """os.system, eval, exec, open, Popen, getattr, import: refused by name, not run."""
    import builtins
    import importlib
    import operator
    import shutil
    import subprocess

    shell = f"touch {canary}"
    attempts = [
        Calls(os.system, shell),
        Calls(os.mkdir, str(canary)),
        Calls(builtins.eval, f"open({str(canary)!r}, 'w')"),
        Calls(builtins.exec, f"open({str(canary)!r}, 'w')"),
        Calls(builtins.open, str(canary), "w"),
        Calls(builtins.getattr, "x", "upper"),
        Calls(builtins.__import__, "os"),
        Calls(subprocess.Popen, ["touch", str(canary)]),
        Calls(subprocess.check_output, ["touch", str(canary)]),
        Calls(importlib.import_module, "antigravity"),
        Calls(operator.attrgetter("a").__class__, "b"),
        Calls(shutil.rmtree, str(canary)),
        Calls(builtins.object),
        Calls(builtins.type, "x", (), {}),
        Calls(builtins.range, 3),
        Calls(builtins.list, [1]),
    ]
    for attempt in attempts:
        for payload in (attempt, [1, attempt], {"a": (attempt,)}):
            with pytest.raises(Forbidden) as caught:
                codec.decode(pickle.dumps(payload, protocol))
            assert caught.value.type_name
    assert not canary.exists()


@pytest.mark.parametrize(
    "stored",
    [
        b"cos\nsystem\n(S'touch canary'\ntR.",
        b"(S'touch canary'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x0aset.__or__\x93.",
        b"\x80\x04\x8c\x08datetime\x8c\x12datetime.__class__\x93.",
        b"\x80\x02cposix\nsystem\n.",
        b"ccopyreg\n_reconstructor\n.",
        b"c__builtin__\neval\n.",
        b"c" + b"m" * 5000 + b"\nx\n.",
    ],
)
def test_globals_of_all_opcodes_are_refused(stored: bytes) -> None:
    """GLOBAL, INST, STACK_GLOBAL; dotted names lead nowhere either."""
    for codec in (PLAIN, GENEROUS):
        with pytest.raises(Forbidden) as caught:
            codec.decode(stored)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("stored", [b"Pabc\n.", b"\x80\x04K\x01Q."])
def test_persistent_ids_are_refused(stored: bytes) -> None:
    """There is nothing outside the pickle that it could refer to."""
    with pytest.raises(Forbidden):
        PLAIN.decode(stored)


def test_extension_registry_is_refused_even_when_its_cache_is_filled() -> None:
    """An unpickler takes a cached extension without asking anybody: such pickles are not read at all."""
    stored = b"\x80\x02\x82\xf0)R."
    with pytest.raises(Undecodable):
        PLAIN.decode(stored)
    copyreg.add_extension("builtins", "list", 0xF0)
    try:
        assert pickle.loads(stored) == []  # fills the cache
        with pytest.raises(Forbidden):
            PLAIN.decode(stored)
        assert PLAIN.decode(pickle.dumps([1])) == [1]
    finally:
        copyreg.remove_extension("builtins", "list", 0xF0)


def test_out_of_band_buffers_are_refused() -> None:
    """A pickle refers to them, and nobody has them."""
    stored = pickle.dumps(pickle.PickleBuffer(b"x"), 5, buffer_callback=lambda _: None)
    with pytest.raises(Undecodable):
        PLAIN.decode(stored)


@pytest.mark.parametrize(
    ("name", "argument"),
    [("bytearray", 10**12), ("bytes", 10**12), ("set", "abc"), ("frozenset", {}), ("complex", "1"),
     ("bytearray", [1, 2]), ("set", b"x")],
)  # fmt: skip
def test_stand_ins_take_only_what_picklers_give_them(name: str, argument: Any) -> None:
    """A number would be a request for that many zero bytes."""
    body = pickle.dumps(argument, 2)[2:-1]
    stored = b"\x80\x02cbuiltins\n" + name.encode() + b"\n" + body + b"\x85R."
    with pytest.raises(Undecodable):
        PLAIN.decode(stored)


def test_encode_stand_in_knows_one_encoding() -> None:
    """Codecs are code: only the one that pickles of bytes use is there."""
    good = b"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00\xc3\xbfX\x06\x00\x00\x00latin1\x86R."
    assert PLAIN.decode(good) == b"\xff"
    with pytest.raises(Forbidden):
        PLAIN.decode(good.replace(b"latin1", b"rot_13"))


def test_allow_list_makes_the_real_types() -> None:
    """What the administrator allowed comes back the same, and can be written, in every protocol."""
    values: list[Any] = [
        dt.datetime(2024, 1, 2, 3, 4, 5, 6, dt.UTC), dt.date(1999, 1, 1), dt.time(1, 2),
        dt.timedelta(1, 2, 3), dt.timezone(dt.timedelta(hours=1), "X"),
        decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=7),
        collections.OrderedDict(b=1, a=[2]), collections.deque([1, 2], 5), collections.Counter("abca"),
        ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("fe80::/64"),
        pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:/x"), pathlib.PosixPath("/a"),
    ]  # fmt: skip
    for value in values:
        for protocol in range(2, 6):
            back: Any = GENEROUS.decode(pickle.dumps({"a": value}, protocol))
            assert back == {"a": value}
            assert type(back["a"]) is type(value)
        assert GENEROUS.decode(GENEROUS.encode([value])) == [value]
        with pytest.raises(Unencodable):
            PLAIN.encode([value])
        with pytest.raises(Forbidden):
            PLAIN.decode(pickle.dumps([value]))


@pytest.mark.parametrize(
    "pair",
    ["os.system", "builtins.eval", "subprocess.Popen", "logging.FileHandler", "socket.socket", "datetime",
     "datetime.datetime.now", "msgpack.Packer", "collections.namedtuple", "collections.defaultdict", "", ".",
     "pathlib.Path.unlink", "shelve.DbfilenameShelf", "builtins.object", "zoneinfo.ZoneInfo"],
)  # fmt: skip
def test_allow_list_takes_plain_data_types_only(pair: str) -> None:
    """A function, or a type that does things, is refused even when the administrator names it."""
    with pytest.raises(ValueError, match="cannot be allowed"):
        get_codec("pickle", pickle_allow=[pair])


def test_pickles_cannot_change_the_classes_they_may_use() -> None:
    """BUILD sets attributes of whatever lies on the stack, also of a class; ours are sealed."""
    before = dict(vars(uuid.UUID))
    for state in (b"N}X\x07\x00\x00\x00__str__K\x01s\x86b.", b"}X\x07\x00\x00\x00__str__K\x01sb."):
        with pytest.raises(Undecodable):
            GENEROUS.decode(b"\x80\x02cuuid\nUUID\n" + state)
    assert dict(vars(uuid.UUID)) == before
    assert GENEROUS.decode(pickle.dumps(uuid.UUID(int=1))) == uuid.UUID(int=1)


def test_a_class_is_not_a_value() -> None:
    """A bare reference to an allowed class has no canonical form, so no conversion carries it."""
    from format_store.codecs import BadValue, ValueFormat
    from format_store.codecs.recode import compare_chunk, recode_chunk

    source = ValueFormat(GENEROUS, ValueFormat.named("raw").compression)
    stored = pickle.dumps([uuid.UUID])
    for target in ("msgpack", "json"):
        with pytest.raises(BadValue):
            recode_chunk([(1, stored)], source, ValueFormat.named(target))
        with pytest.raises(BadValue):
            compare_chunk([(1, stored, b"\x90")], source, ValueFormat.named(target))


@pytest.mark.parametrize(
    "stored",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",  # BINBYTES8
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",  # BINUNICODE8
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"x.",  # BYTEARRAY8
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",  # FRAME
        b"\x80\x04\x95" + struct.pack("<Q", 1) + b"N.N.",
    ],
)
def test_lengths_that_are_lies_are_refused(stored: bytes) -> None:
    """More is announced than there is: no memory is taken for it."""
    with pytest.raises((Undecodable, MemoryError)):
        PLAIN.decode(stored)


@settings(max_examples=300)
@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: b"\x80\x04" + data + b"."))
def test_any_bytes_decode_or_are_refused(stored: bytes) -> None:
    """No other exception than the codec's own."""
    with contextlib.suppress(Undecodable, Unencodable, MemoryError):
        canonical(PLAIN.decode(stored))


@settings(max_examples=200)
@given(st.data())
def test_a_flipped_byte_decodes_or_is_refused(data: st.DataObject) -> None:
    """The same for pickles that were good once."""
    value = {"a": [1, 2.5, "text", None], "b": {1, 2}, "c": bytearray(b"x"), "d": (1 + 2j, b"raw")}
    stored = bytearray(pickle.dumps(value, data.draw(st.integers(0, 5))))
    # Memo indexes ask for memory by the gigabyte; those are for workers, whose limit is tested there.
    index = data.draw(st.integers(0, len(stored) - 1))
    stored[index] = data.draw(st.sampled_from([byte for byte in range(256) if byte not in b"jrp"]))
    with contextlib.suppress(Undecodable, MemoryError):
        PLAIN.decode(bytes(stored))


def test_modules_named_by_a_pickle_are_not_imported() -> None:
    """Importing runs code; the name alone decides."""
    sys.modules.pop("antigravity", None)
    with pytest.raises(Forbidden):
        PLAIN.decode(b"cantigravity\nfly\n.")
    assert "antigravity" not in sys.modules
