"""Killing a real interpreter at a chosen system call, and failing a chosen system call, by strace.

``strace -e inject=NAME:signal=KILL:when=K`` counts the calls of one name per traced process. A baseline run
tells which calls there are after the driver's mark; each (name, K) is then a place to die.
(``--seccomp-bpf`` would silently drop the injection.)
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.crash.driver import MARK

DRIVER = Path(__file__).with_name("driver.py")

#: Every call that has to do with files, locks, leases or processes. Memory management is left out: it
#: changes nothing that outlives the process, and its number varies from run to run.
CALLS = (
    "access", "faccessat2", "chdir", "close", "copy_file_range", "dup", "dup2", "execve",
    "fadvise64", "fallocate", "fchmod", "fchown", "fcntl", "fdatasync", "fgetxattr",
    "flistxattr", "flock", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "getdents64",
    "getxattr", "link", "linkat", "listxattr", "lseek", "lstat", "mkdir", "mkdirat",
    "newfstatat", "open", "openat", "pipe2", "poll", "pread64", "preadv", "pwrite64", "pwritev",
    "read", "readlink", "rename", "renameat", "renameat2", "rmdir", "select", "setxattr",
    "socket", "stat", "statfs", "statx", "sync_file_range", "symlink", "truncate", "unlink",
    "unlinkat", "utimensat", "vfork", "wait4", "write", "writev",
)  # fmt: skip
_LINE = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?([a-z0-9_]+)\((.*)$")

Place = tuple[str, int]


def command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-W", "error", str(DRIVER), *arguments]


def traceable() -> bool:
    """Whether strace is installed and may trace here."""
    try:
        done = subprocess.run(
            ["strace", "-qq", "-e", "trace=close", "-o", "/dev/null", "true"],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def places(arguments: Sequence[str], log: Path) -> list[Place]:
    """All places after the mark, in the order in which a run passes them. Runs it once to the end."""
    names = ",".join(f"?{name}" for name in CALLS)
    done = subprocess.run(
        ["strace", "-qq", "-e", f"trace={names}", "-o", str(log), *command([*arguments, "--mark"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted: Counter[str] = Counter()
    found: list[Place] = []
    marked = False
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name = match[1]
        counted[name] += 1
        if marked:
            found.append((name, counted[name]))
        elif MARK in line:
            marked = True
    assert marked
    return found


def run_injected(
    arguments: Sequence[str], place: Place, fault: str
) -> subprocess.CompletedProcess[str]:
    """Run the driver with one fault at one place, such as ``signal=KILL`` or ``error=EIO``."""
    name, number = place
    return subprocess.run(
        [
            "strace", "-qq", "-o", "/dev/null", "-e", f"trace={name}",
            "-e", f"inject={name}:{fault}:when={number}", *command([*arguments, "--mark"]),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
