"""Value formats: how a value, a Python object, lies in the value column.

What belongs here: codecs, compressions, what makes a value "the same" after a conversion, and the worker
processes that decode what nobody vouches for. What never does: SQLite connections, files of the store,
its errors. Worker processes import this package alone, so it imports nothing of its siblings, and
codecs only when they are asked for.

Others add theirs as entry points of the groups ``storageformat.codecs`` and ``storageformat.compressions``,
each naming an object of the protocol in ``base`` or a class that makes one without arguments. A built-in
name cannot be replaced: it is on disk in markers.
"""

from __future__ import annotations

from format_store.codecs.base import MAX_VALUE_BYTES, Compression, Stored, ValueCodec
from format_store.codecs.combined import ValueFormat
from format_store.codecs.errors import (
    BadValue,
    CodecError,
    Forbidden,
    Interrupted,
    SharedReference,
    Undecodable,
    Unencodable,
    UnknownFormat,
    ValueTooLarge,
    WorkerDied,
    WorkerError,
)
from format_store.codecs.registry import (
    codec_names,
    compression_names,
    get_codec,
    get_compression,
    require_codec,
    require_compression,
)

__all__ = [
    "MAX_VALUE_BYTES",
    "BadValue",
    "CodecError",
    "Compression",
    "Forbidden",
    "Interrupted",
    "SharedReference",
    "Stored",
    "Undecodable",
    "Unencodable",
    "UnknownFormat",
    "ValueCodec",
    "ValueFormat",
    "ValueTooLarge",
    "WorkerDied",
    "WorkerError",
    "codec_names",
    "compression_names",
    "get_codec",
    "get_compression",
    "require_codec",
    "require_compression",
]
