"""The socket where gates connect, and what follows from a connection.

A gate that is connected and was not told "open" proves that the app is not running: the kubelet starts the app
only after the gate has ended with 0, and the gate does that only on our word. So a *session* of a database
begins when a gate for it connects, and ends when a gate is told "open" or the last one is gone.

A session that ends in the middle of a conversion does not stop it: the app still cannot start before a gate
was told "open", and the next gate finds its database's session only after the conversion is over. What may not
happen outside a session is the *beginning* of a recovery or conversion.

Everything here runs on the main loop and changes state without awaiting in between, so that "no gate was told
open" and "the conversion begins" cannot come apart.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from format_operator import gate_protocol
from format_operator.gate_protocol import Word
from format_operator.runtime.log import Log

_STARTING = Word(False, "Starting", "the sidecar is looking at the database")


@dataclass(eq=False)
class Session:
    """A stretch of time in which the app is known not to run. ``since`` is monotonic."""

    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Gate:
    databases: frozenset[str]
    writer: asyncio.StreamWriter
    told: Word | None = None


class GateServer:
    """``changed`` is called when a session begins or ends."""

    def __init__(self, databases: Sequence[str], changed: Callable[[], None], log: Log) -> None:
        self._databases = frozenset(databases)
        self._words = dict.fromkeys(databases, _STARTING)
        self._sessions: dict[str, Session] = {}
        self._gates: set[_Gate] = set()
        self._changed = changed
        self._log = log
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def session(self, database: str) -> Session | None:
        """The session of this database, if the app is known not to run now."""
        return self._sessions.get(database)

    def is_open(self, database: str) -> bool:
        return self._words[database].is_open

    def say(self, database: str, word: Word) -> None:
        """Set the word for a database and tell the gates that wait for it."""
        if self._words[database] == word:
            return
        self._words[database] = word
        for gate in list(self._gates):
            self._tell(gate)

    async def start(self, path: str) -> None:
        """Listen at ``path``. A socket that an earlier worker left is replaced in one step."""
        temporary = f"{path}.{os.getpid()}"
        Path(temporary).unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            self._accept, temporary, limit=gate_protocol.MAX_LINE
        )
        # The gate may run as another user than the sidecar; the directory belongs to this pod alone.
        os.chmod(temporary, 0o666)  # noqa: S103 # as just said
        os.rename(temporary, path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, gate_protocol.ProtocolError, ValueError) as error:
            self._log.warning("gate not understood", error=error)
        except asyncio.CancelledError:
            pass  # the worker ends, and with it this connection
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line:
            return
        named = frozenset(gate_protocol.parse_hello(line))
        gate = _Gate(named or self._databases, writer)
        unknown = gate.databases - self._databases
        self._gates.add(gate)
        self._log.info("gate connected", databases=",".join(sorted(gate.databases)))
        try:
            if unknown:
                message = f"this sidecar has no --database {', '.join(sorted(unknown))}"
                self._send(gate, Word(False, "UnknownDatabase", message))
            else:
                self._begin(gate)
            # Nothing more comes from a gate; the end of the stream is what we wait for.
            while await reader.read(1024):
                pass
        finally:
            self._gates.discard(gate)
            self._leave(gate)

    def _begin(self, gate: _Gate) -> None:
        for database in gate.databases:
            if database not in self._sessions:
                # Whatever was said to an earlier gate is over: the app may have run since.
                self._sessions[database] = Session()
                self._words[database] = _STARTING
        self._tell(gate)
        self._changed()

    def _leave(self, gate: _Gate) -> None:
        told_open = gate.told is not None and gate.told.is_open
        self._log.info("gate gone", told="open" if told_open else "closed")
        for database in gate.databases:
            if not any(database in other.databases for other in self._waiting()):
                self._sessions.pop(database, None)
        self._changed()

    def _waiting(self) -> list[_Gate]:
        return [one for one in self._gates if one.told is None or not one.told.is_open]

    def _tell(self, gate: _Gate) -> None:
        if (gate.told is not None and gate.told.is_open) or gate.databases - self._databases:
            return
        for database in sorted(gate.databases):
            word = self._words[database]
            if not word.is_open:
                self._send(gate, Word(False, word.reason, word.message, database))
                return
        words = [self._words[database] for database in sorted(gate.databases)]
        # From here on the app may run, whether or not the gate gets to read it.
        for database in gate.databases:
            self._sessions.pop(database, None)
        self._send(gate, Word(True, message="; ".join(word.message for word in words)))
        self._log.info("gate opened", databases=",".join(sorted(gate.databases)))
        self._changed()

    def _send(self, gate: _Gate, word: Word) -> None:
        if word == gate.told:
            return
        gate.told = word
        if not gate.writer.is_closing():
            gate.writer.write(gate_protocol.word(word))
