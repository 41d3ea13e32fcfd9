"""How long a conversion takes beside what one would do without it, how much memory, and where the time goes.

Named baselines, each in the same run on the same file:

    cp              the file copied, without reflink; and the same with an fsync, which every conversion has
    VACUUM INTO     SQLite writes the database anew, neither verified nor made durable
    loop            sqlitedict to sqlitedict, as people write it by hand; no verification, backup or fsync
    unavoidable     what a change of codec costs in CPU time whatever one does, divided by the cores

Each measurement is a process of its own; of several repetitions the quickest counts, on both sides of a ratio,
and they take turns, so that a slow minute of the machine meets all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STORE = HERE.parent / "store"

#: What a format of the target names; the source is what plain sqlitedict writes.
CASES: dict[str, dict[str, Any]] = {
    "keys": {"sqlitedict": {"keyEncoding": "hierarchical"}},
    "values": {"sqlitedict": {"valueCodec": "msgpack"}},
    "page size": {"sqlite": {"pageSize": 8192}},
    "keys and values": {"sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack"}},
}
_CONVERT = """
from format_store import Format, Observer, convert
class Phases(Observer):
    def __init__(self):
        self.last, self.since, self.seconds = None, time.perf_counter(), {}
    def phase(self, phase):
        now = time.perf_counter()
        if self.last:
            self.seconds[self.last] = self.seconds.get(self.last, 0) + now - self.since
        self.last, self.since = str(phase), now
phases = Phases()
result = convert(path, Format.from_spec(argument), observer=phases)
assert str(result.outcome) == "converted", result
more = phases.seconds
"""
_PROGRAMS = {
    "convert": _CONVERT,
    "cp": "import records; records.copy(path, durable=False)",
    "cp and fsync": "import records; records.copy(path, durable=True)",
    "VACUUM INTO": "import records; records.vacuum_into(path)",
    "loop": "import records; records.loop(path, *argument)",
}


def measure(what: str, source: Path, argument: Any = None) -> dict[str, Any]:
    """Wall-clock seconds of the work, peak resident memory (bytes), and what the program tells besides."""
    with tempfile.TemporaryDirectory(prefix="storageformat-bench-", dir=source.parent) as name:
        path = Path(name) / "orders.db"
        shutil.copy(source, path)
        os.sync()
        code = (
            f"import sys; sys.path[:0] = {[str(HERE), str(STORE)]!r}\n"
            "import json, pathlib, resource, time\n"
            f"path, argument, more = pathlib.Path({os.fspath(path)!r}), {argument!r}, None\n"
            "started = time.perf_counter()\n"
            f"{_PROGRAMS[what]}\n"
            "seconds = time.perf_counter() - started\n"
            "child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024\n"
            # Not ru_maxrss for oneself: it begins with what the parent had.
            "status = pathlib.Path('/proc/self/status').read_text()\n"
            "own = 1024 * int(status.split('VmHWM:')[1].split()[0])\n"
            "print(json.dumps([seconds, own, child, more]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
        )
    seconds, own, child, more = json.loads(done.stdout)
    return {
        "seconds": seconds,
        "peak_rss_bytes": own,
        "peak_rss_of_a_worker_bytes": child,
        "phases": more,
    }


def quickest(measurements: list[dict[str, Any]]) -> dict[str, Any]:
    return min(measurements, key=lambda one: float(one["seconds"]))


def run(count: int, repetitions: int, folder: Path) -> dict[str, Any]:
    """All cases and baselines on ``count`` records."""
    import records

    source = folder / "source.db"
    records.fill(source, count)
    turns: dict[str, list[dict[str, Any]]] = {}
    costs: list[dict[str, float]] = []
    for _ in range(repetitions):
        for what in ("cp", "cp and fsync", "VACUUM INTO"):
            turns.setdefault(what, []).append(measure(what, source))
        for case, spec in CASES.items():
            turns.setdefault(case, []).append(measure("convert", source, spec))
        costs.append(_unavoidable(source))
    # A minute each: once is enough.
    loops = {
        "keys": measure("loop", source, ("hierarchical", "pickle")),
        "values": measure("loop", source, ("natural", "msgpack")),
    }
    results = {
        "records": count,
        "file_bytes": source.stat().st_size,
        "baselines": {
            what: quickest(turns[what]) for what in ("cp", "cp and fsync", "VACUUM INTO")
        },
        "loops": loops,
        "cases": {case: quickest(turns[case]) for case in CASES},
        "unavoidable": min(costs, key=lambda cost: sum(cost.values())),
    }
    source.unlink()
    return results


def _unavoidable(source: Path) -> dict[str, float]:
    code = (
        f"import sys; sys.path[:0] = {[str(HERE), str(STORE)]!r}\n"
        "import json, pathlib, records\n"
        f"print(json.dumps(records.unavoidable(pathlib.Path({os.fspath(source)!r}))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def large(count: int, folder: Path) -> dict[str, Any]:
    """One conversion of keys of ten times as many records, and what the result then costs at every start."""
    import records

    source = folder / "large.db"
    records.fill(source, count)
    results: dict[str, Any] = {
        "records": count,
        "file_bytes": source.stat().st_size,
        "keys": measure("convert", source, CASES["keys"]),
    }
    results["starts"] = starts(source)
    source.unlink()
    return results


def starts(path: Path, times: int = 9) -> dict[str, float]:
    """Median seconds from starting an interpreter to the answer, and of the interpreter alone.

    ``path`` is converted to what it is in already, which marks it: what follows has nothing to do.
    """
    preamble = (
        f"import sys; sys.path.insert(0, {str(STORE)!r}); from format_store import Format, convert, "
        f"recover; path = {os.fspath(path)!r}; "
    )
    unchanged = preamble + "convert(path, Format.sqlitedict())"
    subprocess.run([sys.executable, "-c", unchanged], check=True)
    programs = {
        "interpreter": "pass",
        "nothing to do": unchanged,
        "nothing to recover": preamble + "recover(path)",
    }
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(times):
        for name, code in programs.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            found[name].append(time.perf_counter() - started)
    return {name: sorted(seconds)[times // 2] for name, seconds in found.items()}
