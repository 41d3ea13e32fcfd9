"""The worker process: reads chunks, answers with results, ends when nobody is left to ask.

Started by ``pool`` with everything closed but its pipes. It answers

    ok, result          part, rows (more follow)          bad, rowid, type name, why
    memory              not even the chunk itself fits
    error, text         something that is no value's fault
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, BinaryIO

from format_store.codecs import frames
from format_store.codecs.errors import BadValue
from format_store.codecs.jobs import Job
from format_store.codecs.recode import Options

_PART_BYTES = 1 << 20

#: The kinds of job whose result is as large as what they work on.
_YIELDING = frozenset({"recode", "convert"})

_CONTAINERS_BEFORE_COLLECTION = 100_000

#: What a chunk may take beside the limit, as a multiple of its size: the frame, the values in it, their
#: decompressed and their new forms. A large value is no attack.
_COPIES = 8


def main(lifeline: int, memory_limit: int) -> None:
    """Serve standard input until it ends. ``lifeline`` is the reading end of a pipe nobody writes to."""
    _die_with_parent(lifeline)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests = os.fdopen(os.dup(0), "rb", buffering=1 << 16)
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever prints does not land between the frames
    memory = _Memory(memory_limit)
    # The values of a chunk are alive together, and hardly ever garbage in cycles: looking for some each time
    # that 700 of their containers have been made takes a third of the time.
    gc.set_threshold(_CONTAINERS_BEFORE_COLLECTION)
    try:
        while _serve(requests, replies, memory):
            pass
    except BrokenPipeError:
        pass
    # No clean-up of the interpreter: it would only free memory that the kernel takes back anyway.
    os._exit(0)


class _Memory:
    """The limit of the address space, moved with the size of what is worked on."""

    def __init__(self, limit: int) -> None:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[0])
        self.limit = limit
        self._base = pages * resource.getpagesize() + limit
        self.allow(0)

    def allow(self, chunk_bytes: int) -> None:
        resource.setrlimit(
            resource.RLIMIT_AS, (self._base + _COPIES * chunk_bytes, resource.RLIM_INFINITY)
        )


def _serve(requests: BinaryIO, replies: int, memory: _Memory) -> bool:
    header = requests.read(frames.HEADER)
    if len(header) < frames.HEADER:
        return False
    size = frames.length(header)
    memory.allow(size)
    try:
        body = requests.read(size)
    except MemoryError:
        while size:
            size -= len(requests.read(min(size, _PART_BYTES))) or size
        _send(replies, frames.pack(("memory",)))
        return True
    if len(body) < size:
        return False
    try:
        kind, formats, options, limit, rows = frames.unpack(body)
        del body
        job = Job(kind, formats, Options(*options)._replace(memory_limit=memory.limit), limit)
        for answer in _answers(job, rows):
            _send(replies, frames.pack(answer))
            del answer
    except BrokenPipeError:
        raise
    except MemoryError:
        _send(replies, frames.pack(("memory",)))
    except Exception as error:
        _send(replies, frames.pack(("error", f"{type(error).__name__}: {error}")))
    return True


@lru_cache(maxsize=1)
def _function(job: Job) -> Callable[[Sequence[Any]], Any]:
    """The job's function, kept as long as the job stays the same: it holds compressors and classes."""
    return job.function()


def _answers(job: Job, rows: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    function = _function(job)
    try:
        result = function(rows)
    except BadValue as error:
        if len(rows) == 1 or not isinstance(error.__cause__, MemoryError):
            yield _bad(error)
            return
    except MemoryError:
        if len(rows) == 1:
            raise
    else:
        yield "ok", _plain(result)
        return
    # All rows of a chunk together need too much; which one does by itself is what counts.
    yield from _one_by_one(job, function, rows)


def _one_by_one(
    job: Job, function: Callable[[Sequence[Any]], Any], rows: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    collected: list[Any] = []
    size = 0
    fits: list[int | None] = [None] * len(job.formats)
    for row in rows:
        try:
            result = function((row,))
        except BadValue as error:
            yield _bad(error)
            return
        if job.kind == "fit":
            fits = [old if old is not None else new for old, new in zip(fits, result, strict=True)]
        elif job.kind == "digest":
            continue  # of all rows at once or not at all
        elif result:
            if job.kind == "convert":
                result = result[0]
            collected.extend(_plain(result))
            size += sum(len(new) for _, new in result) if job.kind in _YIELDING else 0
        if size > _PART_BYTES:
            yield "part", collected
            collected, size = [], 0
    if job.kind == "convert":
        yield "ok", (collected, b"")
    elif job.kind == "digest":
        yield "ok", b""
    else:
        yield "ok", fits if job.kind == "fit" else collected


def _plain(result: Any) -> Any:
    if isinstance(result, list) and result and isinstance(result[0], BadValue):
        return [(bad.rowid, bad.type_name, bad.why) for bad in result]
    return result


def _bad(error: BadValue) -> tuple[Any, ...]:
    return "bad", error.rowid, error.type_name, error.why


def _send(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _die_with_parent(lifeline: int) -> None:
    """Have the kernel end this process, even in the middle of a long decode, when the parent is gone.

    The parent holds the other end of the pipe. When it is closed, the reader gets SIGIO, whose default
    is to end the process. (PR_SET_PDEATHSIG follows the parent's *thread*, which may end earlier.)
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(
        lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK
    )
    try:
        if os.read(lifeline, 1) == b"":
            os._exit(0)  # it was gone before we asked to be told
    except BlockingIOError:
        pass


if __name__ == "__main__":
    sys.exit("started by format_store.codecs.pool only")
