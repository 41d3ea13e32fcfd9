"""``kubectl storageformat`` as a person runs it: by kubectl, which finds it on the PATH."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane import find_kubectl

_KUBECTL_COMPLETES = "__complete"


def environment(kubeconfig: Path, **more: str) -> dict[str, str]:
    """Of a shell with kubectl and the plugin on its PATH, and a cluster."""
    beside = Path(sys.executable).parent
    path = os.pathsep.join([str(beside), str(find_kubectl().parent), os.environ.get("PATH", "")])
    kept = {key: value for key, value in os.environ.items() if key not in {"KUBECTL", "NO_COLOR"}}
    return kept | {
        "PATH": path,
        "KUBECONFIG": str(kubeconfig),
        "COLUMNS": "120",
        "PYTHONIOENCODING": "utf-8",
        **more,
    }


@dataclass(frozen=True)
class Plugin:
    """Runs it for one user, in one namespace."""

    kubeconfig: Path
    namespace: str
    flags: tuple[str, ...] = field(default=())

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """One command, as it ends."""
        return subprocess.run(
            [*self.command(*words)],
            env=environment(self.kubeconfig),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def command(self, *words: str) -> list[str]:
        return ["kubectl", "storageformat", *words, "-n", self.namespace, *self.flags]

    def says(self, *words: str, code: int = 0) -> str:
        """Its output, when it ends with that code: of stdout, or of stderr where it fails."""
        done = self.run(*words)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def document(self, *words: str, code: int = 0) -> Any:
        """What it prints with ``-o json``."""
        done = self.run(*words, "-o", "json")
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def completes(self, *words: str) -> tuple[list[str], int]:
        """What kubectl's completion offers for the last of these words, and its directive."""
        done = subprocess.run(
            ["kubectl", _KUBECTL_COMPLETES, "storageformat", "-n", self.namespace, *words],
            env=environment(self.kubeconfig),
            capture_output=True,
            text=True,
            check=True,
        )
        *lines, last = done.stdout.strip().splitlines()
        directive = re.fullmatch(r":(\d+)", last)
        assert directive is not None, done.stdout
        return [line.partition("\t")[0] for line in lines], int(directive[1])
