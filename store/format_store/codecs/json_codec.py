"""JSON, stored as TEXT."""

from __future__ import annotations

import json
from types import NoneType

from format_store.codecs.base import Stored
from format_store.codecs.errors import Undecodable, Unencodable

_FIRST = '{["-0123456789tfnNI'
_LAST = '}]"0123456789elyN'
_FIRST_BYTES = frozenset(_FIRST.encode())
_LAST_BYTES = frozenset(_LAST.encode())
_FIRST_HEX, _LAST_HEX = (text.encode().hex(" ").upper() for text in (_FIRST, _LAST))


class Json:
    """What ``json.dumps`` and ``json.loads`` make of it, NaN and the infinities included.

    Written compact and as TEXT; text without escapes but for what JSON demands, unless there are lone
    surrogates, which only an escape can carry. Read from BLOBs too. ``encode`` has the semantics of
    ``json.dumps``: tuples become lists and the keys of dicts become strings. Whether a value survives
    *unchanged* is for ``recode`` to say.

    The signature looks at the first and the last character. One BLOB of a single digit is MessagePack
    as well; no other value of a built-in format is taken for JSON.
    """

    name = "json"
    text = True
    exact_types: frozenset[type] = frozenset({NoneType, bool, int, float, str, list, dict})
    exact_key_types: frozenset[type] = frozenset({str})

    def __init__(self) -> None:
        self._loads = json.JSONDecoder().decode
        self._dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        self._dumps_ascii = json.JSONEncoder(separators=(",", ":")).encode

    def decode(self, stored: Stored) -> object:
        if not isinstance(stored, (str, bytes)):
            # Not left to bytes(): of a number it makes as many zeros.
            raise Undecodable(f"JSON is text or a blob, not {type(stored).__name__}")
        try:
            text = stored if isinstance(stored, str) else stored.decode("utf-8")
            return self._loads(text)
        except (ValueError, TypeError) as error:
            raise Undecodable(f"not JSON ({error})") from error

    def encode(self, value: object) -> str:
        try:
            text = self._dumps(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unencodable(
                f"JSON cannot hold it ({error})", type_name=type(value).__name__
            ) from error
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            text = self._dumps_ascii(value)
        return text

    def doubtful(self, encoded: Stored, /) -> bool:
        # JSON knows one NaN, Python many; and to whoever reads the escapes, two lone surrogates side by
        # side are one character.
        assert isinstance(encoded, str)
        return "NaN" in encoded or "\\ud" in encoded

    def plausible(self, data: bytes) -> bool:
        return bool(data) and data[0] in _FIRST_BYTES and data[-1] in _LAST_BYTES

    def signature_sql(self, column: str) -> str:
        first, last = f"substr({column},1,1)", f"substr({column},-1)"
        # A blob by its digits: compared with text it would be taken for text itself, of the database's encoding.
        return (
            f"(length({column})>0 AND CASE typeof({column})"
            f" WHEN 'text' THEN instr('{_FIRST}',{first})>0 AND instr('{_LAST}',{last})>0"
            f" WHEN 'blob' THEN instr('{_FIRST_HEX}',hex({first}))>0 AND instr('{_LAST_HEX}',hex({last}))>0"
            " ELSE 0 END)"
        )
