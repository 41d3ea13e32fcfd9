"""Worker processes: order, limits, deaths, interruption, and that none is ever left."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from format_store.codecs import BadValue, Interrupted, ValueFormat, WorkerDied, WorkerError, frames
from format_store.codecs import pool as pool_module
from format_store.codecs.jobs import Job
from format_store.codecs.pool import WorkerPool
from format_store.codecs.recode import Options, recode_chunk

PICKLE = ValueFormat.named("pickle")
MSGPACK = ValueFormat.named("msgpack")
RECODE = Job.recode(PICKLE, MSGPACK)
MIB = 1 << 20

#: Asks for a memo of 2^31 entries.
MEMORY_BOMB = b"\x80\x04Nr\xff\xff\xff\x7f."


def hash_bomb() -> bytes:
    """A pickle of a dict with a key whose hash takes 2^60 steps in C: nothing but a signal stops it."""
    body = b"\x80\x04K\x01\x85\x94"
    for index in range(60):
        body += b"h" + bytes([index]) + b"\x86\x94"
    return body + b"0}h" + bytes([60]) + b"K\x01s."


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ticks(pid: int) -> int:
    """CPU time that a process has used."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def pids(pool: WorkerPool) -> list[int]:
    return [worker._process.pid for worker in pool._workers]


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    before = set(os.listdir("/proc/self/fd"))
    with WorkerPool(2, memory_limit=256 * MIB) as pool:
        yield pool
        started = pids(pool)
    assert not any(running(pid) for pid in started)
    assert set(os.listdir("/proc/self/fd")) == before


def rows(start: int, count: int) -> list[tuple[int, bytes]]:
    return [
        (i, pickle.dumps({"i": i, "text": "x" * (i % 50)})) for i in range(start, start + count)
    ]


def test_results_come_in_order_and_equal_the_inline_ones(pool: WorkerPool) -> None:
    """Whatever the sizes of the chunks; empty ones are passed over."""
    chunks = [rows(i * 100, 1 + (i * 37) % 90) for i in range(40)]
    results = list(pool.map_ordered(RECODE, iter([*chunks, []])))
    assert results == [recode_chunk(chunk, PICKLE, MSGPACK) for chunk in chunks]
    assert len(pids(pool)) == 2
    pairs = [
        [(i, old, new) for (i, old), (_, new) in zip(a, b, strict=True)]
        for a, b in zip(chunks, results, strict=True)
    ]
    assert list(pool.map_ordered(Job.compare(PICKLE, MSGPACK), pairs)) == [None] * 40
    assert list(pool.map_ordered(Job.decode(PICKLE), chunks)) == [None] * 40
    assert list(pool.map_ordered(Job.fit([PICKLE, MSGPACK]), chunks[:2])) == [
        [None, 0],
        [None, 100],
    ]
    assert list(pool.map_ordered(RECODE, [])) == []


def test_chunks_are_taken_a_few_ahead_in_the_callers_thread(pool: WorkerPool) -> None:
    """A SQLite cursor can be behind them, and memory stays bounded."""
    taken: list[int] = []

    def source() -> Iterator[list[tuple[int, bytes]]]:
        for number in range(100):
            assert threading.current_thread() is threading.main_thread()
            taken.append(number)
            yield rows(number, 1)

    for done, _ in enumerate(pool.map_ordered(RECODE, source())):
        assert len(taken) - done <= 7
    assert len(taken) == 100


def test_large_values_go_both_ways(pool: WorkerPool) -> None:
    """Larger than all buffers, larger than half the limit: what is stored is allowed for."""
    chunks = [[(i, pickle.dumps(os.urandom(1000) * 30_000))] for i in range(3)] + [rows(9, 3)]
    chunks.append([(99, pickle.dumps(b"x" * 200 * MIB))])
    results = list(pool.map_ordered(RECODE, chunks))
    assert results == [recode_chunk(chunk, PICKLE, MSGPACK) for chunk in chunks]


def test_bad_values_name_their_row(pool: WorkerPool) -> None:
    """In the order of the chunks, with type and reason; results before it have been delivered."""
    chunks = [rows(0, 10), [*rows(10, 5), (15, pickle.dumps({"a": (1,)}))], [(20, b"junk.")]]
    results = pool.map_ordered(RECODE, chunks)
    assert len(next(results)) == 10
    with pytest.raises(BadValue) as caught:
        next(results)
    assert (caught.value.rowid, caught.value.type_name) == (15, "tuple")
    assert "tuple at ['a']" in caught.value.why
    assert len(list(pool.map_ordered(RECODE, [rows(0, 5)]))) == 1  # and it goes on working


def test_examine_collects(pool: WorkerPool) -> None:
    """All bad rows, as objects, among them those of a hostile pickle."""
    chunk = [(1, pickle.dumps((1,))), (2, pickle.dumps(2)), (3, b"cos\nsystem\n(S'true'\ntR.")]
    ((first, second),) = pool.map_ordered(Job.examine(PICKLE, MSGPACK), [chunk])
    assert (first.rowid, first.type_name) == (1, "tuple")
    assert (second.rowid, second.type_name) == (3, "os.system")


@pytest.mark.parametrize("around", [0, 5])
@pytest.mark.parametrize("job", [RECODE, Job.decode(PICKLE)], ids=["recode", "decode"])
def test_memory_bombs_are_bad_values(pool: WorkerPool, job: Job, around: int) -> None:
    """Nine bytes that ask for gigabytes, alone or among good rows: their row is named."""
    chunk = [*rows(1, around), (50, MEMORY_BOMB), *rows(60, around)]
    with pytest.raises(BadValue) as caught:
        list(pool.map_ordered(job, [chunk]))
    assert caught.value.rowid == 50
    assert f"limit of {256 * MIB} bytes" in caught.value.why


def test_memory_bombs_are_found_all(pool: WorkerPool) -> None:
    """``examine`` goes on after one."""
    chunk = [(1, MEMORY_BOMB), *rows(2, 2), (5, MEMORY_BOMB)]
    (bad,) = pool.map_ordered(Job.examine(PICKLE, MSGPACK), [chunk])
    assert [item.rowid for item in bad] == [1, 5]


def test_compression_bombs_are_bad_values(pool: WorkerPool) -> None:
    """A gigabyte of zeros in a megabyte."""
    import zlib

    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(10 * MIB)) for _ in range(90)) + packer.flush()
    zipped = ValueFormat.named("raw", "zlib")
    with pytest.raises(BadValue) as caught:
        list(pool.map_ordered(Job.recode(zipped, PICKLE), [[(7, bomb)]]))
    assert caught.value.rowid == 7


def test_rows_that_fit_only_one_by_one_are_worked_on_one_by_one(pool: WorkerPool) -> None:
    """Many compressible values in a chunk: no honest row is blamed."""
    zipped, raw = ValueFormat.named("pickle", "zlib"), ValueFormat.named("raw")
    value = zipped.encode(bytes(24 * MIB))
    chunk = [(i, value) for i in range(16)]
    (result,) = pool.map_ordered(Job.recode(zipped, raw), [chunk])
    assert [rowid for rowid, _ in result] == list(range(16))
    assert {len(stored) for _, stored in result} == {24 * MIB}
    # A digest is of a chunk as a whole: where that does not fit, there is none.
    ((converted, digest),) = pool.map_ordered(Job.convert(zipped, raw), [chunk])
    assert (converted, digest) == (result, b"")
    assert list(pool.map_ordered(Job.digest(zipped, zipped), [chunk])) == [b""]
    target = ValueFormat.named("msgpack", "zlib")
    new = target.encode(bytes(24 * MIB))
    pairs = [(rowid, old, new) for rowid, old in chunk]
    assert list(pool.map_ordered(Job.compare(zipped, target), [pairs])) == [None]


def test_deep_nesting_does_not_kill_a_worker(pool: WorkerPool) -> None:
    """A bad value, and the same worker goes on."""
    deep = b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with pytest.raises(BadValue):
        list(pool.map_ordered(RECODE, [[(1, deep)]]))


def test_a_killed_worker_is_reported(pool: WorkerPool) -> None:
    """With its status, the rows that it worked on, and what may have killed it."""
    results = pool.map_ordered(RECODE, [rows(0, 3), [(7, hash_bomb()), (8, PICKLE.encode(1))]])
    next(results)
    for pid in pids(pool):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied) as caught:
        next(results)
    assert (caught.value.status, caught.value.first_rowid, caught.value.last_rowid) == (-9, 7, 8)
    assert str(256 * MIB) in str(caught.value)


def test_interrupt_stops_busy_workers_at_once(pool: WorkerPool) -> None:
    """From another thread, in the middle of a decode that would never end; also all later work."""
    timer = threading.Timer(0.3, pool.interrupt)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        list(pool.map_ordered(RECODE, [[(1, hash_bomb())], [(2, hash_bomb())]]))
    assert time.monotonic() - started < 1.3
    timer.join()
    with pytest.raises(Interrupted):
        list(pool.map_ordered(RECODE, [rows(0, 1)]))


def test_giving_up_the_iterator_stops_the_workers(pool: WorkerPool) -> None:
    """Nothing is left behind for the next job to trip over."""
    results = pool.map_ordered(RECODE, [rows(0, 3), [(7, hash_bomb())]])
    next(results)
    with pytest.raises(RuntimeError, match="one job"):
        next(pool.map_ordered(RECODE, [rows(0, 1)]))
    busy = pids(pool)
    results.close()  # type: ignore[attr-defined]
    assert not any(running(pid) for pid in busy)
    assert len(list(pool.map_ordered(RECODE, [rows(0, 3)]))) == 1


def test_an_exception_of_the_source_passes_through(pool: WorkerPool) -> None:
    """What is wrong with the chunks is not the pool's."""

    def source() -> Iterator[list[tuple[int, bytes]]]:
        yield rows(0, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(pool.map_ordered(RECODE, source()))


def test_failures_that_no_value_is_to_blame_for(pool: WorkerPool) -> None:
    """A job that makes no sense there."""
    with pytest.raises(WorkerError, match="no-such"):
        list(pool.map_ordered(Job("recode", (("no-such", "none"), ("raw", "none"))), [rows(0, 1)]))


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are in the error."""
    command = [sys.executable, "-I", "-c", "raise SystemExit('no such luck')"]
    monkeypatch.setattr(pool_module, "_command", lambda *_: command)
    with WorkerPool(1) as pool, pytest.raises(WorkerDied, match="no such luck") as caught:
        list(pool.map_ordered(RECODE, [rows(0, 1)]))
    assert caught.value.status == 1


def test_a_worker_that_talks_nonsense_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames with absurd lengths or contents end the work."""
    for said in (b"\xff" * 8, frames.pack(("what",)), b"\1" + bytes(7) + b"\xc1", frames.pack(5)):
        program = f"import sys,time; sys.stdout.buffer.write({said!r}); sys.stdout.flush(); time.sleep(60)"
        monkeypatch.setattr(
            pool_module, "_command", lambda *_, p=program: [sys.executable, "-I", "-c", p]
        )
        with WorkerPool(1) as pool, pytest.raises(WorkerDied):
            list(pool.map_ordered(RECODE, [rows(0, 1)]))


def test_allow_list_and_other_options_reach_the_worker(pool: WorkerPool) -> None:
    """And so does the refusal of what cannot be allowed."""
    import datetime as dt

    chunk = [(1, pickle.dumps(dt.date(2024, 1, 1)))]
    with pytest.raises(BadValue, match=r"datetime\.date"):
        list(pool.map_ordered(Job.decode(PICKLE), [chunk]))
    options = Options(pickle_allow=("datetime.date",))
    assert list(pool.map_ordered(Job.decode(PICKLE, options), [chunk])) == [None]
    shared: list[Any] = [[]] * 2
    stored = [(1, pickle.dumps(shared))]
    with pytest.raises(BadValue, match="more than once"):
        list(pool.map_ordered(RECODE, [stored]))
    expand = Job.recode(PICKLE, MSGPACK, Options(shared_references="expand"))
    assert list(pool.map_ordered(expand, [stored])) == [[(1, MSGPACK.encode(shared))]]
    with pytest.raises(WorkerError, match="cannot be allowed"):
        list(pool.map_ordered(Job.decode(PICKLE, Options(pickle_allow=("os.system",))), [chunk]))


def test_workers_are_isolated(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors but their own, no environment of ours, another session, "/" as directory, no core."""
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setenv("SECRET", "x")
    with open("/dev/null", "rb") as other:
        os.set_inheritable(other.fileno(), True)
        list(pool.map_ordered(RECODE, [rows(0, 1)]))
        (pid, *_) = pids(pool)
        descriptors = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert not any(name == "/dev/null" for name in descriptors)
    assert all(name.startswith(("pipe:", "/memfd:stderr")) for name in descriptors)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"SECRET" not in environment
    assert b"PYTHON" not in environment
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid != os.getsid(0)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert limits.split("Max core file size")[1].split()[0] == "0"
    assert limits.split("Max address space")[1].split()[0] != "unlimited"


PARENT = """
import sys, threading
sys.path[:] = {path!r}
from format_store.codecs import ValueFormat
from format_store.codecs.jobs import Job
from format_store.codecs.pool import WorkerPool
assert __name__ == "__main__"
print("MAIN", flush=True)
pool = WorkerPool(1)
job = Job.decode(ValueFormat.named("pickle"))
for _ in pool.map_ordered(job, [[(1, b"N.")]]):
    print(*[worker._process.pid for worker in pool._workers], flush=True)
if {busy!r}:
    list(pool.map_ordered(job, [[(1, {bomb!r})]]))
sys.stdin.read()
"""


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("options", [[], ["-O"]], ids=["", "optimised"])
def test_workers_do_not_outlive_a_killed_parent(
    tmp_path: Path, busy: bool, options: list[str]
) -> None:
    """SIGKILL of the parent ends them, even in a decode that never ends. The app's main runs once."""
    script = tmp_path / "app.py"
    script.write_text(PARENT.format(path=sys.path, busy=busy, bomb=hash_bomb()))
    command = [sys.executable, *options, str(script)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "MAIN\n"
        worker = int(parent.stdout.readline())
        assert running(worker)
        arguments = Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")
        assert (b"-O" in arguments) == bool(options)
        if busy:
            start = ticks(worker)
            until(lambda: ticks(worker) > start + 5)
        parent.kill()
        rest = parent.stdout.read()
    assert rest == ""
    until(lambda: not running(worker))


def test_a_pool_is_closed_once_and_for_all() -> None:
    """Closing twice is fine, working afterwards is not; a size of nothing is refused."""
    pool = WorkerPool()
    assert pool.size == len(os.sched_getaffinity(0))
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(pool.map_ordered(RECODE, [rows(0, 1)]))
    with pytest.raises(ValueError, match="at least one"):
        WorkerPool(0)


def test_workers_import_little(pool: WorkerPool) -> None:
    """Of this project the codecs only; and nothing that makes the start slow."""
    list(pool.map_ordered(Job.recode(PICKLE, ValueFormat.named("msgpack", "zstd")), [rows(0, 1)]))
    program = (
        "import sys, format_store.codecs.worker;"
        "print(*sorted(m for m in sys.modules if m.startswith('format_store')));"
        "print(*{'asyncio', 'ctypes', 'multiprocessing', 'sqlite3', 'inspect'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
    )
    project, slow = done.stdout.split("\n")[:2]
    allowed = {"format_store"}
    assert {m for m in project.split() if not m.startswith("format_store.codecs")} <= allowed
    assert slow == ""
