"""The sidecar's one door to ``format_store``, and the one thread that goes through it.

All that opens a database happens on that thread, one thing after the other: a second descriptor of the same
file in one process would drop SQLite's locks, and no lease is granted while it is open. The thread is ours, so
that a conversion survives whatever kopf and the main loop do.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import format_store
from format_operator.settings import DatabaseArgument
from format_operator.sidecar.observed import Disk, FailureKind
from format_store import Abort, Backup, Failpoints, Format, Observer, Result, Retention, state_file
from format_store import history as store_history
from format_store import layout as store_layout
from format_store.errors import (
    NeedsAttention,
    Refused,
    StoreError,
    TryAgain,
    UsageError,
)
from format_store.history import History

T = TypeVar("T")

_DESIRED = "desired.json"
_STATE_PREFIX, _STATE_SUFFIX = ".", ".storageformat"


@dataclass(frozen=True)
class Looked:
    """One database as it lies. Sizes in bytes."""

    disk: Disk
    format: Format | None = None
    pending: bool = False
    backups: tuple[Backup, ...] = ()
    size: int = 0
    note: str = ""
    previous: Format | None = None


class Store(Protocol):
    """What the sidecar needs of the store; everything may raise StoreError and takes its time."""

    def recover(
        self, path: str, observer: Observer, abort: Abort, *, openers_unchecked: bool
    ) -> Result: ...

    def convert(
        self,
        path: str,
        target: Format,
        unmarked: Sequence[Format],
        retention: Retention,
        observer: Observer,
        abort: Abort,
        *,
        openers_unchecked: bool,
        conversion_id: str | None = None,
    ) -> Result: ...

    def look(self, path: str) -> Looked: ...

    def prune(self, path: str, observer: Observer, *, openers_unchecked: bool) -> float | None: ...

    def history(self, path: str) -> History: ...

    def load_desired(self, argument: DatabaseArgument) -> dict[str, Any] | None: ...

    def save_desired(self, argument: DatabaseArgument, document: dict[str, Any]) -> None: ...


class FormatStore:
    """The real one. ``failpoints`` are a test's; production passes none."""

    def __init__(
        self, *, pickle_allow: Sequence[str] = (), failpoints: Failpoints | None = None
    ) -> None:
        self._pickle_allow = tuple(pickle_allow)
        self._failpoints = failpoints

    def recover(
        self, path: str, observer: Observer, abort: Abort, *, openers_unchecked: bool
    ) -> Result:
        result = format_store.recover(
            path,
            observer=observer,
            abort=abort,
            openers_unchecked=openers_unchecked,
            failpoints=self._failpoints,
        )
        if _is_busy(path):
            # Its application was killed. It does not run now, and its next start would do the same; without,
            # nobody could tell which format the database is in, and a guarded gate would stay closed.
            format_store.settle(path)
        return result

    def convert(
        self,
        path: str,
        target: Format,
        unmarked: Sequence[Format],
        retention: Retention,
        observer: Observer,
        abort: Abort,
        *,
        openers_unchecked: bool,
        conversion_id: str | None = None,
    ) -> Result:
        return format_store.convert(
            path,
            target,
            unmarked=unmarked,
            retention=retention,
            observer=observer,
            abort=abort,
            openers_unchecked=openers_unchecked,
            pickle_allow=self._pickle_allow,
            conversion_id=conversion_id,
            failpoints=self._failpoints,
        )

    def look(self, path: str) -> Looked:
        try:
            # Without counting: a gate must not wait for an index of gigabytes to be read.
            found = format_store.inspect(path, count_rows=False)
        except Refused as refusal:
            # A link, a directory, somebody else's file: not ours to open. Whether work of ours is pending
            # there still has to be known, because that holds the gate closed.
            pending = bool(store_layout.Layout.of(path).pending())
            return Looked(Disk.UNKNOWN, pending=pending, note=str(refusal))
        disk = Disk(found.state) if found.state in set(Disk) else Disk.UNKNOWN
        return Looked(
            disk,
            found.format,
            bool(found.pending),
            found.backups,
            found.size,
            found.note,
            found.marker.previous if found.marker is not None else None,
        )

    def prune(self, path: str, observer: Observer, *, openers_unchecked: bool) -> float | None:
        return format_store.prune_backups(
            path, observer=observer, openers_unchecked=openers_unchecked
        )

    def history(self, path: str) -> History:
        return store_history.read(path)

    def load_desired(self, argument: DatabaseArgument) -> dict[str, Any] | None:
        return state_file.load(_desired_home(argument), _DESIRED)

    def save_desired(self, argument: DatabaseArgument, document: dict[str, Any]) -> None:
        state_file.save(_desired_home(argument), _DESIRED, document)


def _is_busy(path: str) -> bool:
    """Whether a journal has to be worked off before the database can be looked at."""
    try:
        return format_store.inspect(path, count_rows=False).state == "busy"
    except StoreError:
        return False  # looking at it later says what is the matter


def _desired_home(argument: DatabaseArgument) -> str:
    """Beside the database; for a glob, in one directory named after the StorageFormat, beside them all."""
    if not argument.is_glob:
        return argument.path
    return str(Path(argument.path).parent / argument.name)


def files_of(
    argument: DatabaseArgument, others: Sequence[DatabaseArgument] = ()
) -> tuple[str, ...]:
    """The databases that an argument names, sorted; those of a more exact argument are that one's.

    A file that is gone while work on it is pending is still named: recovery may bring it back.
    Raises OSError, but for a directory that does not exist.
    """
    if not argument.is_glob:
        return (argument.path,)
    directory, pattern = os.path.split(argument.path)
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return ()
    names = set()
    for entry in entries:
        name = entry.name
        if name.startswith(_STATE_PREFIX) and name.endswith(_STATE_SUFFIX):
            name = name[len(_STATE_PREFIX) : -len(_STATE_SUFFIX)]
            if not os.path.isdir(os.path.join(entry.path, "work")):
                continue
        elif entry.is_dir(follow_symlinks=False) or name.startswith("."):
            continue
        if name.endswith(store_layout.SIBLING_SUFFIXES):
            continue
        if fnmatch.fnmatchcase(name, pattern):
            names.add(os.path.join(directory, name))
    return tuple(sorted(path for path in names if not _is_anothers(path, others)))


def _is_anothers(path: str, others: Sequence[DatabaseArgument]) -> bool:
    """``others``: the arguments that go before this one for a file that both name."""
    directory, name = os.path.split(path)
    for other in others:
        other_directory, pattern = os.path.split(other.path)
        if directory == other_directory and (
            fnmatch.fnmatchcase(name, pattern) if other.is_glob else name == pattern
        ):
            return True
    return False


def kind_of(error: Exception) -> FailureKind:
    """What an error of the store (or a bug) promises about the database."""
    if isinstance(error, NeedsAttention):
        return FailureKind.ATTENTION
    if isinstance(error, TryAgain):
        return FailureKind.TRY_AGAIN
    if isinstance(error, Refused | UsageError):
        return FailureKind.REFUSED
    if isinstance(error, StoreError) and error.retryable:
        return FailureKind.TRY_AGAIN
    return FailureKind.FAILED


class StoreThread:
    """Runs one call after the other, each with an ``Abort`` that ``stop`` requests.

    ``works`` is told, on the thread, when a call begins and ends.
    """

    def __init__(self, works: Callable[..., None] | None = None) -> None:
        self._works = works
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._stopping = False
        self._current: Abort | None = None
        self._lock = threading.Lock()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    async def call(self, function: Callable[[Abort], T]) -> T:
        """The function's result, or what it raised. Goes on to its end when the caller is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            abort = Abort()
            with self._lock:
                self._current = abort
                if self._stopping:
                    abort.request()
            try:
                outcome: Any = function(abort)
                failure: BaseException | None = None
            except BaseException as error:
                outcome, failure = None, error
            finally:
                with self._lock:
                    self._current = None
            try:
                loop.call_soon_threadsafe(_settle, future, outcome, failure)
            except RuntimeError:
                return  # the loop is closed: the process is about to end

        self._calls.put(run)
        return await future

    def stop(self) -> None:
        """Abort the call under way and take no other. Returns at once."""
        with self._lock:
            self._stopping = True
            if self._current is not None:
                self._current.request()
        self._calls.put(None)

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within ``timeout`` seconds after ``stop``."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._stopping:
                return
            self._tell(begins=True)
            call()
            self._tell(begins=False)

    def _tell(self, *, begins: bool) -> None:
        if self._works is not None:
            self._works(begins=begins)


def _settle(future: asyncio.Future[Any], outcome: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(outcome)
