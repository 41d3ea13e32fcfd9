"""The parsers of what others wrote: each returns a value or raises its own error, and nothing else.

Marker, manifest, stored keys, restricted pickle, the other codecs and compressions, formats and the API's objects. Where there
is an encoder, what was parsed comes back the same; where there is an order, it is kept. Nothing is imported or run.
"""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from format_operator.api.models import FormatState, StorageFormat
from format_operator.api.schema import InvalidObject
from format_store import Format, errors, keys, manifest
from format_store.codecs.compressions import Zlib
from format_store.codecs.errors import Undecodable, Unencodable
from format_store.codecs.json_codec import Json
from format_store.codecs.msgpack_codec import MessagePack
from format_store.codecs.pickle_codec import Pickle
from format_store.codecs.zstd_compression import Zstd
from format_store.formats import Marker, parse_marker
from format_store.layout import WorkDirectory
from format_store.manifest import FileStat, Manifest

_ID: Final = "20261123T104639Z-3f9a1c2b"
_DIGEST: Final = "sha256:" + "0123456789abcdef" * 4
_SPECS: Final[tuple[dict[str, Any], ...]] = (
    {"sqlitedict": {}},
    {"sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack", "compression": "zstd", "tables": ["a", "b"]}},
    {"sqlitedict": {"keyEncoding": "old-compare-hierarchical"}},
    {
        "sqlite": {
            "pageSize": 8192, "journalMode": "wal", "autoVacuum": "full",
            "migrations": [{"number": 1, "name": "x", "sql": "CREATE TABLE a (b); -- ;", "down": "DROP TABLE a", "checks": ["SELECT 1"]}],
        },
        "sqlitedict": {},
    },
    {"name": "x", "sqlite": {"migrations": [{"number": 2, "sql": "SELECT 'a''b;'"}, {"number": 2**53 - 1, "sql": "SELECT 1"}]}},
)  # fmt: skip
_FORMATS: Final = [Format.from_spec(spec) for spec in _SPECS]
_MANIFESTS: Final = [
    Manifest(
        _ID, "orders.db", "2026-11-23T10:46:39Z", "0.1.0", one, other, FileStat(17, 4096, 1)
    ).ready(_DIGEST, FileStat(18, 8192, 2), _DIGEST, 40)
    for one, other in pairwise(_FORMATS)
]
_OBJECTS: Final[tuple[dict[str, Any], ...]] = (
    {
        "apiVersion": "storageformat.dev/v1alpha1", "kind": "StorageFormat",
        "metadata": {"name": "a", "namespace": "b", "uid": "u", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}}, "database": {"path": "/data/a.db"},
            "formats": [{"name": "one", "sqlitedict": {}}, {"name": "two", "sqlite": {"migrations": [{"number": 1, "sql": "SELECT 1"}]}}],
            "target": "two", "unmarked": ["one"],
        },
    },
    {
        "apiVersion": "storageformat.dev/v1alpha1", "kind": "FormatState", "metadata": {"name": "a", "namespace": "b", "uid": "u"},
        "spec": {"podName": "p", "storageFormatName": "a"}, "status": {"phase": "Ready"},
    },
)  # fmt: skip


def _document(data: bytes) -> Any:
    """JSON, as a parser of the API gets it; ValueError for what is none."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def marker(data: bytes) -> None:
    # A schema's text may hold half a surrogate pair, which Python's own UTF-8 does not read.
    statement = data.decode("utf-8", "surrogateescape" if data[:1] == b"\xed" else "replace")
    try:
        found = parse_marker(statement, path="x")
    except errors.UnreadableMarker:
        return
    assert parse_marker(found.create_statement(), path="x") == found


_PLACE: Final = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def the_manifest(data: bytes) -> None:
    work = WorkDirectory(Path(_PLACE.name) / _ID)
    work.path.mkdir(exist_ok=True)
    work.manifest.write_bytes(data)
    try:
        found = manifest.load(work)
    except errors.UnreadableManifest:
        return
    assert found is not None
    assert manifest._parse(found._to_json()) == found
    found.backup(work)


def stored_keys(data: bytes) -> None:
    parts = data.split(b"\xfe")[:4]
    texts = (
        [
            part.decode("utf-8", "surrogatepass" if at % 2 else "ignore")
            for at, part in enumerate(parts)
        ]
        if _is_text(parts)
        else []
    )
    for name in ("natural", "hierarchical", "old-compare-hierarchical"):
        encoding = keys.get(name)
        given: list[bytes | str] = [*parts, *texts]
        for stored in given:
            try:
                key = encoding.decode(stored)
            except keys.NotCanonical:
                continue
            assert encoding.encode(key) == stored, (name, stored)
        encoded = []
        for text in texts:
            try:
                encoded.append((encoding.encode(text), text))
            except keys.InvalidKey:
                assert any("\ud800" <= character <= "\udfff" for character in text)
                continue
            assert encoding.decode(encoded[-1][0]) == text, (name, text)
            start, end = encoding.range_of_children(text)
            for other in texts:
                if (
                    keys.is_child(text, other)
                    and "\ud800" not in other
                    and name != "old-compare-hierarchical"
                ):
                    _require_within(encoding, start, other, end)
        if name == "hierarchical":
            by_key = sorted(encoded, key=lambda pair: _hierarchical_order(pair[1]))
            assert by_key == sorted(encoded), encoded


def _is_text(parts: Iterable[bytes]) -> bool:
    try:
        for part in parts:
            part.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _require_within(
    encoding: keys.KeyEncoding, start: str | bytes, key: str, end: str | bytes
) -> None:
    try:
        stored = encoding.encode(key)
    except keys.InvalidKey:
        return
    low, high, between = (
        one.encode() if isinstance(one, str) else one for one in (start, end, stored)
    )
    assert low <= between, (start, key)
    assert between < high or high == b"", (key, end)


def _hierarchical_order(key: str) -> tuple[bool, int, bytes]:
    """As Oxia describes it, and not as the store writes it: its own keys last, then by depth, then by name."""
    depth = key.count("/") - key.endswith("//")
    return key.startswith("__oxia/"), min(depth, 0x7FFF), key.encode().replace(b"/", b"\xff")


_UNPICKLING: Final = Pickle(("datetime.datetime", "decimal.Decimal", "collections.OrderedDict"))
_WATCHED: Final = (
    "import",
    "exec",
    "compile",
    "os.",
    "subprocess.",
    "socket.",
    "open",
    "ctypes.",
    "pickle.find_class",
    "shutil.",
)
_seen: list[str] = []
_watching = False


def watch() -> None:
    """Note what unpickling does besides (PEP 578). It cannot be taken back."""
    sys.addaudithook(
        lambda event, _: _seen.append(event) if _watching and event.startswith(_WATCHED) else None
    )


def pickled(data: bytes) -> None:
    global _watching  # noqa: PLW0603 - an audit hook takes no argument
    _seen.clear()
    _watching = True
    try:
        value = _UNPICKLING.decode(data)
    except (Undecodable, MemoryError, RecursionError):
        return
    finally:
        _watching = False
        assert _seen == [], _seen
    try:
        again = _UNPICKLING.encode(value)
    except (Unencodable, RecursionError, MemoryError):
        return
    assert _UNPICKLING.encode(_UNPICKLING.decode(again)) == again or not _is_ordered(again)


def _is_ordered(data: bytes) -> bool:
    """Sets list their members in any order."""
    return b"\x8f" not in data and b"\x91" not in data


_OTHERS: Final[dict[bytes, Any]] = {b"j": Json(), b"m": MessagePack()}
_COMPRESSIONS: Final[dict[bytes, Any]] = {b"z": Zlib(), b"s": Zstd()}


def values(data: bytes) -> None:
    kind, rest = data[:1], data[1:]
    if compression := _COMPRESSIONS.get(kind):
        try:
            plain = compression.decompress(rest, 1 << 16)
        except Undecodable:
            return
        assert len(plain) <= 1 << 16
        assert compression.decompress(compression.compress(plain), 1 << 16) == plain
    elif codec := _OTHERS.get(kind):
        try:
            value = codec.decode(rest)
            again = codec.encode(value)
        except (Undecodable, Unencodable, RecursionError, MemoryError):
            return
        assert codec.encode(codec.decode(again)) == again


def spec(data: bytes) -> None:
    try:
        document = _document(data)
    except ValueError:
        return
    try:
        found = Format.from_spec(document)
    except errors.InvalidFormat:
        return
    assert Format.from_spec(found.to_spec()) == found
    assert Format.from_spec(json.loads(json.dumps(found.to_spec()))) == found
    assert str(found)
    assert found.same_bytes_as(found)


def api_object(data: bytes) -> None:
    try:
        document = _document(data)
    except ValueError:
        return
    if not isinstance(document, dict):
        return  # the client library gives nothing else
    for kind in (StorageFormat, FormatState):
        try:
            kind.from_object(document)
        except InvalidObject:
            continue


def broken(data: bytes) -> None:
    """No parser of ours: the proof that one that is wrong would be found."""
    for at, byte in enumerate(b"{[\xf0'"):
        if at >= len(data) or data[at] != byte:
            return
    raise AssertionError("found it")


def _json(documents: Iterable[Any]) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


#: What is called, and what good input looks like.
TARGETS: Final[dict[str, tuple[Callable[[bytes], None], list[bytes]]]] = {
    "marker": (
        marker,
        [Marker(one, _ID, "2026-01-01T00:00:00Z", "0.1", previous=_FORMATS[0]).create_statement().encode() for one in _FORMATS],
    ),
    "manifest": (the_manifest, _json(one._to_json() for one in _MANIFESTS)),
    "keys": (stored_keys, [b"/a/b\xfe/a/c", b"\0\1\xffa\xfea//", b"__oxia/x\xfe__oxia//", b"\x80\1__oxia\xffx"]),
    "pickle": (
        pickled,
        [
            pickle.dumps(value, protocol)
            for value in ([1, "a", b"b", 1.5, None, 2**70], {"a": {1, 2}}, (1, frozenset("a"), complex(1, 2), bytearray(b"x")))
            for protocol in range(6)
        ] + [b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"\x80\x02\x82\x01.", b"\x80\x04\x8c\x08datetime\x8c\x08datetime\x93."],
    ),
    "values": (
        values,
        [b'j{"a":[1,2.5,null,true,"\\u00e9"]}', b"m\x82\xa1a\x93\x01\xcb" + bytes(8) + b"\xc0\xa1b\xc4\x01x", b"z" + zlib.compress(b"a" * 99),
         b"s" + Zstd().compress(b"a" * 99)],
    ),
    "spec": (spec, _json(_SPECS)),
    "object": (api_object, _json(_OBJECTS)),
    "broken": (broken, [b"{}"]),
}  # fmt: skip
