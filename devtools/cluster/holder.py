"""Process 1 of a cluster's namespaces: hides what must not be shared, then buries the dead.

Run by `sandbox.Sandbox` as a script, in new mount, network and process namespaces. When it ends,
the kernel ends everything inside and takes every mount and every network device with it; that is
why nothing here needs to be undone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def main(folder: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    # Kubelet, containerd and the containers see each other's mounts; the machine does not see ours.
    _mount("--make-rshared", "/")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    # Some of the node's paths cannot be configured (device plugins, CNI's results, links to logs).
    # Whatever is written there lands in memory instead of the machine's own folders.
    scratch = folder / "scratch"
    scratch.mkdir()
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(scratch))
    for hidden in (Path("/var/lib"), Path("/var/log")):
        upper, work = scratch / f"{hidden.name}-upper", scratch / f"{hidden.name}-work"
        upper.mkdir()
        work.mkdir()
        layers = f"lowerdir={hidden},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "-o", layers, "overlay", str(hidden))
    (folder / "ready").touch()
    while True:
        _bury()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _bury() -> None:
    """Wait for the next orphan that ends."""
    try:
        os.wait()
    except ChildProcessError:
        # Nobody there; sigtimedwait comes back early when somebody is.
        signal.sigtimedwait([signal.SIGCHLD], 60)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
