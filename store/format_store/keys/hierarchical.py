"""Keys ordered by level, so that the children of a directory lie side by side.

Byte-compatible with the hierarchical encoder of Oxia (``common/compare/encode.go``). A stored key is

    level     two bytes, big-endian
    key       UTF-8, with every "/" as 0xFF, a byte that UTF-8 never contains

The level is the number of separators; one less when the key ends in ``//``, which thereby sorts right
after the children of the directory and serves as the end of their range; never more than 32767,
deeper keys share that level. The top bit marks the keys below ``__oxia/``, which so come last.
"""

from __future__ import annotations

from typing import Literal

from format_store.keys.base import NotCanonical, directory_of, utf8

_DEEPEST = 0x7FFF
_INTERNAL = 0x8000
_INTERNAL_PREFIX = b"__oxia/"


class Hierarchical:
    """Oxia's hierarchical encoding.

    The range of a directory's children is exact, except for directories with 32767 separators or
    more: on the deepest level lie their other descendants too.
    """

    name = "hierarchical"
    affinity: Literal["BLOB"] = "BLOB"

    def encode(self, key: str) -> bytes:
        data = utf8(key)
        separators = data.count(b"/")
        if not separators:
            return b"\0\0" + data
        return _level(data, separators).to_bytes(2, "big") + data.replace(b"/", b"\xff")

    def decode(self, stored: str | bytes) -> str:
        if not isinstance(stored, bytes):
            raise NotCanonical(
                f"a hierarchical key is stored as a blob, not as {type(stored).__name__}"
            )
        if len(stored) < 2:
            raise NotCanonical("a hierarchical key has at least two bytes")
        data = stored[2:]
        if b"/" in data:
            raise NotCanonical("a hierarchical key has no '/' in its stored form")
        separators = data.count(b"\xff")
        if separators:
            data = data.replace(b"\xff", b"/")
            level = _level(data, separators)
        else:
            level = 0
        if stored[0] << 8 | stored[1] != level:
            raise NotCanonical(
                f"a hierarchical key's level is {stored[:2].hex()}, its text has {level:04x}"
            )
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotCanonical("a hierarchical key is not valid UTF-8") from error

    def guard(self, column: str) -> str:
        return f"(typeof({column})='blob' AND length({column})>=2)"

    def range_of_children(self, path: str) -> tuple[str | bytes, str | bytes]:
        utf8(path)
        directory = directory_of(path)
        start = self.encode(directory)
        if directory.endswith("//"):
            # The level of such a key is not the one of what lies in it.
            data = directory.encode("utf-8")
            level = min(data.count(b"/"), _DEEPEST) | _marker(data)
            start = level.to_bytes(2, "big") + start[2:]
        # A name has at least one byte, and every byte of UTF-8 is below 0xFF; level 0 has no prefix.
        return start + b"\0", start + b"\xff"


def _level(data: bytes, separators: int) -> int:
    if data.endswith(b"//"):
        separators -= 1
    return min(separators, _DEEPEST) | _marker(data)


def _marker(data: bytes) -> int:
    return _INTERNAL if data.startswith(_INTERNAL_PREFIX) else 0
