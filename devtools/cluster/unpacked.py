"""containerd's folder with images already unpacked, for clusters to begin with.

Unpacking thousands of files, each safe on disk, takes a containerd longer than all else that a
cluster does to start. So it is done once per set of images; each cluster gets a copy whose files
are hard links. That is safe because neither containerd nor overlayfs writes to a file of an
unpacked image, ever; the databases, which are written to, are copied.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster import folders
from cluster.components import Components
from cluster.credentials import Credentials
from cluster.errors import ClusterError
from cluster.network import Network
from cluster.runtime import Runtime
from cluster.sandbox import Sandbox
from controlplane import Binaries

_KEPT = 3


def clone_for(archives: Sequence[Path], target: Path) -> None:
    """Make ``target`` a folder for containerd that holds the images of those archives.

    Raises ClusterError.
    """
    names = "\n".join(archive.name for archive in archives)
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    store = folders.images() / "unpacked"
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        template = store / digest
        if not template.is_dir():
            _make(archives, template)
        os.utime(template)
        _clone(template, target)
        for old in _newest_first(store)[_KEPT:]:
            shutil.rmtree(old)


def _make(archives: Sequence[Path], template: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=template.parent) as work:
        folder = Path(work)
        # Most of what an earlier set unpacked is in this one too.
        if earlier := _newest_first(template.parent):
            _clone(earlier[0], folder / "containerd")
        sandbox = Sandbox(folder)
        nobody = Credentials(folder / "credentials", "")
        parts = Components(folder, Binaries.locate(), Network(0), nobody, "")
        try:
            sandbox.start()
            sandbox.spawn("containerd", parts.containerd())
            runtime = Runtime(sandbox)
            runtime.wait()
            for archive in archives:
                runtime.load(archive)
            sandbox.end("containerd")  # in order: its databases shall be whole
        finally:
            sandbox.stop()
        (folder / "containerd").rename(template)


def _newest_first(store: Path) -> list[Path]:
    templates = [path for path in store.iterdir() if path.is_dir() and path.name[0] != "."]
    return sorted(templates, key=lambda path: path.stat().st_mtime, reverse=True)


def _clone(source: Path, target: Path) -> None:
    command = ["cp", "--archive", "--link", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    for database in target.rglob("*.db"):
        if "snapshots" not in database.relative_to(target).parts:  # those are files of images
            content = database.read_bytes()
            database.unlink()
            database.write_bytes(content)
