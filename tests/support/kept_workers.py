"""Workers that outlive a conversion, for whoever does thousands: starting one takes longer than a small conversion."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from format_store.codecs import pool
from format_store.engines.sqlitedict import values


class _Kept(pool.WorkerPool):
    """Takes over the workers of the pool before where that had no trouble with them.

    A value that leaves something behind in a worker is one more way to be hostile.
    """

    _guard: ClassVar = threading.Lock()
    _spare: ClassVar[list[pool._Worker]] = []

    def __init__(self, workers: int | None = None, *, memory_limit: int) -> None:
        super().__init__(workers, memory_limit=memory_limit)
        with self._guard:
            for worker in self._spare:
                if worker.memory_limit == memory_limit and len(self._workers) < self.size:
                    self._workers.append(worker)
            self._spare[:] = [worker for worker in self._spare if worker not in self._workers]

    def _stop(self) -> None:
        """Also called after a value that could not be converted: whoever has answered that goes on."""
        with self._guard:
            self._spare.extend(worker for worker in self._workers if not worker.tasks)
            self._workers = [worker for worker in self._workers if worker.tasks]
        super()._stop()


@contextmanager
def kept_workers() -> Iterator[None]:
    """Workers live on from conversion to conversion of this process. From any thread; never beside a fork."""
    try:
        setattr(values, "WorkerPool", _Kept)  # noqa: B010 - mypy would have it a constant
        yield
    finally:
        setattr(values, "WorkerPool", pool.WorkerPool)  # noqa: B010 - as above
        spare, _Kept._spare = _Kept._spare, []
        for worker in spare:
            worker.kill()
            worker.close()
