"""Faults at chosen system calls of the store, in children of a warm interpreter (``zygote``), by strace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.crash.strace import CALLS
from tests.proof.zygote import BEGIN, END

_LINE = re.compile(r"^([a-z0-9_]+)\((.*)$")
_ROOT = Path(__file__).parents[2]
#: The tracer stops these while it attaches, so that their numbers are not the same in each run.
_UNSTEADY = frozenset({"poll"})


@dataclass(frozen=True)
class Place:
    """The ``number``-th call of ``name`` by ``who``: 0 the main thread, n the n-th thread beside it."""

    who: int
    name: str
    number: int
    text: str = ""

    def __str__(self) -> str:
        beside = f" of thread {self.who}" if self.who else ""
        return f"{self.name} {self.number}{beside}"


@dataclass(frozen=True)
class Request:
    """One operation: the driver's arguments, and how its world is.

    ``limits``: names of resource limits (``RLIMIT_AS`` without its first word) and what is left to the operation: bytes
    beyond what it has already, descriptors beyond those, the size of a file. ``worker_dies``: a worker is killed when so
    many things were read from workers or written to them.
    """

    words: tuple[str, ...]
    hard_links: bool = True
    limits: tuple[tuple[str, int], ...] = ()
    worker_dies: int | None = None


@dataclass(frozen=True)
class Ending:
    """How an operation ended. ``code``: its exit code, the signal's negative number, or ``crashed``.

    ``said``: its result or error. ``injected``: the line of the trace that shows the fault, or empty.
    """

    code: int | str
    said: dict[str, Any]
    injected: str = ""


class Zygote:
    """The warm interpreter, as a context manager. One operation at a time."""

    def __enter__(self) -> Self:
        self._gate, self._open = os.pipe()
        # What Python mutters about a close that was made to fail is of interest only where nothing else is told.
        self._muttered = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.proof.zygote", str(self._gate)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._muttered, text=True, cwd=_ROOT,
            pass_fds=[self._gate],
        )  # fmt: skip
        assert self._answer() == {"ready": True}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()
        self._muttered.close()
        os.close(self._gate)
        os.close(self._open)
        assert self._process.returncode == 0

    def run(self, request: Request) -> Ending:
        """Without a fault."""
        self._ask(request, None)
        return self._ending()

    def places(self, request: Request, log: Path, *, who: int = 0) -> list[Place]:
        """Every call that ``who`` makes, in order. Runs the operation to its end."""
        names = ",".join(f"?{name}" for name in CALLS)
        ending = self._traced(request, who, ["-s", "0", "-e", f"trace={names}"], log)
        assert ending is None or ending.code == 0, ending
        counted: Counter[str] = Counter()
        found: list[Place] = []
        marked = False
        for line in log.read_text(errors="replace").splitlines() if ending else []:
            match = _LINE.match(line)
            if match is None:
                continue
            name, text = match.groups()
            counted[name] += 1
            if END in line:
                break
            if marked and name not in _UNSTEADY:
                found.append(Place(who, name, counted[name], text))
            marked = marked or BEGIN in line
        return found

    def inject(self, request: Request, place: Place, fault: str, log: Path) -> Ending:
        """Run it with one fault at one place, such as ``signal=KILL`` or ``error=EIO``."""
        inject = f"inject={place.name}:{fault}:when={place.number}"
        ending = self._traced(request, place.who, ["-e", f"trace={place.name}", "-e", inject], log)
        assert ending is not None, f"no thread {place.who} was started"
        shown = [
            line for line in log.read_text(errors="replace").splitlines() if "INJECTED" in line
        ]
        return replace(ending, injected="".join(shown))

    def _traced(
        self, request: Request, who: int, options: Sequence[str], log: Path
    ) -> Ending | None:
        """None where ``who`` never was: an operation starts as many threads as it needs."""
        log.write_bytes(b"")
        self._ask(request, who)
        waiting = self._answer()
        if "attach" not in waiting:
            self._answer()
            return None
        with subprocess.Popen(
            ["strace", "-o", str(log), *options, "-p", str(waiting["attach"])],
            stderr=subprocess.PIPE, text=True,
        ) as tracer:  # fmt: skip
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            os.write(self._open, b"g")
            ending = self._ending()
            tracer.communicate()
        return ending

    def _ask(self, request: Request, who: int | None) -> None:
        assert self._process.stdin is not None
        asked = {
            "words": request.words,
            "who": who,
            "hardLinks": request.hard_links,
            "limits": dict(request.limits),
            "workerDies": request.worker_dies,
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    def _ending(self) -> Ending:
        answer = self._answer()
        if "status" in answer:
            return Ending(answer["status"], {})
        assert self._answer() == {"status": 0}
        return Ending(answer["code"], answer["said"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._muttered.seek(0)
            raise AssertionError(self._muttered.read().decode(errors="replace")[-2000:])
        answer: dict[str, Any] = json.loads(line)
        return answer
