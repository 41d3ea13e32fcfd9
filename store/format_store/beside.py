"""A second thread for what SQLite or the kernel does by itself: both leave the interpreter to the first one.

``integrity_check`` and the comparison of rows take a core each; an fsync takes none. What runs here changes no
name and no content, so that a crash in the middle of it leaves what a crash in front of it would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from format_store.abort import Abort

_Result = TypeVar("_Result")


class Task(threading.Thread, Generic[_Result]):
    """A thread with a result. (``concurrent.futures`` takes longer to import than most runs have to do.)"""

    def __init__(self, function: Callable[[Abort], _Result], stop: Abort) -> None:
        super().__init__(name="beside")
        self._function = function
        self._stop_request = stop
        self._value: _Result
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._function(self._stop_request)
        except BaseException as error:
            self._error = error

    def result(self) -> _Result:
        """Wait for the end of the thread. Raises what its function has raised."""
        self.join()
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
