"""The cluster's own part of the control groups, of either version.

Two kubelets under one root kill each other's pods; so each gets a root of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import ClusterError

_ROOT = Path("/sys/fs/cgroup")
_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
_GONE_SECONDS = 20.0
#: What the kubelet insists on under version 2.
_WANTED = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids")


def unified() -> bool:
    """Whether this machine has version 2 only."""
    return (_ROOT / "cgroup.controllers").exists()


def make(name: str) -> None:
    """Make the group ``name`` everywhere the kubelet will look for it. Raises ClusterError."""
    if unified():
        _delegate(_ROOT)
        (_ROOT / name).mkdir(exist_ok=True)
        return
    for hierarchy in _hierarchies():
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for file in _CPUSET_FILES:
            # A new group has no processors, and nothing can run in it until it has.
            if (hierarchy / file).exists():
                (group / file).write_text((hierarchy / file).read_text())


def remove(name: str) -> None:
    """Remove the group and those below it, once the last process in them is gone."""
    deadline = time.monotonic() + _GONE_SECONDS
    while left := [group for group in groups(name) if not _removed(group)]:
        if time.monotonic() > deadline:
            raise ClusterError(f"still in use: {left[0]}")
        time.sleep(0.05)


def groups(name: str) -> list[Path]:
    """The folders of that group, in every hierarchy."""
    parents = [_ROOT] if unified() else list(_hierarchies())
    return [parent / name for parent in parents if (parent / name).is_dir()]


def _hierarchies() -> Iterator[Path]:
    for folder in sorted(_ROOT.iterdir()):
        # Some names are links to others: cpu and cpuacct are often one hierarchy.
        if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists():
            yield folder


def _delegate(group: Path) -> None:
    available = (group / "cgroup.controllers").read_text().split()
    switched_on = (group / "cgroup.subtree_control").read_text().split()
    for controller in _WANTED:
        if controller in available and controller not in switched_on:
            try:
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError as error:
                raise ClusterError(
                    f"{group} does not let its groups have the controller {controller}: {error}"
                ) from error


def _removed(group: Path) -> bool:
    folders = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
    try:
        for folder in [*folders, group]:
            folder.rmdir()
    except FileNotFoundError:
        return not group.exists()
    except OSError:
        return False
    return True
