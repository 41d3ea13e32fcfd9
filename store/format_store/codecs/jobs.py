"""What a worker is asked to do: a function of ``recode`` with its formats, as data that travels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from format_store.codecs.combined import ValueFormat
from format_store.codecs.recode import (
    DEFAULTS,
    Options,
    compare_chunk,
    convert_chunk,
    decode_chunk,
    digest_chunk,
    examine_chunk,
    fit_chunk,
    recode_chunk,
)

_Row = TypeVar("_Row", bound=tuple[Any, ...])

#: Large enough that the way to a worker and back does not count, small enough for a pipe's buffer.
CHUNK_ROWS = 1000
CHUNK_BYTES = 1 << 18


class Job(NamedTuple):
    """One kind of work over all chunks of a table. Made by the class methods.

    ========== =========================================== ===============================
    kind       a row of the chunk                          result for the chunk
    ========== =========================================== ===============================
    recode     rowid, stored                               list of rowid, new stored
    convert    rowid, stored                               the same, and a digest of the values
    digest     rowid, new stored                           a digest of the values
    examine    rowid, stored                               list of BadValue
    compare    rowid, old stored, new stored               None
    decode     rowid, stored                               None
    fit        rowid, stored                               per format a rowid or None
    ========== =========================================== ===============================

    All but ``examine`` and ``fit`` raise BadValue.
    """

    kind: str
    formats: tuple[tuple[str, str], ...]
    options: Options = DEFAULTS
    limit: int = 1000

    @classmethod
    def recode(cls, source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS) -> Job:
        return cls("recode", (_names(source), _names(target)), options)

    @classmethod
    def convert(cls, source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS) -> Job:
        return cls("convert", (_names(source), _names(target)), options)

    @classmethod
    def digest(cls, source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS) -> Job:
        return cls("digest", (_names(source), _names(target)), options)

    @classmethod
    def examine(
        cls,
        source: ValueFormat,
        target: ValueFormat,
        options: Options = DEFAULTS,
        *,
        limit: int = 1000,
    ) -> Job:
        return cls("examine", (_names(source), _names(target)), options, limit)

    @classmethod
    def compare(cls, source: ValueFormat, target: ValueFormat, options: Options = DEFAULTS) -> Job:
        return cls("compare", (_names(source), _names(target)), options)

    @classmethod
    def decode(cls, source: ValueFormat, options: Options = DEFAULTS) -> Job:
        return cls("decode", (_names(source),), options)

    @classmethod
    def fit(cls, formats: Iterable[ValueFormat], options: Options = DEFAULTS) -> Job:
        return cls("fit", tuple(_names(item) for item in formats), options)

    def function(self) -> Callable[[Sequence[Any]], Any]:
        """The function from a chunk to its result. Raises UnknownFormat, ValueError."""
        options = self.options
        formats = [
            ValueFormat.named(
                codec,
                compression,
                pickle_allow=options.pickle_allow,
                max_value_bytes=options.max_value_bytes,
            )
            for codec, compression in self.formats
        ]
        if self.kind == "fit":
            return lambda rows: fit_chunk(rows, formats)
        source, target = formats[0], formats[-1]
        functions: dict[str, Callable[[Sequence[Any]], Any]] = {
            "recode": lambda rows: recode_chunk(rows, source, target, options),
            "convert": lambda rows: convert_chunk(rows, source, target, options),
            "digest": lambda rows: digest_chunk(rows, source, target, options),
            "examine": lambda rows: examine_chunk(rows, source, target, options, limit=self.limit),
            "compare": lambda rows: compare_chunk(rows, source, target, options),
            "decode": lambda rows: decode_chunk(rows, source, options),
        }
        return functions[self.kind]


def chunks(
    rows: Iterable[_Row], *, max_rows: int = CHUNK_ROWS, max_bytes: int = CHUNK_BYTES
) -> Iterator[list[_Row]]:
    """The rows in lists that end with the row that reaches either limit.

    Read one by one: a value can be large, and the list that it ends is then all that is held.
    """
    chunk: list[_Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        stored = row[1]
        if stored.__class__ is bytes or stored.__class__ is str:
            size += len(stored)
        if size >= max_bytes or len(chunk) >= max_rows:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _names(value_format: ValueFormat) -> tuple[str, str]:
    return value_format.codec.name, value_format.compression.name
