"""Killing a real interpreter at a chosen system call, and failing a chosen system call, by strace.

``strace -e inject=NAME:signal=KILL:when=K`` counts the calls of one name per traced process. A baseline run
tells which calls there are from the driver's beginning; each (name, K) is then a place to die.
(``--seccomp-bpf`` would silently drop the injection.)
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import IO, Protocol

DRIVER = Path(__file__).with_name("driver.py")

#: Every call that has to do with files, locks, leases or processes. Memory management is left out: it
#: changes nothing that outlives the process, and its number varies from run to run.
CALLS = (
    "access", "faccessat2", "chdir", "close", "copy_file_range", "dup", "dup2", "execve",
    "fadvise64", "fallocate", "fchmod", "fchown", "fcntl", "fdatasync", "fgetxattr",
    "flistxattr", "flock", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "getdents64",
    "getxattr", "link", "linkat", "listxattr", "lseek", "lstat", "mkdir", "mkdirat",
    "newfstatat", "open", "openat", "pipe2", "poll", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2",
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


class Drivers:
    """Runs of the driver under strace, each in a process of its own that had everything loaded when it began.

    An interpreter that starts and loads what it needs takes ten times as long as the conversion.
    """

    def __init__(self, loading: Sequence[str]) -> None:
        """``loading`` are arguments of a whole run, which is what loads everything."""
        self._server = subprocess.Popen(
            command(["--serve"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._ask(loading)
        assert self._answer() == 0

    def places(self, arguments: Sequence[str], log: Path) -> list[Place]:
        """All places, in the order in which a run passes them. Runs it once to the end."""
        names = ",".join(f"?{name}" for name in CALLS)
        assert self._run(arguments, "-e", f"trace={names}", "-o", str(log)) == 0
        counted: Counter[str] = Counter()
        found: list[Place] = []
        for line in log.read_text(errors="replace").splitlines():
            match = _LINE.match(line)
            if match is not None:
                counted[match[1]] += 1
                found.append((match[1], counted[match[1]]))
        return found

    def run_injected(self, arguments: Sequence[str], place: Place, fault: str) -> int:
        """Run with one fault at one place, such as ``signal=KILL`` or ``error=EIO``; returns the exit code."""
        name, number = place
        inject = f"inject={name}:{fault}:when={number}"
        return self._run(arguments, "-e", f"trace={name}", "-e", inject, "-o", "/dev/null")

    def end(self) -> None:
        """End the server; it has no children by then."""
        self._pipe(self._server.stdin).close()
        self._server.wait()
        self._pipe(self._server.stdout).close()

    def _run(self, arguments: Sequence[str], *options: str) -> int:
        self._ask(arguments)
        process = self._answer()
        with subprocess.Popen(
            ["strace", *options, "-p", str(process)], stderr=subprocess.PIPE, text=True
        ) as tracer:
            said = self._pipe(tracer.stderr).readline()
            # Nothing is missed: a traced process that is told to go on does so under the tracer's eyes.
            os.kill(process, signal.SIGCONT if "attached" in said else signal.SIGKILL)
            code = self._answer()
        assert "attached" in said, said
        return code

    def _ask(self, arguments: Sequence[str]) -> None:
        self._pipe(self._server.stdin).write(json.dumps(list(arguments)) + "\n")

    def _answer(self) -> int:
        return int(self._pipe(self._server.stdout).readline())

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


class _Attempt(Protocol):
    def __call__(self, drivers: Drivers, place: Place, /) -> tuple[int, str]: ...


#: More than there are processors: conversion and recovery wait for the disk most of the time.
WORKERS = 8

# What a worker process of `killed_everywhere` does; it has it from its parent, by fork.
_WORK: list[tuple[Drivers, _Attempt]] = []


def killed_everywhere(
    places: Iterable[Place], loading: Callable[[], Sequence[str]], attempt: _Attempt
) -> Iterator[tuple[int, str]]:
    """What ``attempt`` returns of each place, in that order: the exit code, and what was found afterwards.

    Processes do it, each with drivers of its own (``loading`` as there).
    """

    def begin() -> None:
        _WORK.append((Drivers(loading()), attempt))

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=begin) as pool:
        yield from pool.map(_attempt, places)


def _attempt(place: Place) -> tuple[int, str]:
    ((drivers, attempt),) = _WORK
    return attempt(drivers, place)
