"""Hostile keys and values: pickles that run something, bombs in zlib and zstd, deep nesting, text that is none."""

from __future__ import annotations

import io
import json
import pickle
import random
import sqlite3
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack

from format_store import Format, convert, errors, verify
from format_store.layout import Layout
from tests.proof.hostile_case import Case, attempt, forget_peak, peak_memory
from tests.support.databases import decode_hierarchical, sample

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: For a worker, beside what it takes itself: a bomb shows soon.
MEMORY: Final = 48 << 20
#: What this process may take in a case, beside a few times the file's size: bombs go off elsewhere, or not at all.
_OWN_MEMORY: Final = 48 << 20
_ZEROS: Final = bytes(1 << 20)
CODECS: Final = ("pickle", "json", "msgpack")
COMPRESSIONS: Final = ("none", "zlib", "zstd")
_DEPTHS: Final = (10, 100, 500, 900, 1000, 1100, 5000, 100_000)
_PLAIN_GLOBALS: Final = {
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"), ("builtins", "bytearray"),
    ("builtins", "bytes"), ("_codecs", "encode"),
}  # fmt: skip


class Opens:
    """Pickled, it makes a file when it is unpickled by plain pickle."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")


# --- values, in a codec's form --------------------------------------------------------------------------


def _running(canary: Path, chance: random.Random) -> bytes:
    """A pickle that makes the canary, in one of the ways in which pickles call something."""
    name = str(canary).encode()
    text = b"\x8c" + bytes([len(name)]) + name
    opens = pickle.dumps(Opens(str(canary)), chance.choice((0, 1, 2, 3, 4, 5)))
    return chance.choice(
        (
            opens,
            pickle.dumps([1, {"a": Opens(str(canary))}, {2}]),
            b"\x80\x04cos\nsystem\n(S'touch " + name + b"'\ntR.",
            b"(S'touch " + name + b"'\nios\nsystem\n.",
            b"\x80\x02(cos\nsystem\nX" + struct.pack("<I", len(name) + 6) + b"touch " + name + b"o.",
            b"\x80\x04\x8c\x08builtins\x8c\x04open\x93" + text + b"\x8c\x01w\x86R.",
            b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x1e__import__('os').system('true')\x85R.",
            b"\x80\x04\x8c\x07pathlib\x8c\x04Path\x93" + text + b"\x85\x81\x8c\x05touch\x86.",
            b"\x80\x04\x8c\x08builtins\x8c\x03set\x93}\x8c\x04_foo\x8c\x01xsb.",
            b"\x80\x02\x82\x01.", b"\x80\x02P" + name + b"\n.", b"\x80\x05" + text + b"Q.", b"\x80\x05\x97.",
        )
    )  # fmt: skip


def _greedy_pickle(chance: random.Random) -> bytes:
    """One that is small and asks for much."""
    doubling = b"\x80\x04]q\x00" + b"".join(
        b"(h" + bytes([at]) * 1 + (b"h" + bytes([at])) + b"lq" + bytes([at + 1]) for at in range(60)
    )
    return chance.choice(
        (
            doubling + b".",
            b"\x80\x04" + b"(" * 5000 + b".",
            b"\x80\x04" + b"]" + b"(" * 20000 + b"l" * 20000 + b".",
            b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"\x80\x04B\xff\xff\xff\x7f" + b"x" * 10,
            b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00.",
            b"\x80\x04\x8b\xff\xff\xff\x7f.",
            b"\x80\x04\x8c\x08builtins\x8c\x05bytes\x93J\xff\xff\xff\x7f\x85R.",
            b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93J\xff\xff\xff\x7f\x85R.",
            b"\x80\x04r\xff\xff\xff\x7f.",
            b"\x80\x04Nr\xff\xff\xff\x0f.",
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"I" + b"9" * 50_000 + b"\n.",
            pickle.dumps("x" * 100)[:-1],
        )
    )


def _deep(codec: str, chance: random.Random) -> bytes:
    depth = chance.choice(_DEPTHS)
    if codec == "json":
        return chance.choice(
            (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth)
        )
    if codec == "msgpack":
        return chance.choice(
            (b"\x91" * depth + b"\xc0", b"\x81\xa1a" * depth + b"\xc0", b"\xdd\0\0\0\1" * depth)
        )
    return chance.choice(
        (
            b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b".",
            b"\x80\x04N" + b"\x85" * depth + b".",
            b"\x80\x04" + b"}K\x01" * depth + b"N" + b"s" * depth + b".",
        )
    )


def _odd_json(chance: random.Random) -> bytes:
    return chance.choice(
        (
            b"9" * chance.choice((4000, 4301, 100_000)), b"-1e999", b"NaN", b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0000"',
            b'{"a":1,"a":2}', b"\xef\xbb\xbf1", b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b"1 2", b"", b"[1,]", b"1.0",
            b'{"":{"":[]}}', b"-0", b"0.1e-400", b'"' + b"x" * 1_000_000 + b'"', b"\0", b"[1]\0",
        )
    )  # fmt: skip


def _odd_msgpack(chance: random.Random) -> bytes:
    return chance.choice(
        (
            b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\1",
            b"\xa2\xff\xfe", b"\xc1", b"\xd4\x05x", b"\xd6\xff\0\0\0\1", b"\xc7\x0c\xff" + b"\xff" * 12, b"\x81\x90\xc0", b"\x81\x80\xc0",
            b"\x82\xa1a\x01\xa1a\x02", b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8\0\0\0\0\0\1", b"\xca\x7f\x80\0\0", b"", b"\x01\x02",
            msgpack.packb("\ud800", unicode_errors="surrogatepass"), b"\xdc\xff\xff" + b"\xc0" * 65535, b"\x81\xc0\xc0",
        )
    )  # fmt: skip


@cache
def bombs() -> dict[tuple[str, str], list[bytes]]:
    """By codec and compression: values of zeros, compressed to a thousandth or less. The small one is allowed."""
    found: dict[tuple[str, str], list[bytes]] = {}
    for codec in CODECS:
        for compression in COMPRESSIONS[1:]:
            large = 1100 << 20 if (codec, compression) == ("pickle", "zstd") else 96 << 20
            found[codec, compression] = [
                _bomb(codec, compression, size) for size in (2 << 20, large)
            ]
    return found


def _bomb(codec: str, compression: str, size: int) -> bytes:
    head, filling, tail = {
        "pickle": (b"\x80\x05\x8e" + struct.pack("<Q", size), _ZEROS, b"."),
        "msgpack": (b"\xc6" + struct.pack(">I", size), _ZEROS, b""),
        "json": (b"[0", b" " * len(_ZEROS), b"]"),
    }[codec]
    compressor: Any = zlib.compressobj(1) if compression == "zlib" else zstd.ZstdCompressor(level=1)
    parts = [head, *[filling] * (size // len(filling)), tail]
    return b"".join([*map(compressor.compress, parts), compressor.flush()])


def _odd_frame(compression: str, plain: bytes, chance: random.Random) -> bytes:
    """A compressed value with something the matter."""
    whole = zlib.compress(plain) if compression == "zlib" else zstd.compress(plain)
    odd = [
        whole[:-1], whole[: len(whole) // 2], whole + b"\0", whole + whole, whole[:-1] + bytes([whole[-1] ^ 1]), b"", whole[:2],
        zlib.compress(whole) if compression == "zlib" else zstd.compress(whole),
    ]  # fmt: skip
    if compression == "zlib":
        dictionary = zlib.compressobj(zdict=b"abc")
        odd += [
            zlib.compress(plain, 0),
            dictionary.compress(plain) + dictionary.flush(),
            b"\x1f\x8b" + whole[2:],
        ]
    else:
        # Skippable frames; windows of 128 MB to 3.75 TB (RFC 8878, 3.1.1.1.2); a size that is not there.
        magic = b"\x28\xb5\x2f\xfd"
        odd += [
            b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + whole, b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
            magic + b"\x00" + bytes([chance.choice((0x88, 0x90, 0xA8, 0xF8, 0xFF))]) + b"\x03\0\0" + b"x",
            magic + b"\xe0" + b"\xff" * 8 + b"\x01\0\0", magic + b"\x03\0\0\0\0\0\1\0\0", magic + b"\x08\x88\x01\0\0",
        ]  # fmt: skip
    return chance.choice(odd)


# --- keys ------------------------------------------------------------------------------------------------


def _key(chance: random.Random) -> bytes:
    """The bytes of a key, which is stored as TEXT: not all of them are text."""
    return chance.choice(
        (
            b"", b"\0", b"a\0b", b"\0\0/\0", b"/", b"//", b"///", b"a//", b"/" * 300, b"/" * 32766, b"/" * 32768, b"a/" * 40_000, b"__oxia/x", b"__oxia//", b"__",
            b"\xff", b"a\xffb", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xe2\x82", b"\x80",
            "é".encode(), b"e\xcc\x81", b"\xef\xbf\xbf", "\U0010ffff".encode(), b"\xef\xbb\xbfa", b"%00", b"'; DROP TABLE unnamed; --",
            b"k" * chance.choice((1000, 65536, 1_000_000, 3_000_000)), b"../../etc/passwd", b"\r\n", b"\x1b[2J",
        )
    )  # fmt: skip


# --- a case ----------------------------------------------------------------------------------------------


def _value(codec: str, case: Case) -> tuple[str, bytes]:
    """In the codec's form; what it is, in words."""
    chance = case.chance
    kind = chance.choice(("deep", "odd", "odd"))
    if kind == "deep":
        return f"deep {codec}", _deep(codec, chance)
    if codec == "json":
        return "odd json", _odd_json(chance)
    if codec == "msgpack":
        return "odd msgpack", _odd_msgpack(chance)
    if chance.random() < 0.6:
        return "running pickle", _running(case.canary, chance)
    return "greedy pickle", _greedy_pickle(chance)


def _pack(compression: str, plain: bytes) -> bytes:
    compress: dict[str, Callable[[bytes], bytes]] = {
        "none": bytes, "zlib": zlib.compress, "zstd": zstd.compress,
    }  # fmt: skip
    return compress[compression](plain)


def _write(case: Case, codec: str, compression: str) -> str:
    """A table of a few ordinary rows, and one or two that are not."""
    chance = case.chance
    encode: Callable[[Any], bytes] = {
        "pickle": pickle.dumps, "msgpack": msgpack.packb, "json": lambda value: json.dumps(value).encode(),
    }[codec]  # fmt: skip
    as_text = codec == "json" and compression == "none"
    rows = [(key.encode(), _pack(compression, encode(value)), as_text) for key, value in sample(6)]
    done = []
    for _ in range(chance.choice((1, 1, 2))):
        kind = chance.choice(("value", "value", "value", "bomb", "frame", "key"))
        name, value = f"/bad/{len(rows)}".encode(), rows[0][1]
        text = as_text
        if kind == "key":
            done.append("key")
            name = _key(chance)
        elif kind == "bomb" and compression != "none":
            done.append(f"{compression} bomb")
            value = chance.choice(bombs()[codec, compression])
        elif kind == "frame" and compression != "none":
            done.append(f"odd {compression}")
            value = _odd_frame(compression, encode([1, "a"]), chance)
        else:
            what, value = _value(codec, case)
            done.append(what)
            value = _pack(compression, value)
            text = chance.random() < 0.9 if as_text else chance.random() < 0.05
        rows.append((name, value, text))
    with closing(sqlite3.connect(case.path, isolation_level=None)) as connection:
        if chance.random() < 0.1:
            connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")
        for name, value, text in rows:
            kind = "TEXT" if text else "BLOB"
            connection.execute(
                f"INSERT OR REPLACE INTO unnamed (key, value) VALUES (CAST(? AS TEXT), CAST(? AS {kind}))",
                (name, value),
            )
    return " and ".join(sorted(set(done)))


def judge(case: Case) -> tuple[str, str]:
    """What came of it, and what was not as promised."""
    chance = case.chance
    codec, compression = chance.choice(CODECS), chance.choice(COMPRESSIONS)
    done = _write(case, codec, compression)
    path = case.path
    source = Format.sqlitedict(value_codec=codec, compression=compression)
    target = Format.sqlitedict(
        value_codec=chance.choice(CODECS),
        compression=chance.choice(COMPRESSIONS),
        key_encoding=chance.choice(("natural", "hierarchical")),
    )
    data, before = path.read_bytes(), _raw(path)
    begun = forget_peak()
    outcome, error = attempt(lambda: convert(path, target, unmarked=[source], worker_memory=MEMORY))
    if chance.random() < 0.1:
        attempt(lambda: verify(path, expected=source, worker_memory=MEMORY))
    taken = peak_memory() - begun
    what = f"{done}: {outcome}"
    if taken > _OWN_MEMORY + 8 * max(len(data), path.stat().st_size):
        return what, f"it took {taken >> 20} MB"
    if isinstance(error, errors.NeedsAttention):
        return what, f"a person was asked for: {error}"
    if error is not None and path.read_bytes() != data:
        return what, f"{error}, and the file has changed"
    if Layout.of(path).pending():
        return what, "work is pending"
    return what, _unlike(before, path, source, target) if outcome == "converted" else ""


Row = tuple[int, bytes, Any, Any]


class _Stored(NamedTuple):
    """A value: SQLite's type of it, its bytes, and the encoding that text has in this database."""

    kind: str
    data: bytes
    encoding: str


def _raw(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT rowid, CAST(key AS BLOB), typeof(value), CAST(value AS BLOB) FROM unnamed ORDER BY rowid"
        ).fetchall()


def _unlike(before: list[Row], path: Path, source: Format, target: Format) -> str:
    """What is in the file otherwise than it was, in words."""
    after = _raw(path)
    with closing(sqlite3.connect(path)) as connection:
        encoding = connection.execute("PRAGMA encoding").fetchone()[0].lower()
    if [row[0] for row in before] != [row[0] for row in after]:
        return "other rows"
    one, other = source.parameters, target.parameters
    for (rowid, old_key, *was), (_, new_key, *now) in zip(before, after, strict=True):
        old, new = (_Stored(kind, data, encoding) for kind, data in (was, now))
        if other["keyEncoding"] == "hierarchical":
            same = decode_hierarchical(new_key) == old_key.decode(encoding)
        else:
            same = new_key == old_key
        if not same:
            return f"another key in row {rowid}"
        if (one["valueCodec"], one["compression"]) == (other["valueCodec"], other["compression"]):
            # What is not to be changed need not be understood: it is as it was, also where it is no value.
            same = new == old
        elif one["valueCodec"] == other["valueCodec"]:
            same = _plain(one, old) == _plain(other, new)
        else:
            same = _same(_decoded(one, old), _decoded(other, new))
        if not same:
            return f"another value in row {rowid}"
    return ""


def _plain(parameters: Mapping[str, Any], stored: _Stored) -> bytes:
    if stored.kind == "text":
        return stored.data.decode(stored.encoding).encode("utf-8")
    decompress: dict[str, Callable[[bytes], bytes]] = {
        "none": bytes, "zlib": zlib.decompress, "zstd": zstd.decompress,
    }  # fmt: skip
    return decompress[parameters["compression"]](stored.data)


def _decoded(parameters: Mapping[str, Any], stored: _Stored) -> Any:
    plain = _plain(parameters, stored)
    if parameters["valueCodec"] == "pickle":
        return _Known(io.BytesIO(plain)).load()
    if parameters["valueCodec"] == "msgpack":
        return msgpack.unpackb(plain, strict_map_key=False)
    return json.loads(plain)


class _Known(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN_GLOBALS:
            raise AssertionError(f"a pickle that loads {module}.{name} was converted")
        return super().find_class(module, name)


def _same(one: Any, other: Any) -> bool:
    """Equal in type and value, however deep."""
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, list | tuple):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif isinstance(one, dict):
            if len(one) != len(other):
                return False
            pairs += [
                *zip(one, other, strict=True),
                *zip(one.values(), other.values(), strict=True),
            ]
        elif isinstance(one, float):
            if struct.pack("<d", one) != struct.pack("<d", other):
                return False
        elif one != other:
            return False
    return True
