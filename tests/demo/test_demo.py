"""``make demo`` on a small tree: it proves what it says, fails when that is not so, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from examples.demo import proof
from examples.demo.proof import Different

ROOT = Path(__file__).parents[2]
RUN = [str(ROOT / "examples" / "demo" / "run.py")]
SMALL = ["--root", sysconfig.get_path("stdlib"), "--min-entries", "1500"]
WRITTEN: list[tuple[str, dict[str, Any]]] = [
    ("/b", {"size": 1, "mode": 0o644}),
    ("/a", {"size": 2.5, "mode": 0o755}),
]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts a demo whose temporary files are below ``tmp_path``."""
    started = []

    def start_one(arguments: Sequence[str]) -> subprocess.Popen[str]:
        paths = [str(ROOT / part) for part in ("operator", "store", "devtools")] + [str(ROOT)]
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path)},
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def assert_nothing_is_left(place: Path) -> None:
    """No file, and no process that works below ``place``."""
    assert list(place.iterdir()) == []
    assert processes_in(place) == []


def processes_in(place: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                directory = os.readlink(entry / "cwd")
            except OSError:
                continue
            if directory.startswith(str(place)):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def test_it_proves_what_it_says(start: Any, tmp_path: Path) -> None:
    """Three pods, one kill, every record compared: exit code 0, and nothing is left."""
    process = start([*RUN, *SMALL])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for line in (
        r"index-1 +SIGKILL to the sidecar's worker",
        r"index-1 +the database is as it was, byte for byte",
        r"index-1 +recovered: the unfinished copy is discarded",
        r"index-0 +the gate is connected: converting to v2",
        r"index-0 +backup deleted; [\d,]+ records converted",
        r"index\.index-1 +Converted +v2 +v2 +Open",
        r'storageformat_recoveries_total\{outcome="discarded"\} 1\.0',
        r'storageformat_conversions_total\{result="succeeded"\} 1\.0',
        r"storageformat_backups_created_total 1\.0",
        r'storageformat_database_format_info\{.*format="v2".*\} 1\.0',
        r"storageformat_gate_open 1\.0",
        r"ok +index-0: every record as the app wrote it",
        r"ok +index-1: every record as the app wrote it",
        r"ok +index-2: every record as the app wrote it",
        r"ok +index-1: children\(",
        r"ok +index-1: metrics say recoveries 1, conversions 1, backups made 1",
        r"records in 3 databases went from v1 to v2",
    ):
        assert re.search(line, output), f"{line}\n{output}"
    assert output.count("the gate opens: the app starts") == 3
    assert "FAILED" not in output
    assert "\033" not in output
    assert_nothing_is_left(tmp_path)


def test_a_record_that_differs_is_a_failure(start: Any, tmp_path: Path) -> None:
    """One byte of size in one record of thousands: the exit code is 1, and the record is named."""
    program = """
import sys
from examples.demo import app_v1, run
write = app_v1.write
def write_and_expect_otherwise(path, tables):
    write(path, tables)
    if "index-2" in str(path):
        key, record = tables["entries"][-1]
        tables["entries"][-1] = (key, record | {"size": record["size"] + 1})
app_v1.write = write_and_expect_otherwise
sys.exit(run.main(sys.argv[1:]))
"""
    process = start(["-c", program, *SMALL])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert re.search(r"FAILED +index-2: every record .*'size'", output), output
    assert re.search(r"ok +index-0: every record", output), output
    assert output.rstrip().splitlines()[-1].startswith("FAILED: index-2: every record")
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(
    start: Any, tmp_path: Path, number: signal.Signals
) -> None:
    """In the middle of a conversion: processes and files are gone, and the exit code says so."""
    process = start([*RUN, *SMALL])
    for line in process.stdout:
        if "the gate is connected: converting" in line:
            break
    assert processes_in(tmp_path)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Interrupted; everything is cleaned up." in output
    assert_nothing_is_left(tmp_path)


def test_killed_it_leaves_no_process_behind(start: Any, tmp_path: Path) -> None:
    """Nobody can tidy up after SIGKILL, but the kernel ends what the demo started."""
    process = start([*RUN, *SMALL])
    for line in process.stdout:
        if "the gate is connected: converting" in line:
            break
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while (left := processes_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_the_comparison_takes_what_was_written() -> None:
    """The same records in the same order: their number."""
    assert proof.compare(WRITTEN, iter(list(WRITTEN))) == 2


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (WRITTEN[::-1], "record 1 is '/a', not '/b'"),
        (WRITTEN[:1], "record 2 is '\\(the end\\)', not '/a'"),
        ([*WRITTEN, ("/c", {})], "record 3 is '/c', not '\\(the end\\)'"),
        ([("/b", {"size": True, "mode": 0o644}), WRITTEN[1]], "'/b' is {'size': True"),
        ([("/b", {"size": 1.0, "mode": 0o644}), WRITTEN[1]], "'/b' is {'size': 1.0"),
        ([("/b", {"mode": 0o644, "size": 1}), WRITTEN[1]], "'/b' is {'mode'"),
    ],
    ids=["order", "missing", "more", "bool", "float", "order of keys"],
)
def test_the_comparison_sees_every_difference(found: list[tuple[str, Any]], says: str) -> None:
    """Order, number, types that == takes for equal, and the order of a dict's keys."""
    with pytest.raises(Different, match=says):
        proof.compare(WRITTEN, found)
