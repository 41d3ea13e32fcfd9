"""What there is to see afterwards, and the checks on it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from examples.demo import proof
from examples.demo.pod import Pod
from examples.demo.show import Show, readable, table
from examples.demo.tree import DIRECTORIES, ENTRIES, Shard
from format_store import Format
from format_store.errors import StoreError

V2 = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
_SHOWN_ENTRIES = range(5, 13)
"""A directory with that many entries makes a good listing."""
_SHOWN_METRICS = (
    "recoveries_total",
    "last_recovery_timestamp_seconds",
    "conversions_total",
    "conversion_duration_seconds_sum",
    "backups_created_total",
    "backup_present",
    "database_format_info",
    "database_size_bytes",
    "gate_open",
    "restart_required",
)
#: Labels that all of these have, and the same.
_COMMON_LABELS = re.compile(r',?\b(storageformat|database)="[^"]*"')


def is_done(states: Sequence[Mapping[str, Any]], pods: Sequence[Pod]) -> bool:
    """Whether every pod has reported that it is converted and that its app may run."""
    said = [one.get("status") or {} for one in states]
    return len(said) == len(pods) and all(
        one.get("phase") == "Converted" and one.get("gate") == "Open" for one in said
    )


def sizes(pods: Sequence[Pod], states: Sequence[Mapping[str, Any]], show: Show) -> None:
    """A table of the databases, before and after."""
    show.heading("Sizes")
    rows = [["DATABASE", "RECORDS", "BEFORE", "AFTER", "", "CONVERTED IN"]]
    for pod, state in zip(pods, states, strict=True):
        conversion = state["status"].get("lastConversion") or {}
        before, after = pod.size_before, pod.database.stat().st_size
        seconds = f"{conversion.get('durationSeconds', 0):.1f} s"
        share = f"{after / before:.0%}"
        rows.append(
            [pod.name, f"{pod.shard.rows:,}", readable(before), readable(after), share, seconds]
        )
    show.text(table(rows, right=frozenset(range(1, 6))))


def metrics(pod: Pod, show: Show) -> None:
    """A dozen lines of what a Prometheus scrapes."""
    show.heading(f"What a Prometheus sees of {pod.name}, the one that was killed: {pod.address}")
    show.text("(without the labels storageformat and database, and what never happened)")
    for line in (pod.scrape() or "").splitlines():
        sample = _COMMON_LABELS.sub("", line).replace("{,", "{").replace("{}", "")
        name = sample.removeprefix("storageformat_").partition("{")[0].partition(" ")[0]
        # Of an outcome or result only what has happened, and that nothing has failed.
        happened = not sample.endswith(" 0.0") or "{" not in sample or '="failed"' in sample
        if name in _SHOWN_METRICS and happened:
            show.text(sample)


def states(shown: str, show: Show) -> None:
    show.heading("FormatStates, as `kubectl get formatstates` shows them")
    show.text(shown)


def listing(pod: Pod, root: str, show: Show) -> None:
    """Have the app list a directory, print it and compare it."""
    directory = _directory(pod.shard, root)
    answer = pod.ask(directory)
    show.heading(f"children({directory!r}), as the app in {pod.name} answers")
    rows = [[kind, f"{size:,}", key] for key, kind, size in answer["children"]]
    show.text(table(rows[: _SHOWN_ENTRIES.stop], right=frozenset({1})))
    if len(rows) > _SHOWN_ENTRIES.stop:
        show.text(f"… and {len(rows) - _SHOWN_ENTRIES.stop:,} more")


def _directory(shard: Shard, root: str) -> str:
    """A directory to list: of the first root, of a size that can be shown, with all sorts in it, near the top."""
    kinds: dict[str, set[str]] = {}
    for key, record in shard.tables[ENTRIES]:
        kinds.setdefault(os.path.dirname(key), set()).add(record["kind"])
    counts = {path: one["entries"] for path, one in shard.tables[DIRECTORIES] if path in kinds}

    def merits(path: str) -> tuple[object, ...]:
        shown = counts[path] in _SHOWN_ENTRIES
        depth = path.count("/")
        return (not path.startswith(root), not shown, len(kinds[path]) < 2, depth, len(path), path)

    return min(counts, key=merits)


def checks(pods: Sequence[Pod], victim: Pod, root: str, show: Show) -> int:
    """The proof. Returns the number of records that were compared; the failures are in ``show``."""
    show.heading("The proof")
    records = 0
    for pod in pods:
        what = f"{pod.name}: every record as the app wrote it, in the order in which it did"
        records += _compared(
            what, partial(proof.compare_database, pod.database, pod.shard, V2), show
        )
    for pod in pods:
        directory = _directory(pod.shard, root)
        what = f"{pod.name}: children({directory!r}) gives what the directory holds, sorted"
        _compared(what, partial(_listing_compared, pod, directory), show)
    for pod in pods:
        left = proof.left_over(pod.database, pod.state)
        show.check(not left, f"{pod.name}: nothing is left beside the database", ", ".join(left))
    _check_metrics(pods, victim, show)
    return records


def _check_metrics(pods: Sequence[Pod], victim: Pod, show: Show) -> None:
    for pod in pods:
        found = {
            "recoveries": pod.metric("storageformat_recoveries_total"),
            "conversions": pod.metric("storageformat_conversions_total", result="succeeded"),
            "backups made": pod.metric("storageformat_backups_created_total"),
            "backups kept": pod.metric("storageformat_backup_present"),
            "gate open": pod.metric("storageformat_gate_open"),
        }
        expected = dict.fromkeys(found, 1.0) | {
            "recoveries": float(pod is victim),
            "backups kept": 0.0,
        }
        said = ", ".join(f"{name} {value:.0f}" for name, value in expected.items())
        show.check(found == expected, f"{pod.name}: metrics say {said}", f"found {found}")


def _listing_compared(pod: Pod, directory: str) -> int:
    return proof.compare_listing(pod.shard, directory, pod.ask(directory))


def _compared(what: str, compare: Callable[[], int], show: Show) -> int:
    try:
        count = compare()
    except (proof.Different, StoreError) as error:
        show.check(False, what, str(error))
        return 0
    show.check(True, f"{what} ({count:,})")
    return count
