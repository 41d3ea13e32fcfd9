"""The network between one pod and the API server, which a test can cut, silence and take down."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"


class Link:
    """Forwards TCP connections from a port of its own. TLS goes through untouched.

    ``pieces``: how many bytes of an answer are let through at a time.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._port = 0
        self._silent = False
        self.pieces = 65536
        self.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    @property
    def url(self) -> str:
        return f"https://{_HOST}:{self._port}"

    def up(self, *, silent: bool = False) -> None:
        """Accept connections; ``silent``: and let nothing through, as behind a firewall that drops packets."""
        self._silent = silent
        if self._listener is not None:
            return
        # SO_REUSEADDR is set: the same port again, at once.
        self._listener = socket.create_server((_HOST, self._port), backlog=32)
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Refuse new connections and end those that are open."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            self._listener.close()
            self._listener = None
        self.cut()

    def cut(self) -> int:
        """End the connections that are open; returns how many sockets there were."""
        with self._lock:
            ended, self._connections = self._connections, set()
        for one in ended:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return len(ended)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            if self._silent:
                with self._known(near), suppress(OSError):
                    while near.recv(65536):
                        pass  # nobody answers
                return
            with (
                suppress(OSError),
                socket.create_connection((_HOST, self._target)) as far,
                self._known(near, far),
            ):
                back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
                back.start()
                self._pump(near, far)
                back.join()

    @contextmanager
    def _known(self, *connections: socket.socket) -> Iterator[None]:
        with self._lock:
            self._connections.update(connections)
        try:
            yield
        finally:
            with self._lock:
                self._connections.difference_update(connections)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := source.recv(self.pieces):
                sink.sendall(data)
                if self.pieces < 65536:
                    time.sleep(0.002)  # a slow line: each piece travels by itself
        for one in (source, sink):  # both ways end together
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
