"""Messages between a pool and its workers: eight bytes of length, then MessagePack.

Never pickle: a worker has looked at hostile data, and what it says is data too.
"""

from __future__ import annotations

from typing import Any

import msgpack

HEADER = 8

#: No honest message comes near: it tells a broken worker from a large value.
LONGEST = 1 << 33


def pack(message: object) -> bytes:
    """The frame. Texts may have lone surrogates here; whether a value may is for its codec to say."""
    body: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
    return len(body).to_bytes(HEADER, "little") + body


def length(header: bytes | bytearray | memoryview) -> int:
    """The length of the body that follows. Raises ValueError for what is none."""
    size = int.from_bytes(header[:HEADER], "little")
    if size > LONGEST:
        raise ValueError(f"a frame of {size} bytes")
    return size


def unpack(body: bytes | bytearray | memoryview) -> Any:
    """The message; its arrays are tuples."""
    return msgpack.unpackb(
        body, use_list=False, strict_map_key=False, unicode_errors="surrogatepass"
    )
