"""A StorageFormat that is edited every tenth of a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controlplane import ControlPlane
from format_operator.controller.cache import KINDS
from tests.apiserver.controllers import Controllers, Rollout
from tests.apiserver.controllers import eventually as soon
from tests.apiserver.faulty import Faulty
from tests.apiserver.sidecars import (
    FORMATS,
    Cluster,
    assert_holds,
    eventually,
    exit_of,
    kept_as_it_is,
    wanted,
)

EDITS = 30


@pytest.fixture
def faulty(control_plane: ControlPlane) -> Iterator[Faulty]:
    with Faulty(control_plane) as faulty:
        yield faulty


@contextmanager
def storm(plane: ControlPlane, path: str) -> Iterator[None]:
    """Target and labels change in turns, every 100 ms, until the ``with`` statement ends and all were made."""
    pause = threading.Event()

    def edit() -> None:
        for number in range(EDITS):
            change: dict[str, Any] = {"metadata": {"labels": {"edit": str(number)}}}
            if number % 2:
                change = {"spec": {"target": "v3" if number % 4 == 1 else "v2"}}
            plane.admin.patch(path, change)
            pause.wait(0.1)

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        yield
    finally:
        editor.join()


def test_a_sidecar_in_a_storm(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, faulty: Faulty
) -> None:
    """Edits cost no request but a report now and then; the next start converts to what stands in the end."""
    with Cluster(control_plane, namespace, tmp_path, faulty.url) as cluster:
        pod = cluster.pod(resync="3600")
        cluster.create(wanted(pod))
        sidecar = cluster.sidecar(pod)
        assert exit_of(pod.gate()) == 0
        cluster.reports(phase="Converted", gate="Open")
        eventually(sidecar.is_watching)
        before, asked = kept_as_it_is(pod.database), len(faulty.seen)
        with storm(control_plane, cluster.path("storageformats", "orders")):
            pass
        cluster.change(target="v3")
        generation = cluster.plane.admin.get(cluster.path("storageformats", "orders"))
        cluster.reports(
            phase="RestartRequired",
            targetFormat="v3",
            observedGeneration=generation["metadata"]["generation"],
        )
        made = [one.kind for one in faulty.seen[asked:]]
        assert set(made) == {"patch formatstates/status"}
        assert len(made) <= EDITS // 2
        assert kept_as_it_is(pod.database) == before
        # The same while a gate comes: the app starts on a whole database, and the last word counts in the end.
        with storm(control_plane, cluster.path("storageformats", "orders")):
            assert exit_of(pod.gate()) == 0
        cluster.change(target="v1")
        assert exit_of(pod.gate()) == 0
        assert_holds(pod.database, "v1")
        assert "worker ended" not in sidecar.text()


def test_the_controller_in_a_storm(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, faulty: Faulty
) -> None:
    """A few requests a second, no pod evicted for a target that passes, and in the end the rollout for the last one."""
    rollout = Rollout(control_plane, namespace, replicas=2)
    rollout.make(spec__formats=FORMATS)
    controllers = Controllers(control_plane, tmp_path, server=faulty.url)
    try:
        controllers.start(namespace=namespace)
        for ordinal in range(2):
            rollout.report(ordinal, "Converted")
        soon(lambda: rollout.condition("Ready").get("status") == "True", "Ready")
        soon(lambda: all(faulty.watching(kind) for kind in KINDS), "the watches are there")
        pods = [rollout.uid(ordinal) for ordinal in range(2)]
        asked = len(faulty.seen)
        path = f"/apis/storageformat.dev/v1alpha1/namespaces/{namespace}/storageformats/orders"
        with storm(control_plane, path):
            pass
        made = [one.kind for one in faulty.seen[asked:]]
        assert len(made) <= 2 * EDITS, made
        assert "create pods/eviction" not in made
        assert [rollout.uid(ordinal) for ordinal in range(2)] == pods
        rollout.apply(spec__target="v3", spec__formats=FORMATS)
        for ordinal in range(2):
            rollout.report(ordinal, "RestartRequired", currentFormat="v2", reason="AppRunning")
        for ordinal in (1, 0):
            uid = rollout.uid(ordinal)
            rollout.arm(ordinal)
            rollout.gone(ordinal, uid)
            rollout.pod(ordinal, ready=False)
            rollout.report(ordinal, "Converted", currentFormat="v3", armedFor=None)
            rollout.ready(ordinal)
        soon(lambda: rollout.condition("Ready").get("status") == "True", "Ready")
        assert rollout.status()["persistedFormats"] == [{"name": "v3", "count": 2}]
    finally:
        controllers.close()
