"""A second thread for what SQLite or the kernel does by itself: both leave the interpreter to the first one.

``integrity_check`` and the comparison of rows take a core each; an fsync takes none. What runs here changes no
name and no content, so that a crash in the middle of it leaves what a crash in front of it would.
"""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from format_store.abort import Abort

_Result = TypeVar("_Result")
#: How often it is asked whether a thread still is there that has not said that it has ended.
_LOOK_SECONDS = 1.0


class _Sign:
    """Lives as long as the thread that it was given to."""


class Task(Generic[_Result]):
    """A thread with a result.

    ``threading.Thread`` waits for ever, in ``start`` and in ``join``, for a thread that dies of a lack of memory before
    its first line. (And ``concurrent.futures`` takes longer to import than most runs have to do.)
    """

    def __init__(self, function: Callable[[Abort], _Result], stop: Abort) -> None:
        self._function = function
        self._stop_request = stop
        self._value: _Result
        self._error: BaseException | None = None
        self._running = _thread.allocate_lock()
        self._done = False

    def start(self) -> None:
        """Where there can be no further thread, ``result`` does it."""
        sign = _Sign()
        self._alive = weakref.ref(sign)
        self._running.acquire()
        with suppress(RuntimeError):
            _thread.start_new_thread(self._begin, (sign,))

    def _begin(self, _: _Sign) -> None:
        try:
            self.run()
        finally:
            self._running.release()

    def run(self) -> None:
        try:
            self._value = self._function(self._stop_request)
        except BaseException as error:
            self._error = error
        self._done = True

    def join(self) -> None:
        while not self._running.acquire(timeout=_LOOK_SECONDS if self._alive() else 0):
            if self._alive() is None:
                return
        self._running.release()

    def result(self) -> _Result:
        """Wait for the end of the thread. Raises what its function has raised."""
        self.join()
        if not self._done:
            self.run()
        if self._error is not None:
            raise self._error
        return self._value


@contextmanager
def running(function: Callable[[Abort], _Result]) -> Iterator[Task[_Result]]:
    """Run ``function`` while the body runs, and wait for it; its error is raised after a body without one.

    An error of the body requests the ``Abort`` that the function is given, which must then end soon.
    """
    stop = Abort()
    task = Task(function, stop)
    task.start()
    try:
        yield task
    except BaseException:
        stop.request()
        task.join()
        raise
    task.result()
