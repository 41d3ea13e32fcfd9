"""A warm interpreter that forks one operation of the store at a time, for strace to be attached to.

    zygote.py GATE     with GATE the number of a pipe's descriptor

Everything that the store loads has been loaded before the fork, and strace counts from where it is attached: so the
K-th call of a name is the store's K-th, never the interpreter's. Requests are lines of JSON on standard input
(``{"words": [driver's arguments], "who": null | 0 | 1 …, "hardLinks": bool, "limits": {"AS": bytes, …}, "workerDies": null | N}``);
answers are lines of JSON on standard output:

    {"attach": ID}                process or thread ``who`` waits until strace traces it and the gate has a byte
    {"code": …, "said": …}        the operation has ended (not after a kill)
    {"status": …}                 the child is gone (as ``os.waitstatus_to_exitcode`` tells it)

``who``: 0 is the main thread, n the n-th thread that the operation starts beside it, null is nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from format_store import beside, convert, durable, restore_backup, undo
from format_store.codecs import pool
from tests.crash import driver
from tests.support import preloaded
from tests.support.restorations import converted
from tests.support.sqlite_files import sqlite_format, write_sql

BEGIN = "/storageformat-proof-begins-here"
END = "/storageformat-proof-ends-here"


def say(**answer: Any) -> None:
    os.write(1, (json.dumps(answer) + "\n").encode())


def wait_at(gate: int) -> None:
    """Until somebody has written a byte. By poll first: where strace is attached, a call may show twice."""
    say(attach=threading.get_native_id())
    waiting = select.poll()
    waiting.register(gate, select.POLLIN)
    while not waiting.poll():
        pass
    os.read(gate, 1)


def announce_thread(number: int, gate: int) -> None:
    """Let the ``number``-th thread that is started beside the first wait at the gate."""
    started = 0
    init, run = beside.Task.__init__, beside.Task.run
    chosen: list[Any] = []

    def counted(self: Any, *arguments: Any) -> None:
        nonlocal started
        started += 1
        init(self, *arguments)
        if started == number:
            chosen.append(self)

    def announced(self: Any) -> None:
        if self in chosen:
            wait_at(gate)
            os.access(BEGIN, os.F_OK)
        run(self)
        if self in chosen:
            os.access(END, os.F_OK)

    beside.Task.__init__ = counted  # type: ignore[method-assign, assignment]
    beside.Task.run = announced  # type: ignore[method-assign]


def bound(limit: str, left: int) -> int:
    """The limit that leaves so much to this process, beyond what it has."""
    if limit == "AS":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return pages * resource.getpagesize() + left
    if limit == "NOFILE":
        taken = set(map(int, os.listdir("/proc/self/fd")))
        free = (number for number in itertools.count() if number not in taken)
        return next(itertools.islice(free, left, None))
    return left


def let_a_worker_die(number: int) -> None:
    """Before the ``number``-th exchange with a worker, counted from 0, that worker is killed, and gone."""
    exchanges = itertools.count()

    def doomed(real: Callable[[Any], None]) -> Callable[[Any], None]:
        def exchange(self: Any) -> None:
            if next(exchanges) == number:
                self.kill()
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            real(self)

        return exchange

    for name in ("read", "write"):
        setattr(pool._Worker, name, doomed(getattr(pool._Worker, name)))


def operate(request: dict[str, Any], gate: int) -> NoReturn:
    """The child: run the driver, tell what it said, and end without an interpreter's clearing up."""
    who = request.get("who")
    if not request.get("hardLinks", True):
        durable.link = lambda *_: False
    said = io.StringIO()
    ctypes.CDLL(None).prctl(driver.PR_SET_PTRACER, driver.PR_SET_PTRACER_ANY, 0, 0, 0)
    for name, left in request.get("limits", {}).items():
        limit = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(limit, (bound(name, left), resource.getrlimit(limit)[1]))
    if request.get("workerDies") is not None:
        let_a_worker_die(request["workerDies"])
    try:
        with contextlib.redirect_stdout(said):
            if who:
                announce_thread(who, gate)
            if who == 0:
                wait_at(gate)
                os.access(BEGIN, os.F_OK)
            code: Any = driver.main(request["words"])
            if who == 0:
                os.access(END, os.F_OK)
        answer = json.loads(said.getvalue())
    except BaseException:
        code, answer = "crashed", {"message": traceback.format_exc(limit=-6)}
    say(code=code, said=answer)
    os._exit(0)


def warm_up() -> None:
    """One conversion of each engine, its way back and a restoration: whatever is loaded late is loaded now."""
    preloaded.everything()
    directory = Path(tempfile.mkdtemp())
    try:
        made = converted(directory / "warm.db")
        undo(made.path)
        restore_backup(made.path, made.backup)
        convert(write_sql(directory / "sql.db"), sqlite_format(pageSize=1024))
    finally:
        shutil.rmtree(directory)


def serve(gate: int, reap: Callable[[int, int], tuple[int, int]] = os.waitpid) -> None:
    warm_up()
    say(ready=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            operate(json.loads(line), gate)
        say(status=os.waitstatus_to_exitcode(reap(child, 0)[1]))


if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    serve(int(sys.argv[1]))
