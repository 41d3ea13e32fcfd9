"""The namespaces that a cluster lives in, and its processes.

One process (`holder`) keeps a mount, a network and a process namespace. All that belongs to the
cluster runs inside, containers and their shims included, so ending that one process ends it all,
and takes mounts, devices and addresses along. It ends with the process that started it, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ClusterError
from cluster.machine import program, search_path

_START_SECONDS = 20.0
_STOP_SECONDS = 30.0

# Not `preexec_fn`, which runs Python between fork and exec, and that may deadlock with threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)
_RECORD_PID = 'echo $$ >"$0.new" && mv "$0.new" "$0" && exec "$@"'


class Sandbox:
    """The namespaces of one cluster. ``folder`` is the cluster's; logs go to ``folder/log``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._unshare: subprocess.Popen[bytes] | None = None

    # --- life -----------------------------------------------------------------------------------

    def start(self, *, outlive: bool = False) -> None:
        """Make the namespaces. Unless ``outlive``, they end with the calling process.

        Raises ClusterError.
        """
        if not outlive and threading.current_thread() is not threading.main_thread():
            # The kernel ends a child with the thread that started it.
            raise ClusterError("a cluster must be started from the main thread")
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.folder / "pid").mkdir(exist_ok=True)
        command = [
            *(program("unshare"), "--mount", "--net", "--pid", "--fork"),
            *("--mount-proc", "--kill-child=SIGKILL"),
            *(sys.executable, "-I", "-S", str(Path(__file__).with_name("holder.py"))),
            str(self.folder),
        ]
        if not outlive:
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *command]
        self._unshare = self._popen(command, "sandbox")
        deadline = time.monotonic() + _START_SECONDS
        while not (self.folder / "ready").exists():
            if self._unshare.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"no namespaces for the cluster:\n{self.log('sandbox')}")
            time.sleep(0.01)
        (child,) = children(self._unshare.pid)
        (self.folder / "holder").write_text(f"{child} {_started(child)}")

    def stop(self) -> None:
        """End everything inside. It does not matter who started it, or whether it runs at all."""
        if holder := self.holder:
            os.kill(holder, signal.SIGKILL)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.holder:
            if time.monotonic() > deadline:
                raise ClusterError(f"process {self.holder} does not end")
            self._reap()
            time.sleep(0.02)
        self._reap(wait=True)

    @property
    def holder(self) -> int | None:
        """The process id, as this machine sees it, of the sandbox's process 1, if it lives."""
        try:
            pid, started = (self.folder / "holder").read_text().split()
        except FileNotFoundError:
            return None
        # Process ids come round again; together with the time of its start one is unique.
        return int(pid) if _started(int(pid)) == started else None

    # --- processes ------------------------------------------------------------------------------

    def entering(self) -> list[str]:
        """What to write before a command that shall run inside. Raises ClusterError."""
        holder = self.holder
        if holder is None:
            raise ClusterError("the cluster is down")
        return [program("nsenter"), f"--target={holder}", "--mount", "--net", "--pid", "--"]

    def run(
        self, *command: str, check: bool = True, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end. Raises ClusterError with its output when ``check``."""
        done = subprocess.run(
            [*self.entering(), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout}")
        return done

    def spawn(self, name: str, command: Sequence[str]) -> None:
        """Start a process inside; what it prints goes to its log. Raises ClusterError."""
        if self.alive(name):
            raise ClusterError(f"{name} runs already")
        self._pid_file(name).unlink(missing_ok=True)
        recording = ["/bin/sh", "-c", _RECORD_PID, str(self._pid_file(name))]
        self._processes[name] = self._popen([*self.entering(), *recording, *command], name)

    def alive(self, name: str) -> bool:
        """Whether that process runs."""
        process = self._processes.get(name)
        if process is not None:
            return process.poll() is None
        return self._inner_pid(name) is not None

    def end(self, name: str, *, hard: bool = False, timeout: float = 20.0) -> None:
        """End that process if it runs: with SIGTERM and, after ``timeout`` or if ``hard``, SIGKILL."""
        pid = self._inner_pid(name)
        if pid is not None:
            self._signal(pid, "KILL" if hard else "TERM")
            deadline = time.monotonic() + timeout
            while self._inner_pid(name) is not None:
                if time.monotonic() > deadline:
                    self._signal(pid, "KILL")
                    deadline += timeout
                time.sleep(0.02)
        if process := self._processes.pop(name, None):
            process.wait()
        self._pid_file(name).unlink(missing_ok=True)

    def log(self, name: str, lines: int = 30) -> str:
        """The end of that process's log."""
        path = self.logs / f"{name}.log"
        if not path.exists():
            return "(no log)"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    # --- views from outside ---------------------------------------------------------------------

    def path(self, inside: Path | str) -> Path:
        """That path inside, as one that this machine's processes can use; mounts included."""
        return Path(f"/proc/{self.holder}/root") / str(inside).lstrip("/")

    def processes(self) -> dict[int, int]:
        """Every process inside: its id in the sandbox → its id on this machine."""
        holder = self.holder
        if holder is None:
            return {}
        depth = len(_ids(holder))
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                ids = _ids(int(folder.name))
                if len(ids) >= depth and _within(int(folder.name), holder):
                    found[ids[depth - 1]] = ids[0]
        return found

    # --- parts ----------------------------------------------------------------------------------

    def _popen(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                # Ctrl-C is for whoever uses the cluster, who then ends it in order.
                start_new_session=True,
            )

    def _pid_file(self, name: str) -> Path:
        return self.folder / "pid" / name

    def _inner_pid(self, name: str) -> int | None:
        """The process's id inside, if it runs."""
        try:
            pid = int(self._pid_file(name).read_text())
            state = (self.path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state.split()[0] == "Z" else pid

    def _signal(self, pid: int, name: str) -> None:
        self.run("kill", f"-{name}", str(pid), check=False)

    def _reap(self, *, wait: bool = False) -> None:
        for process in [*self._processes.values(), *([self._unshare] if self._unshare else [])]:
            if wait:
                process.wait()
            else:
                process.poll()


def _environment() -> dict[str, str]:
    """What the cluster's programs begin with: they look for iptables and runc by PATH."""
    return {**os.environ, "PATH": search_path()}


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found.append(int(folder.name))
    return sorted(found)


def same_pid_namespace(pid: int) -> list[int]:
    """Every process that shares the process namespace of ``pid``: those of its container."""
    wanted = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if os.readlink(folder / "ns" / "pid") == wanted:
                    found.append(int(folder.name))
            except OSError:  # it has ended; or, for some, even root may not look
                continue
    return sorted(found)


def _started(pid: int) -> str | None:
    """When the process began, in ticks since boot; None when there is none, or it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else fields[19]


def _ids(pid: int) -> list[int]:
    """The ids of one process, from this machine's namespace inwards."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return []


def _within(pid: int, holder: int) -> bool:
    """Whether the process is in the sandbox or, as containers are, in a namespace below it."""
    try:
        ours = os.readlink(f"/proc/{holder}/ns/pid")
        namespace = f"/proc/{pid}/ns/pid"
        return os.readlink(namespace) == ours or holder in _ancestors(pid)
    except OSError:  # as above
        return False


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            break
        pid = int(fields[1])
        found.append(pid)
    return found
