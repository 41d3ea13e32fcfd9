"""A pod for tests: the sidecar and its gate as real processes, beside a database in a folder."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from format_operator import gate_protocol

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 10.0


def eventually(what: Callable[[], T | None], *, within: float = PATIENCE_SECONDS) -> T:
    """The first truthy value of ``what``; fails when there is none in time."""
    until = time.monotonic() + within
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"not within {within:.0f} s; the last value was {value!r}")
        time.sleep(0.02)


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", *arguments]


def environment() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("operator", "store", "."))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")}
    return kept | {"PYTHONPATH": path}


class Process:
    """A child whose output goes to a file; killed at the end, whatever happens."""

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self.output = output
        with output.open("ab") as file:
            self.popen = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment(), cwd=output.parent
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def says(self, pattern: str, *, within: float = PATIENCE_SECONDS) -> re.Match[str]:
        """Wait until the output has a line that matches."""
        try:
            return eventually(lambda: re.search(pattern, self.text()), within=within)
        except AssertionError as error:
            raise AssertionError(f"never said {pattern!r}:\n{self.text()}") from error

    def ends(self, *, within: float = PATIENCE_SECONDS) -> int:
        try:
            return self.popen.wait(within)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"does not end:\n{self.text()}") from error

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def close(self) -> None:
        if self.is_running:
            self.popen.kill()
        self.popen.wait()


@dataclass
class Pod:
    """Where everything of one pod lies, and its processes."""

    folder: Path
    api: str
    name: str = "orders-0"
    databases: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    # A folder of pytest's is longer than the name of a unix socket may be.
    socket: str = "gate.sock"

    @property
    def database(self) -> Path:
        return self.folder / "orders.db"

    def arguments(self) -> list[str]:
        options = {
            "--socket": self.socket,
            "--metrics-address": "127.0.0.1",
            "--metrics-port": "0",
            "--pod-name": self.name,
            "--pod-uid": f"uid-of-{self.name}",
            "--namespace": "default",
            "--kube-api": self.api,
            "--permit-wait": "30",
            "--api-wait": "10",
            "--gate-grace": "0.5",
            "--token-dir": str(self.folder),
        } | self.options
        flat = [part for pair in options.items() for part in pair]
        databases = self.databases or [f"orders={self.database}"]
        return [part for one in databases for part in ("--database", one)] + flat

    def start(self, command: Sequence[str], log: str) -> Process:
        process = Process(command, self.folder / log)
        self.processes.append(process)
        return process

    def worker(self, *, driver: str | None = None) -> Process:
        """The worker alone; ``driver`` is a module that starts one with something handed in."""
        program = ["-m", "format_operator", "sidecar-worker"] if driver is None else ["-m", driver]
        return self.start([*python(*program), *self.arguments()], "sidecar.log")

    def sidecar(self) -> Process:
        command = [*python("-m", "format_operator", "sidecar"), *self.arguments()]
        return self.start(command, "sidecar.log")

    def gate(self, *names: str, options: Sequence[str] = ()) -> Process:
        databases = [part for name in names for part in ("--database", name)]
        command = [
            *python("-m", "format_operator", "gate"),
            "--socket",
            self.socket,
            *databases,
            *options,
        ]
        return self.start(command, f"gate-{len(self.processes)}.log")

    def port(self, sidecar: Process) -> int:
        """Of the newest worker."""
        sidecar.says(r"serving metrics")
        return int(re.findall(r"serving metrics address=\S+ port=(\d+)", sidecar.text())[-1])

    def close(self) -> None:
        for process in self.processes:
            process.close()


def fetch(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def health(port: int) -> dict[str, Any]:
    status, text = fetch(port, "/healthz")
    assert status == 200, text
    facts: dict[str, Any] = json.loads(text)
    return facts


def metrics(port: int) -> dict[str, float]:
    """Samples by name and those labels that tell them apart: ``name{outcome="discarded"}``."""
    status, text = fetch(port, "/metrics")
    assert status == 200, text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {
                key: value
                for key, value in sample.labels.items()
                if key not in {"storageformat", "database"}
            }
            shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
            found[f"{sample.name}{{{shown}}}" if shown else sample.name] = sample.value
    return found


def pass_gate(pod: Pod, *, within: float = 30.0) -> None:
    """As a gate does, without a process of its own."""
    folder = os.open(pod.folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            # The folder's own path is longer than the name of a socket may be.
            eventually(lambda: _connects(connection, f"/proc/self/fd/{folder}/{pod.socket}"))
            connection.settimeout(within)
            connection.sendall(gate_protocol.hello(()))
            with connection.makefile("rb") as lines:
                words = (gate_protocol.parse_word(line) for line in lines)
                assert any(word.is_open for word in words)
    finally:
        os.close(folder)


def _connects(connection: socket.socket, path: str) -> bool:
    try:
        connection.connect(path)
    except OSError:
        return False
    return True
