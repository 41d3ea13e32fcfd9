"""``storageformat gate``: the init container that ends when the app may start.

It connects to the sidecar, says hello, and stays connected: its connection is how the sidecar knows that the
app is not running. It prints what it is told, once per change, and exits 0 on "open". Whatever breaks (no
socket yet, the sidecar's worker killed), it connects again: only the sidecar's word opens the gate.

Standard library only. The protocol is in ``gate_protocol``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from format_operator import gate_protocol
from format_operator.gate_protocol import Word
from format_operator.runtime import lines

_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Wait for the sidecar's word. Returns 0 when the app may start; SIGTERM ends the process with 143."""
    parser = argparse.ArgumentParser(
        prog="storageformat gate",
        description="Waits until the sidecar says that the app may start.",
    )
    parser.add_argument(
        "--socket",
        default=gate_protocol.DEFAULT_SOCKET,
        metavar="PATH",
        help="the sidecar's socket",
    )
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="NAME",
        help="wait for this StorageFormat's database only (repeatable; default: all of the sidecar's)",
    )
    parser.add_argument(
        "--log-format",
        default=lines.TEXT,
        choices=lines.STYLES,
        help="lines for people, or one JSON object each (%(default)s)",
    )
    arguments = parser.parse_args(argv)
    # PID 1 of a container has no default action for SIGTERM: without a handler nothing would happen.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    say = _say_json if arguments.log_format == lines.JSON else _say
    wait(arguments.socket, tuple(arguments.database), say)
    return 0


def wait(path: str, databases: tuple[str, ...], say: Callable[[Word], None]) -> None:
    """Return when the sidecar at ``path`` has said "open"; everything else is told to ``say``."""
    said = ""
    retry = _FIRST_RETRY_SECONDS
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(path)
                connection.sendall(gate_protocol.hello(databases))
                for line in _lines(connection):
                    retry = _FIRST_RETRY_SECONDS
                    word = gate_protocol.parse_word(line)
                    if str(word) != said:
                        said = str(word)
                        say(word)
                    if word.is_open:
                        return
            problem = Word(
                False, "SidecarAway", "the sidecar closed the connection; connecting again"
            )
        except gate_protocol.ProtocolError as error:
            problem = Word(False, "ProtocolError", str(error))
        except OSError as error:
            problem = Word(
                False, "SidecarAway", f"cannot talk to {path}: {error.strerror or error}"
            )
        if str(problem) != said:
            said = str(problem)
            say(problem)
        time.sleep(retry)
        retry = min(retry * 2, _LAST_RETRY_SECONDS)


def _lines(connection: socket.socket) -> Iterator[bytes]:
    with connection.makefile("rb") as reader:
        while line := reader.readline(gate_protocol.MAX_LINE):
            # A line cut off by the sidecar's death says nothing.
            if not line.endswith(b"\n"):
                return
            yield line


def _say(word: Word) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {word}\n")
    sys.stdout.flush()


def _say_json(word: Word) -> None:
    fields = {
        "role": "gate",
        "storageformat": word.database,
        "reason": word.reason,
        "message": word.message,
    }
    event = "gate open" if word.is_open else "gate closed"
    sys.stdout.write(lines.as_json(time.time(), "info", event, fields) + "\n")
    sys.stdout.flush()


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    # At once, from wherever the signal came: there is nothing to clean up.
    os._exit(128 + number)
