"""A mount namespace of one's own: mounts that only one test sees, and that go with it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

_UNSHARE = ["unshare", "--mount", "--propagation", "private"]
#: Without root: a user namespace in which the caller is root.
_AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
HOW = "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"


@cache
def available() -> bool:
    """Whether a file system may be mounted here in a namespace of one's own."""
    try:
        with MountNamespace() as namespace:
            namespace.run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class MountNamespace:
    """Lives until the ``with`` statement ends; ``inside`` is the path of a file in it, seen from without."""

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            [*_UNSHARE, *_AS_ROOT, "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            self.__exit__(None, None, None)
            raise PermissionError("no mount namespace")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._holder.communicate()

    @property
    def prefix(self) -> list[str]:
        """What to write before a command that shall run inside."""
        entering = ["nsenter", f"--target={self._holder.pid}", "--mount"]
        return [*entering, *(["--user", "--preserve-credentials"] if _AS_ROOT else [])]

    def run(self, *command: str) -> None:
        """Raises CalledProcessError."""
        subprocess.run([*self.prefix, *command], check=True, capture_output=True)

    def inside(self, path: Path) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{path}")
