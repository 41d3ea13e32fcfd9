"""What containerd knows: images, and which processes a container consists of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cluster.components import CONTAINERD_SOCKET
from cluster.errors import ClusterError
from cluster.sandbox import Sandbox, same_pid_namespace

_START_SECONDS = 30.0


@dataclass(frozen=True)
class Runtime:
    """The containerd of one cluster."""

    sandbox: Sandbox

    def wait(self) -> None:
        """Returns when containerd answers. Raises ClusterError."""
        deadline = time.monotonic() + _START_SECONDS
        while self.ctr("version", check=False) is None:
            if not self.sandbox.alive("containerd") or time.monotonic() > deadline:
                raise ClusterError(f"no containerd:\n{self.sandbox.log('containerd')}")
            time.sleep(0.1)

    def load(self, archive: Path) -> None:
        """Take in the images of an archive. Raises ClusterError."""
        # Unpacking waits for the disk, however long that takes.
        self.ctr("--timeout=0", "images", "import", str(archive))

    def tag(self, image: str, name: str) -> None:
        """Let an image have another name as well. Raises ClusterError."""
        self.ctr("images", "tag", "--force", image, name)

    def container_id(self, namespace: str, pod: str, container: str) -> str:
        """The id of that container of that pod, running now. Raises ClusterError."""
        label = 'labels."io.kubernetes'
        wanted = (
            f'{label}.pod.namespace"=={namespace},{label}.pod.name"=={pod},'
            f'{label}.container.name"=={container}'
        )
        known = (self.ctr("containers", "list", "--quiet", wanted) or "").split()
        for identifier in known:
            if identifier in self._tasks():
                return identifier
        raise ClusterError(f"no container {container} of {namespace}/{pod} runs")

    def container_pid(self, namespace: str, pod: str, container: str) -> int:
        """The container's process 1 as this machine sees it: for a signal. Raises ClusterError."""
        identifier = self.container_id(namespace, pod, container)
        inner = self._tasks().get(identifier)
        outer = self.sandbox.processes().get(inner) if inner else None
        if outer is None:
            raise ClusterError(f"container {container} of {namespace}/{pod} has just ended")
        return outer

    def container_processes(self, namespace: str, pod: str, container: str) -> dict[int, str]:
        """All of the container's processes: id on this machine → command line. Raises ClusterError."""
        found = {}
        for pid in same_pid_namespace(self.container_pid(namespace, pod, container)):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[pid] = b" ".join(words).decode(errors="replace").strip()
        return found

    def ctr(self, *arguments: str, check: bool = True) -> str | None:
        """Run ctr; its output, or None when it failed. Raises ClusterError when ``check``."""
        command = ["ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", *arguments]
        done = self.sandbox.run(*command, check=check)
        return done.stdout if done.returncode == 0 else None

    def _tasks(self) -> dict[str, int]:
        """The containers that run → their process ids inside."""
        found = {}
        for line in (self.ctr("tasks", "list") or "").splitlines()[1:]:
            identifier, pid, status = line.split()[:3]
            if status == "RUNNING":
                found[identifier] = int(pid)
        return found
