"""What a Prometheus sees of a pod before and after a conversion, a failure and a recovery."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controlplane import ControlPlane
from tests.apiserver.sidecars import (
    ROOT,
    Cluster,
    Sidecar,
    eventually,
    exit_of,
    go_on,
    kept_as_it_is,
    paused,
    wanted,
)
from tests.sidecar.pods import Pod, fetch
from tests.support.databases import execute
from tests.support.requirements import requires

#: A sample's name and its labels in order.
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
_METRICS_PAGE = (ROOT / "docs/metrics.md").read_text()
_OF_THE_SIDECAR = _METRICS_PAGE[: _METRICS_PAGE.index("## Of the controller")]
DOCUMENTED = set(re.findall(r"^\| `(storageformat_\w+)", _OF_THE_SIDECAR, re.MULTILINE))
#: Documented, and there only once what they tell of has happened.
ABSENT_AT_FIRST = {
    "storageformat_database_format_info",
    "storageformat_backup_created_timestamp_seconds",
    "storageformat_last_recovery_timestamp_seconds",
    "storageformat_last_success_timestamp_seconds",
    "storageformat_api_requests_total",
    "storageformat_state_info",
    "storageformat_backup_retain_until_timestamp_seconds",
    "storageformat_api_last_answer_timestamp_seconds",
}


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path) as cluster:
        yield cluster


class Scrape:
    """One scrape of a pod, understood by prometheus-client's parser and accepted by promtool."""

    def __init__(self, sidecar: Sidecar, pod: Pod) -> None:
        status, self.text = fetch(sidecar.port, "/metrics")
        assert status == 200
        self._labels = {"storageformat": "orders", "database": str(pod.database)}
        self.families = {one.name: one for one in text_string_to_metric_families(self.text)}
        self.samples: Samples = {}
        for family in self.families.values():
            assert family.documentation, family.name
            for one in family.samples:
                key = (one.name, tuple(sorted(one.labels.items())))
                assert key not in self.samples, f"twice: {key}"
                self.samples[key] = one.value
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=self.text,
            text=True,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert self.samples["storageformat_scrape_errors_total", ()] == 0

    def __getitem__(self, name: str) -> float:
        return self.value(name)

    def value(self, name: str, **labels: str) -> float:
        key = (f"storageformat_{name}", tuple(sorted((self._labels | labels).items())))
        return self.samples[key]

    def names(self) -> set[str]:
        return {name for name, _ in self.samples if name.startswith("storageformat_")}

    def counts(self, name: str, label: str) -> dict[str, float]:
        """The values of a family by one label, without the zeros."""
        return {
            dict(labels)[label]: value
            for (sample, labels), value in self.samples.items()
            if sample == f"storageformat_{name}" and value
        }


@requires("promtool", how="apt-get install prometheus")
def test_conversion_failure_and_recovery(cluster: Cluster) -> None:
    """Five scrapes of one pod's life, each value as it must be; totals go on over three restarts."""
    pod = cluster.pod()
    begun = time.time() - 1

    # 1: the container is up, no gate has come, nobody asked for anything.
    sidecar = cluster.sidecar(pod)
    first = Scrape(sidecar, pod)
    missing = {name for name in DOCUMENTED if not _has(first, name)}
    assert missing <= ABSENT_AT_FIRST
    assert first.counts("conversions_total", "result") == {}
    assert first.counts("recoveries_total", "outcome") == {}
    assert first.counts("conversion_phase", "phase") == {"idle": 1}
    assert first["backups_created_total"] == first["backup_present"] == 0
    assert first["restart_required"] == 0
    for result in ("succeeded", "failed", "refused", "aborted"):
        assert first.value("conversions_total", result=result) == 0
    for outcome in ("discarded", "completed", "restored", "cleaned", "failed"):
        assert first.value("recoveries_total", outcome=outcome) == 0

    # 2: a failure: a row that fits no declared format. The gate stays closed.
    before = kept_as_it_is(pod.database)
    execute(pod.database, "INSERT INTO unnamed (key, value) VALUES ('/stray', 'no pickle')")
    cluster.create(wanted(pod))
    eventually(lambda: sidecar.health()["databases"][0]["api"] == "found")
    gate = pod.gate()
    cluster.reports(phase="Refused", gate="Closed")
    second = Scrape(sidecar, pod)
    assert second.counts("conversions_total", "result") == {"refused": 1}
    assert second["gate_open"] == 0
    assert second["backups_created_total"] == 0
    assert second["conversion_duration_seconds_count"] == 0
    assert second.counts("databases_failing", "kind") == {"refused": 1}
    assert second.counts("state_info", "reason") == {"UndeclaredFormat": 1}
    assert second["api_last_answer_timestamp_seconds"] > begun
    assert second.counts("database_format_info", "format") == {"v1": 1}
    assert second["database_size_bytes"] == pod.database.stat().st_size
    execute(pod.database, "DELETE FROM unnamed WHERE key = '/stray'")
    assert kept_as_it_is(pod.database)[0] == before[0]
    sidecar.kill_container()

    # 3: interrupted after the swap, recovered by the next container, converted, backup kept.
    cluster.change(backup={"retainFor": "1h"})
    dying = cluster.sidecar(pod, pause_at="swap.after-fsync")
    paused(pod)
    third = Scrape(dying, pod)
    assert third["gate_open"] == 0
    assert third.counts("conversion_phase", "phase") == {"swapping": 1}
    dying.kill_container()
    go_on(pod)
    recovered = cluster.sidecar(pod)
    assert exit_of(gate) == 0
    cluster.reports(phase="Converted", gate="Open")
    fourth = Scrape(recovered, pod)
    assert fourth.counts("recoveries_total", "outcome") == {"completed": 1}
    assert fourth.counts("conversions_total", "result") == {"succeeded": 1}
    assert fourth["backups_created_total"] == fourth["backup_present"] == 1
    assert fourth["backup_size_bytes"] == len(before[3])
    now = time.time() + 1
    for name in ("last_recovery", "last_success", "backup_created"):
        assert begun <= fourth[f"{name}_timestamp_seconds"] <= now, name
    assert fourth["gate_open"] == 1
    assert fourth.counts("databases_failing", "kind") == {}
    assert fourth.counts("backups_kept", "pinned") == {"false": 1}
    until = fourth["backup_retain_until_timestamp_seconds"]
    assert until >= fourth["backup_created_timestamp_seconds"] + 3600
    assert {name for name in DOCUMENTED if not _has(fourth, name)} == set()
    info = {"format": "v2", "engine": "sqlitedict", "key_encoding": "hierarchical"}
    codec = {"value_codec": "msgpack", "compression": "zstd"}
    assert fourth.value("database_format_info", **info, **codec) == 1
    # A conversion that another process ended has no duration here.
    assert fourth["conversion_duration_seconds_count"] == 0
    assert recovered.terminate() == 0

    # 5: a plain conversion; everything from before is still counted.
    cluster.change(target="v3")
    last = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    cluster.reports(phase="Converted", gate="Open", currentFormat="v3")
    fifth = Scrape(last, pod)
    assert fifth.counts("recoveries_total", "outcome") == {"completed": 1}
    assert fifth.counts("conversions_total", "result") == {"succeeded": 2}
    assert (fifth["backups_created_total"], fifth["backup_present"]) == (2, 1)
    assert fifth["conversion_duration_seconds_count"] == 1
    assert fifth["conversion_duration_seconds_sum"] > 0
    assert fifth["conversion_progress_ratio"] == 1
    assert fifth.counts("conversion_phase", "phase") == {"idle": 1}
    assert fifth["database_size_bytes"] == pod.database.stat().st_size
    assert fifth.counts("api_requests_total", "verb").keys() == {"get", "patch"}


def _has(scrape: Scrape, documented: str) -> bool:
    """A histogram's samples are called after it."""
    return any(name == documented or name.startswith(f"{documented}_") for name in scrape.names())
