"""Keys ordered by level, so that the children of a directory lie side by side.

Byte-compatible with the hierarchical encoder of Oxia (``common/compare/encode.go``). A stored key is

    level     two bytes, big-endian
    key       UTF-8, with every "/" as 0xFF, a byte that UTF-8 never contains

The level is the number of separators; one less when the key ends in ``//``, which thereby sorts right
after the children of the directory and serves as the end of their range; never more than 32767,
deeper keys share that level. The top bit marks the keys below ``__oxia/``, which so come last.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from format_store.keys.base import NotCanonical, directory_of, utf8

_DEEPEST = 0x7FFF
_INTERNAL = 0x8000
_INTERNAL_PREFIX = b"__oxia/"
_FF = "CAST(x'ff' AS TEXT)"
_FEW = 64
_LEVELS = tuple(level.to_bytes(2, "big") for level in range(_FEW))


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
        # Called for every row of a conversion. What is special about a level is rare, and shows here.
        if separators < _FEW and data[-2:] != b"//" and data[:2] != b"__":
            return _LEVELS[separators] + data.replace(b"/", b"\xff")
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
        if separators < _FEW and data[-2:] != b"//" and data[:2] != b"__":
            known = _LEVELS[separators]
        else:
            known = _level(data, separators).to_bytes(2, "big")
        if stored[:2] != known:
            raise NotCanonical(
                f"a hierarchical key's level is {stored[:2].hex()}, its text has {known.hex()}"
            )
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotCanonical("a hierarchical key is not valid UTF-8") from error

    def guard(self, column: str) -> str:
        return f"(typeof({column})='blob' AND length({column})>=2)"

    @cached_property
    def sql_parameters(self) -> Mapping[str, bytes]:
        """Two bytes for each level, so that ``substr`` finds them; deeper keys go the other way."""
        return {"levels": b"".join(level.to_bytes(2, "big") for level in range(_DEEPEST))}

    def encode_sql(self, key: str, otherwise: str) -> str:
        # As bytes wherever it counts: SQLite's text functions stop at a NUL. ``replace`` does not.
        data = f"CAST({key} AS BLOB)"
        level = f"length({data})-length(CAST(replace({key},'/','') AS BLOB))"
        return (
            f"CASE WHEN substr({data},-2)=x'2f2f' OR substr({data},1,2)=x'5f5f' "
            f"OR length({data})>={_DEEPEST} THEN {otherwise} "
            f"ELSE CAST(substr(:levels,1+2*({level}),2)||replace({key},'/',{_FF}) AS BLOB) END"
        )

    def decodes_sql(self, stored: str, key: str, otherwise: str) -> str:
        level = f"length({stored})-length(CAST(replace({stored},{_FF},'') AS BLOB))"
        return (
            f"CASE WHEN substr({stored},-2)=x'ffff' OR substr({stored},3,2)=x'5f5f' "
            f"OR length({stored})>={_DEEPEST} THEN {otherwise} IS {key} COLLATE BINARY "
            f"ELSE typeof({stored})='blob' "
            f"AND replace(CAST(substr({stored},3) AS TEXT),{_FF},'/') IS {key} COLLATE BINARY "
            f"AND instr({stored},x'2f')=0 AND substr({stored},1,2) IS substr(:levels,1+2*({level}),2) END"
        )

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
