"""Worker processes that decode what nobody vouches for, with a limit on their memory.

Not ``multiprocessing``: its ``spawn`` imports the application's ``__main__`` into every worker, its ``fork``
shares the parent's descriptors, and it talks in pickles. A worker here is a fresh interpreter that
imports ``format_store.codecs`` and nothing else of anybody, with an empty environment, in a session of
its own: a ^C in the terminal is the parent's to handle.

No threads either. The thread that takes the results moves the data, with non-blocking pipes, so the
chunks may come out of a SQLite cursor of that thread, and workers are kept busy through the pipes'
buffers while it does something else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from format_store.codecs import frames
from format_store.codecs.errors import BadValue, Interrupted, WorkerDied, WorkerError
from format_store.codecs.jobs import Job

DEFAULT_MEMORY_LIMIT = 1 << 30

#: Chunks on the way to, in and from a worker: one that it works on and one that waits in the pipe.
_PER_WORKER = 2
_PIPE_BYTES = 1 << 20

# The package comes from exactly where the parent has it, everything else from where the interpreter and
# then the parent look for it: another copy of the package may be installed.
_BOOTSTRAP = """
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
lifeline, limit, root, *paths = sys.argv[1:]
sys.path += [path for path in paths if path not in sys.path]
spec = PathFinder.find_spec("format_store", [root])
package = sys.modules["format_store"] = module_from_spec(spec)
spec.loader.exec_module(package)
from format_store.codecs.worker import main
main(int(lifeline), int(limit))
"""


class WorkerPool:
    """Workers for one conversion. Use it in a ``with`` statement, from one thread.

    ``workers``: how many, by default one for each CPU that this process may use. ``memory_limit``: bytes
    of address space that each may take beyond its own and a multiple of the chunk it works on. They are
    started when the first work arrives.
    """

    def __init__(
        self, workers: int | None = None, *, memory_limit: int = DEFAULT_MEMORY_LIMIT
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"a pool has at least one worker, not {workers}")
        self.size = workers or len(os.sched_getaffinity(0))
        self.memory_limit = memory_limit
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()  # guards the list, for interrupt()
        self._interrupted = False
        self._closed = False
        self._busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def map_ordered(self, job: Job, chunks: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """The results of the chunks, in their order; see ``Job`` for what a chunk and a result are.

        Chunks are taken from the iterable in the caller's thread, a few ahead. Raises BadValue,
        WorkerDied, Interrupted and WorkerError, the first of them that the order of the chunks meets;
        the workers are then stopped, as they are when the iterator is given up. One at a time.
        """
        if self._busy:
            raise RuntimeError("a pool does one job at a time")
        self._busy = True
        finished = False
        try:
            yield from self._map(job, iter(chunks))
            finished = True
        finally:
            self._busy = False
            if not finished:
                self._stop()

    def interrupt(self) -> None:
        """Make the work that is under way, and all later work, raise Interrupted. From any thread."""
        with self._lock:
            self._interrupted = True
            for worker in self._workers:
                worker.kill()

    def close(self) -> None:
        """Kill and reap all workers. The pool cannot be used again. May be called twice."""
        self._closed = True
        self._stop()

    # --- the loop ---------------------------------------------------------------------------------

    def _map(self, job: Job, chunks: Iterator[Sequence[Any]]) -> Iterator[Any]:
        pending: deque[_Task] = deque()
        exhausted = False
        while True:
            while not exhausted and len(pending) < (_PER_WORKER + 1) * self.size:
                worker = self._free_worker()
                if worker is None:
                    break
                chunk = next(chunks, None)
                if chunk is None:
                    exhausted = True
                elif chunk:
                    pending.append(worker.give(job, chunk))
            if not pending:
                return
            head = pending[0]
            self._pump(wait=not head.done)
            if head.done:
                pending.popleft()
                yield head.result()

    def _free_worker(self) -> _Worker | None:
        """The one with the least to do, as long as there is one that can take more."""
        self._check()
        if len(self._workers) < self.size and all(worker.tasks for worker in self._workers):
            try:
                fresh = _Worker(self.memory_limit)
            except OSError as error:
                raise WorkerError(f"a worker process could not be started: {error}") from error
            with self._lock:
                self._workers.append(fresh)
            self._check()  # interrupted meanwhile: nobody has killed this one
        worker = min(self._workers, key=lambda candidate: len(candidate.tasks))
        return worker if len(worker.tasks) < _PER_WORKER else None

    def _pump(self, *, wait: bool) -> None:
        """Move what can be moved; ``wait`` until something could."""
        self._check()
        poll = select.poll()
        by_fd: dict[int, _Worker] = {}
        for worker in self._workers:
            if worker.tasks:
                by_fd[worker.source] = worker
                poll.register(worker.source, select.POLLIN)
            if worker.outbox:
                by_fd[worker.sink] = worker
                poll.register(worker.sink, select.POLLOUT)
        try:
            ready = poll.poll(None if wait else 0)
        except OSError as error:
            raise WorkerError(f"waiting for the workers failed: {error}") from error
        for fd, _ in ready:
            worker = by_fd[fd]
            try:
                if fd == worker.sink:
                    worker.write()
                else:
                    worker.read()
            except (EOFError, OSError, ValueError) as error:
                self._check()
                raise worker.died() from error

    def _check(self) -> None:
        if self._interrupted:
            raise Interrupted("the workers were told to stop")
        if self._closed:
            raise RuntimeError("the pool is closed")

    def _stop(self) -> None:
        with self._lock:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.close()


class _Task:
    """A chunk under way."""

    def __init__(self, job: Job, rows: Sequence[Any]) -> None:
        self.kind = job.kind
        self.first_rowid: int = rows[0][0]
        self.last_rowid: int = rows[-1][0]
        self.done = False
        self._parts: list[Any] = []
        self._value: Any = None
        self._error: Exception | None = None

    def answer(self, message: Any, memory_limit: int) -> None:
        """Take an answer of the worker. Raises ValueError for what is none."""
        if not isinstance(message, tuple) or not message:
            raise ValueError("an answer that is none")
        what, *rest = message
        if what == "part":
            self._parts.extend(rest[0])
            return
        if what == "ok":
            self._value = self._result(rest[0])
        elif what == "bad":
            rowid, type_name, why = rest
            self._error = BadValue(rowid, type_name, why)
        elif what == "memory":
            why = (
                f"the value needs more memory than the limit of {memory_limit} bytes to be decoded"
            )
            self._error = BadValue(self.first_rowid, "memory", why)
        elif what == "error":
            self._error = WorkerError(f"a worker failed: {rest[0]}")
        else:
            raise ValueError(f"an answer that is none: {what!r}")
        self.done = True

    def _result(self, value: Any) -> Any:
        if self.kind == "recode":
            return [*self._parts, *value]
        if self.kind == "convert":
            rows, digest = value
            return [*self._parts, *rows], digest
        if self.kind == "digest":
            return value
        if self.kind == "examine":
            return [BadValue(*bad) for bad in value]
        return list(value) if self.kind == "fit" else None

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class _Worker:
    """One process and the parent's ends of its pipes."""

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.tasks: deque[_Task] = deque()
        self.outbox: deque[memoryview] = deque()
        self._inbox = bytearray()
        self._stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)
        reading_end, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                _command(reading_end, memory_limit),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                pass_fds=(reading_end,),
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        except BaseException:
            with _let_go():
                os.close(self._lifeline)
            with _let_go():
                os.close(self._stderr)
            raise
        finally:
            with _let_go():
                os.close(reading_end)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.sink = self._process.stdin.fileno()
        self.source = self._process.stdout.fileno()
        for fd in (self.sink, self.source):
            try:
                os.set_blocking(fd, False)
            except OSError:
                self.kill()
                self.close()
                raise
            with contextlib.suppress(OSError):  # a limit of the system; it only takes more turns
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def give(self, job: Job, rows: Sequence[Any]) -> _Task:
        task = _Task(job, rows)
        self.tasks.append(task)
        self.outbox.append(memoryview(frames.pack((*job, rows))))
        # Mostly it fits into the pipe at once. What goes wrong here is seen when the answer is read: there is
        # none, also of a process that lives and would wait for the rest.
        try:
            self.write()
        except OSError:
            self.kill()
            self.outbox.clear()
        return task

    def write(self) -> None:
        while self.outbox:
            try:
                sent = os.write(self.sink, self.outbox[0])
            except BlockingIOError:
                return
            if sent < len(self.outbox[0]):
                self.outbox[0] = self.outbox[0][sent:]
            else:
                self.outbox.popleft()

    def read(self) -> None:
        """Take what there is. Raises EOFError when the process has gone, ValueError for nonsense."""
        try:
            data = os.read(self.source, _PIPE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        self._inbox += data
        while len(self._inbox) >= frames.HEADER:
            end = frames.HEADER + frames.length(self._inbox)
            if len(self._inbox) < end:
                return
            with memoryview(self._inbox) as view, view[frames.HEADER : end] as body:
                message = frames.unpack(body)
            del self._inbox[:end]
            task = self.tasks[0]
            task.answer(message, self.memory_limit)
            if task.done:
                self.tasks.popleft()

    def died(self) -> WorkerDied:
        """Reap the process and say what is known of its end."""
        self._process.kill()
        status = self._process.wait()
        size = os.fstat(self._stderr).st_size
        last_words = (
            os.pread(self._stderr, 2000, max(0, size - 2000)).decode("utf-8", "replace").strip()
        )
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        message = f"a worker process {how}"
        task = self.tasks[0] if self.tasks else None
        if task is not None:
            message += f" while it worked on rows {task.first_rowid} to {task.last_rowid}"
        if status < 0:
            message += (
                f"; each may use {self.memory_limit} bytes, which may be more than the system or the "
                "container has"
            )
        if last_words:
            message += f": {last_words}"
        return WorkerDied(
            message,
            status=status,
            first_rowid=task.first_rowid if task else None,
            last_rowid=task.last_rowid if task else None,
        )

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Reap the process, which was killed, and close everything."""
        self._process.wait()
        self.outbox.clear()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with _let_go():
                    pipe.close()
        for descriptor in (self._lifeline, self._stderr):
            with _let_go():
                os.close(descriptor)


def _let_go() -> contextlib.suppress:
    """What the close of a pipe answers says nothing of the work that was done: the other end is dead."""
    return contextlib.suppress(OSError)


def _command(lifeline: int, memory_limit: int) -> list[str]:
    root = str(Path(__file__).resolve().parents[2])
    options = ["-I", *(["-" + "O" * sys.flags.optimize] if sys.flags.optimize else [])]
    if sys.dont_write_bytecode:
        options.append("-B")
    # Relative entries and "" would mean another directory there.
    paths = [path for path in sys.path if os.path.isabs(path)]
    return [
        sys.executable,
        *options,
        "-c",
        _BOOTSTRAP,
        str(lifeline),
        str(memory_limit),
        root,
        *paths,
    ]


def _environment() -> dict[str, str]:
    # One arena: with several, glibc reserves address space that counts against the limit.
    environment = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
    if library_path := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = library_path  # some interpreters do not start without
    return environment
