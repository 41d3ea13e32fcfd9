"""The databases of one argument: which there are, what was seen of them, and when each may be tried again.

Only looks; what changes a database is in ``work``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from format_operator.runtime.log import Log
from format_operator.settings import DatabaseArgument
from format_operator.sidecar.observed import Disk, Failure, FailureKind, File
from format_operator.sidecar.store import Looked, Store, StoreThread, files_of, kind_of
from format_store import Backup
from format_store.errors import StoreError
from format_store.history import History

_ATTENTION_SECONDS = 60.0
#: What a look at a database may find that is no more so a moment later, while an app runs.
_PASSING = frozenset({Disk.ABSENT, Disk.EMPTY, Disk.UNKNOWN})
#: (first, longest) wait between attempts, in seconds.
BACKOFF = {
    FailureKind.TRY_AGAIN: (1.0, 15.0),
    FailureKind.REFUSED: (5.0, 300.0),
    FailureKind.FAILED: (5.0, 300.0),
    FailureKind.ATTENTION: (_ATTENTION_SECONDS, _ATTENTION_SECONDS),
}


@dataclass
class Database:
    """One file and what was seen of it. Times are monotonic."""

    path: str
    looked: Looked | None = None
    recovered: bool = False
    unsettled: bool = False  # the recovery could not even look: somebody else is at work
    unseen: bool = False  # the last look failed, and that is what `failure` tells
    failure: Failure | None = None
    retry_at: float = 0.0
    prune_at: float | None = None

    def failed(self, error: Exception) -> Failure:
        """Remember the failure, and wait longer than after the one before."""
        kind = kind_of(error)
        attempts = self.failure.attempts + 1 if self.failure is not None else 1
        first, longest = BACKOFF[kind]
        self.retry_at = time.monotonic() + min(first * 2 ** (attempts - 1), longest)
        if isinstance(error, StoreError):
            reason = error.reason
            message = f"{error}. {error.hint}".strip() if error.hint else str(error)
        else:
            reason, message = "InternalError", f"{type(error).__name__}: {error}"
        self.failure = Failure(kind, reason, message, attempts)
        return self.failure

    def forgive(self) -> None:
        """Try again at once. What needs a person still does."""
        if self.failure is not None and self.failure.kind is not FailureKind.ATTENTION:
            self.failure = None
            self.retry_at = 0.0

    def seen(self) -> File:
        looked = self.looked or Looked(Disk.UNKNOWN)
        failure = self.failure
        if failure is not None:
            failure = replace(failure, retry_in=self.retry_at - time.monotonic())
        return File(
            self.path,
            looked.disk,
            looked.format,
            looked.pending or self.unsettled,
            failure,
            looked.previous,
        )

    @property
    def is_pending(self) -> bool:
        return self.looked is not None and self.looked.pending

    @property
    def wants_recovery(self) -> bool:
        """Whether it is to be recovered now: once per gate, and again while that did not settle it."""
        is_due = self.failure is None or time.monotonic() >= self.retry_at
        return is_due and (not self.recovered or self.unsettled or self.is_pending)


class Databases:
    """``arguments`` are all of this sidecar: a more exact one goes before a glob for a file that both name."""

    def __init__(
        self,
        argument: DatabaseArgument,
        arguments: Sequence[DatabaseArgument],
        store: Store,
        thread: StoreThread,
        log: Log,
    ) -> None:
        self.histories: dict[str, History] = {}
        self._argument = argument
        self._more_exact = _more_exact(argument, arguments)
        self._store = store
        self._thread = thread
        self._log = log
        self._known: dict[str, Database] | None = None

    def __iter__(self) -> Iterator[Database]:
        """As they are known now; others may be found meanwhile."""
        return iter(list((self._known or {}).values()))

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._known or ())

    @property
    def is_forgotten(self) -> bool:
        return self._known is None

    @property
    def lacks_one(self) -> bool:
        """Whether there is nothing yet, nothing in it, or nothing that could be seen: that may change soon."""
        looked = [one.looked for one in self]
        return not looked or any(one is not None and one.disk in _PASSING for one in looked)

    def get(self, path: str) -> Database | None:
        return (self._known or {}).get(path)

    def files(self) -> tuple[File, ...]:
        """What a decision is made of."""
        return tuple(one.seen() for one in self)

    def backups(self) -> tuple[Backup, ...]:
        return tuple(
            backup for one in self if one.looked is not None for backup in one.looked.backups
        )

    def forget(self) -> None:
        """The app may have run: whatever was known may be old."""
        self._known = None

    async def find(self) -> None:
        """List the files of the argument. Raises OSError."""
        paths = await asyncio.to_thread(files_of, self._argument, self._more_exact)
        self._known = {path: Database(path) for path in paths}
        await self.read_histories(paths)

    async def find_new(self) -> None:
        """While the app runs: databases that it has made since, and their size. Raises OSError."""
        known = self._known if self._known is not None else {}
        for path in await asyncio.to_thread(files_of, self._argument, self._more_exact):
            database = known.setdefault(path, Database(path))
            if database.looked is None or database.looked.disk in _PASSING:
                database.looked = None
        self._known = known

    async def look(self, database: Database) -> None:
        try:
            looked = await self._thread.call(lambda _: self._store.look(database.path))
        except Exception as error:
            # What cannot be looked at may hold pending work; the gate stays closed until it can.
            database.failed(error)
            database.unseen = True
            looked = Looked(Disk.UNKNOWN, pending=True, note=str(error))
            self._log.warning("cannot look at the database", database=database.path, error=error)
        else:
            if database.unseen:
                database.unseen, database.failure = False, None
        database.looked = looked
        database.prune_at = 0.0 if looked.backups else None

    async def look_again(self, database: Database) -> None:
        """After something was done to it."""
        await self.look(database)
        await self.read_histories((database.path,))

    async def read_histories(self, paths: Sequence[str]) -> None:
        def read() -> dict[str, History]:
            found = {}
            for path in paths:
                try:
                    found[path] = self._store.history(path)
                except StoreError as error:
                    self._log.warning("cannot read the history", database=path, error=error)
            return found

        self.histories.update(await asyncio.to_thread(read))


def _more_exact(
    argument: DatabaseArgument, arguments: Sequence[DatabaseArgument]
) -> tuple[DatabaseArgument, ...]:
    """The arguments whose files are not this one's, though its glob matches them."""
    if not argument.is_glob:
        return ()
    before = arguments[: arguments.index(argument)]
    return tuple(
        one for one in arguments if one.path != argument.path and (not one.is_glob or one in before)
    )
