"""What a machine needs to run a node, and how it gets it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cluster.errors import ClusterUnavailable

#: Debian's packages, each with a program that shows it is there.
PACKAGES = {
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "debootstrap": "debootstrap",
    "gcc": "gcc",
    "iproute2": "ip",
    "iptables": "iptables",
    "runc": "runc",
}
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
#: What the C compiler needs beside itself for a program without libraries.
_LIBC = "/usr/include/stdio.h"
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def search_path() -> str:
    """PATH, with the folders where runc and iptables live."""
    # They are often not on it, even for root (su, cron).
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])


def program(name: str) -> str:
    """The path of a program. Raises ClusterUnavailable where it is missing."""
    found = shutil.which(name, path=search_path())
    if found is None:
        raise ClusterUnavailable(f"{name} is missing: {enabling()}")
    return found


def cni_plugins() -> Path:
    """The folder of the CNI plugins. Raises ClusterUnavailable where there is none."""
    for folder in _CNI_FOLDERS:
        if (folder / "bridge").is_file() and (folder / "host-local").is_file():
            return folder
    raise ClusterUnavailable(f"the CNI plugins are missing: {enabling()}")


def missing() -> list[str]:
    """What this machine lacks, as Debian's packages; ``root`` when that is it."""
    lacking = [] if os.geteuid() == 0 else ["root"]
    for package, name in PACKAGES.items():
        try:
            program(name)
        except ClusterUnavailable:
            lacking.append(package)
    if not Path(_LIBC).exists():
        lacking.append("libc6-dev")
    try:
        cni_plugins()
    except ClusterUnavailable:
        lacking.append("containernetworking-plugins")
    return lacking


def require() -> None:
    """Raises ClusterUnavailable that names everything that is missing, and the way to it."""
    if lacking := missing():
        raise ClusterUnavailable(f"this machine lacks {', '.join(lacking)}: {enabling()}")


def enabling() -> str:
    """The command that makes a Debian machine able to run a cluster."""
    packages = " ".join(sorted([*PACKAGES, "containernetworking-plugins", "libc6-dev"]))
    return f"as root, apt-get install {packages}"
