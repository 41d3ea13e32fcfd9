"""The API's last word, kept on the volume (``desired.json``): what a start without the API goes by."""

from __future__ import annotations

import asyncio

from format_operator.runtime.log import Log
from format_operator.settings import DatabaseArgument
from format_operator.sidecar.store import Store
from format_operator.sidecar.wish import Stored, forgotten
from format_store.errors import StoreError


class Memory:
    """``stored`` is what the volume is known to hold; None: nothing, or not read yet.

    ``problem`` is why the newest word could not be stored: reason and message.
    """

    def __init__(self, argument: DatabaseArgument, store: Store, log: Log) -> None:
        self.stored: Stored | None = None
        self.problem: tuple[str, str] | None = None
        self._argument = argument
        self._store = store
        self._log = log
        self._is_loaded = False

    async def load(self) -> None:
        """Read it, once."""
        if self._is_loaded:
            return
        try:
            document = await asyncio.to_thread(self._store.load_desired, self._argument)
        except StoreError as error:
            self._log.warning("cannot read what was stored", error=error)
            document = None
        stored = Stored.from_document(document)
        # Two StorageFormats for one path share the place; only its own word speaks for each.
        if stored is not None and stored.wish.name == self._argument.name:
            self.stored = stored
        self._is_loaded = True

    async def keep(self, new: Stored | None) -> None:
        """Store it where it differs."""
        document = _document(new)
        if document == _document(self.stored):
            self.problem = None
            return
        try:
            await asyncio.to_thread(self._store.save_desired, self._argument, document)
        except StoreError as error:
            # Not stored is not armed: a restart would not find the permit.
            problem = (error.reason, f"{error}. {error.hint}".rstrip(". ") + ".")
            if problem != self.problem:
                self._log.warning("cannot store the API's word", error=error)
            self.problem = problem
            return
        self.stored, self.problem = new, None


def _document(stored: Stored | None) -> dict[str, object]:
    return stored.to_document() if stored is not None else forgotten()
