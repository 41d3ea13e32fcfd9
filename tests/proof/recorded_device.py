"""A block device that notes, in order, what is written to it and when it is told to flush; and may fail once.

A plug-in of nbdkit's, for the Python that is built into that: nothing of this project is imported.

    nbdkit python recorded_device.py image=FILE log=FILE failure=FILE

The log is read with ``entries``. What it holds had been handed to the device by then, and what precedes a flush is
on the disk once that is done. Where ``failure`` holds ``flush N`` or ``write N``, the N-th from then on fails.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

API_VERSION = 2  # nbdkit-python-plugin(3)
_HEAD = struct.Struct("<cQI")
_settings: dict[str, str] = {}
_files: dict[str, int] = {}


@dataclass(frozen=True)
class Entry:
    """``kind``: ``write``, ``flush``, or ``failed`` (a flush that was refused)."""

    kind: str
    offset: int = 0
    data: bytes = b""


_KINDS = {b"W": "write", b"F": "flush", b"E": "failed"}


def entries(log: Path) -> Iterator[Entry]:
    data = log.read_bytes()
    position = 0
    while position < len(data):
        kind, offset, length = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        yield Entry(_KINDS[kind], offset, data[position : position + length])
        position += length


# --- called by nbdkit -----------------------------------------------------------------------------------------


def config(key: str, value: str) -> None:
    _settings[key] = value


def get_ready() -> None:
    _files["image"] = os.open(_settings["image"], os.O_RDWR)
    _files["log"] = os.open(_settings["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def open(_readonly: bool) -> int:  # noqa: A001 - the name is nbdkit's
    return 1


def get_size(_handle: int) -> int:
    return os.fstat(_files["image"]).st_size


def pread(_handle: int, buffer: bytearray, offset: int, _flags: int) -> None:
    buffer[:] = os.pread(_files["image"], len(buffer), offset)


def pwrite(_handle: int, buffer: bytearray, offset: int, _flags: int) -> None:
    _fail_if_told("write")
    os.pwrite(_files["image"], buffer, offset)
    _note(b"W", offset, bytes(buffer))


def flush(_handle: int, _flags: int) -> None:
    try:
        _fail_if_told("flush")
    except OSError:
        _note(b"E")
        raise
    _note(b"F")


def _note(kind: bytes, offset: int = 0, data: bytes = b"") -> None:
    os.write(_files["log"], _HEAD.pack(kind, offset, len(data)) + data)


def _fail_if_told(kind: str) -> None:
    """nbdkit answers EIO where an exception says nothing better."""
    failure = Path(_settings["failure"])
    try:
        what, number = failure.read_text().split()
    except FileNotFoundError:
        return
    if what != kind:
        return
    if int(number) > 1:
        failure.write_text(f"{what} {int(number) - 1}")
        return
    failure.unlink()
    raise OSError(f"{kind} fails, as it was told to")
