"""A pod without a kubelet: sidecar, gate and app as processes that share a folder, started as a kubelet would.

The working directory is the pod's root, and the volume is ``data/`` in it.
"""

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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from examples.demo.tree import Shard

_ROOT = Path(__file__).parents[2]
_APP = Path(__file__).with_name("app_v2.py")
_SOCKET = "gate.sock"  # relative: an absolute path could be longer than a socket's name may be
_STOP_SECONDS = 10.0
_HTTP_SECONDS = 5.0

# Sets "die with the parent" and becomes the program: also a demo that is killed with SIGKILL leaves
# no process behind. (A supervisor's worker ends when its supervisor does.)
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)


class Pod:
    """One pod and its database, ``shard`` being what the app has written into it."""

    def __init__(self, name: str, folder: Path, shard: Shard) -> None:
        self.name = name
        self.folder = folder
        self.shard = shard
        self.database = folder / "data" / "index.db"
        self.database.parent.mkdir(parents=True)
        self.size_before = 0
        self.sidecar: subprocess.Popen[bytes] | None = None
        self.gate: subprocess.Popen[bytes] | None = None
        self.app: subprocess.Popen[str] | None = None
        self._port = _free_port()
        self._read: dict[str, int] = {}

    # --- what a kubelet does ----------------------------------------------------------------------

    def start_sidecar(self, arguments: Sequence[str]) -> None:
        """Start the native sidecar; it listens before long."""
        self.sidecar = self._start(
            *("-m", "format_operator", "sidecar"),
            *("--socket", _SOCKET),
            *("--metrics-address", "127.0.0.1", "--metrics-port", str(self._port)),
            *("--pod-name", self.name),
            *arguments,
            log="sidecar.log",
        )

    def start_gate(self) -> None:
        """Start the init container that ends when the app may start."""
        self.gate = self._start(
            *("-m", "format_operator", "gate", "--socket", _SOCKET), log="gate.log"
        )

    def start_app(self) -> None:
        """Start the app. The gate must have ended well: that is what a kubelet waits for."""
        assert self.gate is not None
        assert self.gate.poll() == 0
        with (self.folder / "app.log").open("ab") as log:
            self.app = subprocess.Popen(
                _mortal(str(_APP), "data/index.db"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                **self._surroundings(),
            )

    def stop(self) -> None:
        """Ask everything of this pod to end; returns at once."""
        for process in (self.app, self.gate, self.sidecar):
            if process is not None and process.poll() is None:
                process.terminate()

    def wait_stopped(self) -> None:
        """Wait for that, and kill what does not."""
        for process in (self.app, self.gate, self.sidecar):
            if process is None:
                continue
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    # --- what is seen of it -----------------------------------------------------------------------

    def news(self, log: str) -> Iterator[str]:
        """The lines of a log that are new since the last call."""
        with suppress(FileNotFoundError), (self.folder / log).open("rb") as file:
            file.seek(self._read.get(log, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read[log] = self._read.get(log, 0) + len(line)
                yield line.decode(errors="replace").rstrip()

    def end_of(self, log: str, lines: int = 12) -> str:
        with suppress(FileNotFoundError):
            text = (self.folder / log).read_text(encoding="utf-8", errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return "(no log)"

    @property
    def gate_opened(self) -> bool:
        """Whether the gate has ended. Raises RuntimeError if it did so in another way than it should."""
        code = self.gate.poll() if self.gate is not None else None
        if code not in {None, 0}:
            raise RuntimeError(
                f"{self.name}: the gate ended with {code}\n{self.end_of('gate.log')}"
            )
        return code == 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}/metrics"

    def scrape(self) -> str | None:
        """What a Prometheus gets; None while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_HTTP_SECONDS)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in (self.scrape() or "").splitlines():
            sample = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if sample is not None and sample[1] == name:
                wanted = (f'{key}="{value}"' for key, value in labels.items())
                if all(one in (sample[2] or "") for one in wanted):
                    total += float(sample[3])
        return total

    def ask(self, directory: str) -> dict[str, Any]:
        """What the app says about a directory."""
        assert self.app is not None
        _write(self.app.stdin, directory + "\n")
        answer = self.app.stdout.readline() if self.app.stdout is not None else ""
        if not answer:
            raise RuntimeError(f"{self.name}: the app gave no answer\n{self.end_of('app.log')}")
        found: dict[str, Any] = json.loads(answer)
        return found

    # --- the kill ---------------------------------------------------------------------------------

    @property
    def state(self) -> Path:
        """Where the store keeps what it is doing."""
        return self.database.with_name(f".{self.database.name}.storageformat")

    def work(self) -> list[Path]:
        """Files of a conversion that is under way, or that a crash left."""
        return sorted(self.state.glob("work/*/*"))

    def worker(self) -> int | None:
        """The PID of the worker: the supervisor's only child."""
        return _child_of(self.sidecar.pid) if self.sidecar is not None else None

    def kill_worker(self) -> int:
        """SIGKILL, and wait until the kernel is done with it. Returns the PID that it had."""
        pid = self.worker()
        if pid is None:
            raise RuntimeError(f"{self.name}: there is no worker to kill")
        os.kill(pid, signal.SIGKILL)
        while self.worker() == pid:
            time.sleep(0.001)
        return pid

    # --- inside -----------------------------------------------------------------------------------

    def _start(self, *arguments: str, log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as file:
            return subprocess.Popen(
                _mortal(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                **self._surroundings(),
            )

    def _surroundings(self) -> dict[str, Any]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        paths = [str(_ROOT / "operator"), str(_ROOT / "store"), kept.get("PYTHONPATH", "")]
        # A session of its own: Ctrl-C is for the demo, which then ends everything in order.
        return {
            "cwd": self.folder,
            "env": kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            "start_new_session": True,
        }


def _mortal(*arguments: str) -> list[str]:
    wrapper = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT]
    return [*wrapper, sys.executable, *arguments]


def _write(pipe: IO[str] | None, text: str) -> None:
    assert pipe is not None
    pipe.write(text)
    pipe.flush()


def _child_of(parent: int) -> int | None:
    """A living process whose parent that is."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                text = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace")
                # proc(5): pid (name) state ppid …, where a name may hold anything
                state, ppid = text.rpartition(")")[2].split()[:2]
                if int(ppid) == parent and state not in "ZX":
                    return int(entry.name)
    return None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
