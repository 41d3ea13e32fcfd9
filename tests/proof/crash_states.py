"""Every state that a power cut may leave: recorded, built, recovered, compared record by record.

The real program runs under strace (``recording``, ``replay``), what a filesystem may have of it on disk when
the power goes is built under two models (``filesystem``), and the real recovery runs on each. Then the
database is wholly old or wholly new, nothing is left, a second recovery finds nothing to do, and what was
interrupted can be done. A power cut in the recovery is the same once more: the recovery is recorded, and what
it may leave on disk is recovered.

What follows from a recovery depends on what it left alone. Volumes that are the same, byte for byte but for
times, inode numbers and the history's, are judged once.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from unittest import mock

from format_store import durable, inspect, recover
from tests.proof.disk import materialise
from tests.proof.filesystem import Filesystem, Model, State
from tests.proof.outcomes import Outcome
from tests.proof.recording import (
    Call,
    Names,
    Operation,
    Recording,
    Sync,
    Volume,
    Write,
    calls,
    marked,
    threads,
    trace,
)
from tests.proof.replay import Replay
from tests.proof.report import Report
from tests.proof.scenarios import ALL, NAME, Scenario, fresh
from tests.proof.traced import MARK
from tests.support.kept_workers import kept_workers

MODELS: tuple[Model, ...] = ("journalled", "weak", "unordered")
PROOF = "crash states"
SEED = 20261127
#: Recoveries that are recorded by one traced process.
AT_ONCE = 50


@contextmanager
def workshop() -> Iterator[Path]:
    """A directory in memory if there is one: nothing here depends on a disk, and fsync costs nothing there."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="crash-states-", dir=where) as directory,
        kept_workers(),
    ):
        yield Path(directory)


# --- recording --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """``since``: moments before this one are somebody else's.

    ``result``: what the database is once the run has ended; ``always``: and was before, whenever the power went.
    """

    scenario: Scenario
    recording: Recording
    outcome: Outcome
    since: int = 0
    result: str = "new"
    always: bool = False


def record(scenario: Scenario, root: Path) -> Run:
    """Run the scenario for real, and keep what it did."""
    volume = fresh(root, "recorded")
    path = volume / NAME
    prepared = scenario.prepare(path)
    before = Volume.of(volume)
    (found,), ours = _traced(
        [[prepared.operation, str(path), *prepared.words]], scenario, root / "log"
    )
    replayed = Replay(volume, before, ours)
    replayed.run(found)
    recording = replayed.recording()
    run = Run(scenario, recording, prepared.outcome, result=prepared.result)
    return _unsynced(run) if scenario.unsynced else run


def _unsynced(run: Run) -> Run:
    """As if the application's last writes were still in memory only.

    It chose to live with that, so that what a power cut takes before the old file becomes the pre-image is
    not this store's doing. From then on the pre-image may be the only copy.
    """
    recording = run.recording
    before = recording.before.copy()
    primary = before.directories[0][NAME]
    data = bytes(before.files[primary])
    before.files[primary] = bytearray(len(data))
    operations: list[Operation] = [Write(primary, 0, data)]
    operations += [
        replace(operation, begun=operation.begun + 1) if isinstance(operation, Sync) else operation
        for operation in recording.operations
    ]
    since = next(
        number for number, operation in enumerate(operations, 1)
        if isinstance(operation, Names)
        and any(name.endswith("preimage.db") or name == "preimage.db" for _, name, _ in operation.changes)
    )  # fmt: skip
    return replace(run, recording=Recording(before, operations, recording.after), since=since)


def _traced(
    runs: Sequence[Sequence[str]], scenario: Scenario, log: Path
) -> tuple[list[list[Call]], set[str]]:
    """Run the driver under strace, so many times: the calls of each, and whose threads are its own."""
    more = [] if scenario.hard_links else ["--without-hard-links"]
    command = [sys.executable, "-W", "error", "-m", "tests.proof.traced"]
    done = trace([*command, *(json.dumps([*words, *more]) for words in runs)], log)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(log, encoding="ascii") as file:
        found = calls(file)
    marks = [marked(found, f"{MARK}/{number}") for number in range(len(runs) + 1)]
    segments = [found[begin:end] for begin, end in itertools.pairwise(marks)]
    return segments, threads(found)


def record_recoveries(run: Run, states: Sequence[tuple[State, str]], root: Path) -> list[Run]:
    """Recover each of a run's states under strace, all in one process, and keep what that did.

    With each state goes what comes of it: what is on disk has decided that, and no second power cut changes it.
    """
    befores, volumes = [], []
    for number, (state, _) in enumerate(states):
        volume = fresh(root, f"again-{number}")
        materialise(state, run.recording, volume)
        volumes.append(volume)
        befores.append(Volume.of(volume))
    segments, ours = _traced(
        [["recover", str(volume / NAME)] for volume in volumes], run.scenario, root / "log"
    )
    runs = []
    for number, (volume, before) in enumerate(zip(volumes, befores, strict=True)):
        replayed = Replay(volume, before, ours)
        replayed.run(segments[number])
        runs.append(
            replace(
                run, recording=replayed.recording(), since=0, result=states[number][1], always=True
            )
        )
        shutil.rmtree(volume)
    return runs


# --- checking ---------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """``lost``: what went wrong, in words."""

    tried: int = 0
    lost: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    sampled: int = 0
    shapes: dict[str, tuple[State, str]] = field(default_factory=dict)
    """One state for each way in which names can lie and files be whole or not, and what came of it."""


class Checker:
    """Recovers states of one scenario and judges what it finds."""

    def __init__(self, run: Run, root: Path) -> None:
        self._run = run
        self._volume = root / "volume"
        self._judged: dict[bytes, str] = {}

    def check(self, state: State, recording: Recording) -> str:
        """``old`` or ``new``. AssertionError, StoreError …: something was lost."""
        volume = fresh(self._volume.parent, self._volume.name)
        materialise(state, recording, volume)
        path = volume / NAME
        with self._hard_links():
            recover(path)
            known = recording.before.find([f".{NAME}.storageformat", "history.jsonl"])
            require_history(path, b"" if known is None else bytes(recording.before.files[known]))
            key = fingerprint(volume)
            if key not in self._judged:
                self._judged[key] = judge(path, self._run.outcome)
        return self._judged[key]

    @contextmanager
    def _hard_links(self) -> Iterator[None]:
        if self._run.scenario.hard_links:
            yield
            return
        with (
            mock.patch.object(durable, "link", return_value=False),
            mock.patch.object(durable, "has_hard_links", return_value=False),
        ):
            yield


def judge(path: Path, outcome: Outcome) -> str:
    """``old`` or ``new``, once recovery has run: nothing is pending, and what was interrupted can be done."""
    assert inspect(path).pending == ()
    assert not path.exists() or path.stat().st_nlink == 1
    before = fingerprint(path.parent)
    assert recover(path).recoveries == ()
    assert fingerprint(path.parent) == before, "a second recovery changed something"
    where = outcome.judge(path)
    outcome.finish(path)
    return where


def require_history(path: Path, before: bytes) -> None:
    """It has whole lines, and those that it had: the totals are in them."""
    file = path.parent / f".{path.name}.storageformat" / "history.jsonl"
    lines = file.read_bytes().splitlines() if file.exists() else []
    assert all(isinstance(json.loads(line), dict) for line in lines)
    known = before.splitlines()
    assert lines[: len(known)] == known, "the history has lost something"


def fingerprint(volume: Path) -> bytes:
    """Names and bytes, without what differs from run to run and decides nothing."""
    digest = blake2b(digest_size=16)
    for parent, directories, files in os.walk(volume):
        directories.sort()
        for name in [*directories, *sorted(files)]:
            path = Path(parent, name)
            digest.update(f"{path.relative_to(volume)}\0{path.is_dir()}\0".encode())
            if path.is_dir() or name in {"history.jsonl", "lock"}:
                continue
            digest.update(f"{path.stat().st_nlink}\0".encode())
            digest.update(_content(path))
    return digest.digest()


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "manifest.json":
        document = json.loads(data)
        document["retainUntil"] = document["retainUntil"] is None
        for field_name in ("source", "staging"):
            if document[field_name]:
                document[field_name] |= {"inode": 0, "mtimeNs": 0}
        data = json.dumps(document).encode()
    return blake2b(data, digest_size=16).digest()


def simulate(
    run: Run,
    model: Model,
    root: Path,
    *,
    limit: int = 24,
    most: int | None = None,
    checker: Checker | None = None,
) -> Tally:
    """Check the states of a run, or a sample of so many at ``most``; ``limit``: see ``filesystem``."""
    filesystem = Filesystem(run.recording, model, seed=SEED, limit=limit)
    checker = checker or Checker(run, root)
    last = filesystem.moments()[-1]
    states: dict[tuple[bytes, bool], State] = {}
    for moment in filesystem.moments()[run.since :]:
        for state in filesystem.states(moment):
            states.setdefault((state.key(), moment == last), state)
    tally = Tally(sampled=filesystem.sampled)
    chosen = list(states.values())
    if most is not None and len(chosen) > most:
        chosen = random.Random(SEED).sample(chosen, most)
    for state in chosen:
        tally.tried += 1
        try:
            where = checker.check(state, run.recording)
            if state.moment == last or run.always:
                assert where == run.result, f"it had been reported as {run.result}, and is {where}"
            tally.outcomes[where] += 1
            tally.shapes.setdefault(_shape(state, run.recording), (state, where))
        except Exception as error:
            # Whatever it is, it is told with its state.
            tally.lost.append(_told(state, run, model, error))
    return tally


def _shape(state: State, recording: Recording) -> str:
    """Names, which of them are one file, and whether each file is as it was last, as it was first, or neither."""
    words = []
    for name, inode in state.names:
        content = state.contents.get(inode)
        known = {
            bytes(recording.after.files.get(inode, b"")): "whole",
            b"": "empty",
        }
        words.append(f"{name}={inode}:{'' if content is None else known.get(content, 'torn')}")
    return " ".join(words)


def _told(state: State, run: Run, model: Model, error: Exception) -> str:
    names = ", ".join(
        f"{name}#{inode}" + ("" if content is None else f"[{len(content)}]")
        for name, inode in state.names
        for content in [state.contents.get(inode)]
    )
    done = run.recording.operations[state.moment - 1] if state.moment else None
    text = repr(done)
    return (
        f"{run.scenario.name}, {model}, after operation {state.moment} ({text[:120]}): "
        f"{type(error).__name__}: {error}; on disk: {names}"
    )


# --- the long form ----------------------------------------------------------------------------------------


def long(report: Report, scenarios: Iterable[Scenario] = ALL) -> None:
    """All scenarios under all models, and a power cut in the recovery of every kind of state."""
    with workshop() as root:
        for scenario in scenarios:
            run = record(scenario, root)
            for model in MODELS:
                started = time.monotonic()
                tally = simulate(run, model, root, limit=64)
                again = composed(run, model, root, list(tally.shapes.values()))
                for line in [*tally.lost, *again.lost]:
                    report.progress(f"LOST: {line}")
                outcomes = ", ".join(
                    f"{count} {name}" for name, count in sorted(tally.outcomes.items())
                )
                report.add(
                    PROOF, f"{scenario.name}, {model}", tally.tried + again.tried,
                    len(tally.lost) + len(again.lost), time.monotonic() - started,
                    f"{outcomes}; and {again.tried} in the recovery",
                )  # fmt: skip


def composed(
    run: Run,
    model: Model,
    root: Path,
    states: Sequence[tuple[State, str]],
    *,
    limit: int = 12,
    most: int | None = None,
) -> Tally:
    """A power cut in the recovery after a power cut: that of each of these states is recorded."""
    whole = Tally()
    checker = Checker(run, root)
    for start in range(0, len(states), AT_ONCE):
        for recovery in record_recoveries(run, states[start : start + AT_ONCE], root):
            tally = simulate(recovery, model, root, limit=limit, most=most, checker=checker)
            whole.tried += tally.tried
            whole.lost += tally.lost
            whole.outcomes += tally.outcomes
            whole.sampled += tally.sampled
    return whole
