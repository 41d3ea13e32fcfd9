"""The socket between gate and sidecar, and when the app is known not to run."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import pytest

from format_operator import gate, gate_protocol
from format_operator.gate_protocol import ProtocolError, Word
from format_operator.runtime.log import Log
from format_operator.sidecar.gate_server import GateServer
from tests.sidecar.pods import Process, python

CLOSED = Word(False, "Converting", "busy", "orders")


class Client:
    """A gate, as the server sees it. ``served`` closes what a scenario leaves open."""

    made: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path, *databases: str) -> Client:
        client = cls(*await asyncio.open_unix_connection(path))
        client.writer.write(gate_protocol.hello(databases))
        cls.made.append(client)
        return client

    async def word(self) -> Word:
        line = await asyncio.wait_for(self.reader.readline(), 5)
        return gate_protocol.parse_word(line)

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def served(
    tmp_path: Path, scenario: Callable[[GateServer, Path], Awaitable[None]], *databases: str
) -> None:
    async def run() -> None:
        server = GateServer(databases or ("orders",), lambda: None, Log())
        path = tmp_path / "s"
        await server.start(str(path))
        try:
            await scenario(server, path)
        finally:
            while Client.made:
                await Client.made.pop().leave()
            await server.stop()

    asyncio.run(run())


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110 # what is waited for has no event
            await asyncio.sleep(0.001)


def test_a_session_is_a_connected_gate_that_was_not_told_open(tmp_path: Path) -> None:
    """It begins with the greeting and ends with our word, whether or not the gate reads it."""

    async def scenario(server: GateServer, path: Path) -> None:
        assert server.session("orders") is None
        client = await Client.connect(path)
        assert (await client.word()).reason == "Starting"
        session = server.session("orders")
        assert session is not None
        server.say("orders", CLOSED)
        assert await client.word() == CLOSED
        assert server.session("orders") is session
        server.say("orders", Word(True, message="done"))
        assert server.session("orders") is None
        assert (await client.word()).is_open

    served(tmp_path, scenario)


def test_a_session_ends_when_the_gate_is_gone(tmp_path: Path) -> None:
    """Killed, evicted: what was allowed because of its connection is not allowed any more."""

    async def scenario(server: GateServer, path: Path) -> None:
        client = await Client.connect(path)
        await client.word()
        first = server.session("orders")
        await client.leave()
        await until(lambda: server.session("orders") is None)
        again = await Client.connect(path)
        await again.word()
        assert server.session("orders") is not first

    served(tmp_path, scenario)


def test_an_open_word_is_not_for_the_next_gate(tmp_path: Path) -> None:
    """After the sandbox is new the app may have run: the next gate waits for a new look."""

    async def scenario(server: GateServer, path: Path) -> None:
        first = await Client.connect(path)
        await first.word()
        server.say("orders", Word(True))
        assert (await first.word()).is_open
        await first.leave()
        second = await Client.connect(path)
        assert (await second.word()).reason == "Starting"
        assert not server.is_open("orders")

    served(tmp_path, scenario)


def test_a_gate_for_all_waits_for_all(tmp_path: Path) -> None:
    """One database open, the other not: closed, and the line says which; a gate for the one is let go."""

    async def scenario(server: GateServer, path: Path) -> None:
        everything = await Client.connect(path)
        assert (await everything.word()).database == "orders"
        server.say("orders", Word(True))
        assert (await everything.word()).database == "users"
        orders = await Client.connect(path, "orders")
        assert (await orders.word()).is_open
        # An app behind that gate may run: nothing of orders is touched for the other gate's sake.
        assert server.session("orders") is None
        assert server.session("users") is not None
        server.say("users", Word(True))
        assert (await everything.word()).is_open

    served(tmp_path, scenario, "orders", "users")


def test_an_unknown_database_never_opens(tmp_path: Path) -> None:
    """A gate for a database that this sidecar does not have is told so, and no session begins."""

    async def scenario(server: GateServer, path: Path) -> None:
        client = await Client.connect(path, "typo")
        word = await client.word()
        assert (word.is_open, word.reason) == (False, "UnknownDatabase")
        server.say("orders", Word(True))
        assert server.session("orders") is None

    served(tmp_path, scenario)


def test_nonsense_is_no_gate(tmp_path: Path) -> None:
    """Somebody who connects and says something else proves nothing."""

    async def scenario(server: GateServer, path: Path) -> None:
        for line in (b"hello\n", b'{"v":2,"hello":"gate"}\n', b'{"v":1,"hello":"app"}\n', b""):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(line)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5) == b""
            assert server.session("orders") is None
            writer.close()
            await writer.wait_closed()

    served(tmp_path, scenario)


def test_a_socket_left_by_an_earlier_worker_is_replaced(tmp_path: Path) -> None:
    """A worker that was killed leaves its socket; the next one listens at the same path."""

    async def scenario(server: GateServer, path: Path) -> None:
        second = GateServer(("orders",), lambda: None, Log())
        await second.start(str(path))
        client = await Client.connect(path)
        await client.word()
        assert second.session("orders") is not None
        assert server.session("orders") is None
        await second.stop()

    served(tmp_path, scenario)


@pytest.mark.parametrize(
    "line", [b"", b"[]\n", b'{"v":1}\n', b'{"v":1,"gate":"ajar"}\n', b'{"v":3,"gate":"open"}\n']
)
def test_only_a_clear_open_opens(line: bytes) -> None:
    """Whatever else the gate reads, it stays closed."""
    with pytest.raises(ProtocolError):
        gate_protocol.parse_word(line)


# --- the gate's own process -------------------------------------------------------------------------------


def gate_process(tmp_path: Path) -> Process:
    command = python("-m", "format_operator", "gate", "--socket", "s")
    return Process(command, tmp_path / "gate.log")


def scripted_sidecar(path: Path, *scripts: bytes) -> threading.Thread:
    """For each connection: read the greeting, say one script, hang up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            for script in scripts:
                connection, _ = listener.accept()
                with connection:
                    gate_protocol.parse_hello(connection.recv(4096))
                    connection.sendall(script)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_gate_connects_again_until_it_is_told_open(tmp_path: Path) -> None:
    """No socket, a connection that breaks, half a line: only the word "open" ends it, with 0."""
    process = gate_process(tmp_path)
    try:
        process.says("SidecarAway")
        half = gate_protocol.word(Word(True))[:-1]
        closed = gate_protocol.word(CLOSED)
        opened = gate_protocol.word(Word(True, message="done"))
        thread = scripted_sidecar(tmp_path / "s", b"", closed + closed, half, b"junk\n", opened)
        assert process.ends() == 0
        thread.join()
        assert process.text().count("reason=Converting") == 1
        assert "ProtocolError" in process.text()
        assert process.text().rstrip().endswith('gate=open message="done"')
    finally:
        process.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_gate_ends_promptly_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """A pod that is deleted while it waits does not wait for the gate; and that is not "open"."""
    process = gate_process(tmp_path)
    try:
        process.says("SidecarAway")
        process.send(number)
        assert process.ends(within=2) == 128 + number
    finally:
        process.close()


def test_gate_prints_each_change_once(tmp_path: Path) -> None:
    """A sidecar that is restarting says the same again; the log does not."""
    said: list[Word] = []
    word = gate_protocol.word(CLOSED)
    thread = scripted_sidecar(tmp_path / "s", word, gate_protocol.word(Word(True)))
    gate.wait(str(tmp_path / "s"), (), said.append)
    thread.join()
    assert [str(word).split(" ")[0] for word in said] == ["gate=closed", "gate=closed", "gate=open"]
