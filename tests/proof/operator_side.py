"""Wrong answers of the API server at every request of a conversion and of a rollout, before a real API server.

A sidecar converts a database back and forth, a controller brings two pods from target to target, each through a proxy
of its own (``tests/apiserver/faulty.py``). In each case requests of one kind meet one fault: the first one, the second,
all for some seconds, or all. Then the API server is well again, and everything must come right by itself.
"""

from __future__ import annotations

import io
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from controlplane import ControlPlane
from controlplane.client import wait_until
from tests.apiserver.controllers import SYSTEM, Controllers, Rollout
from tests.apiserver.faulty import OF_REQUESTS, OF_WATCHES, Fault, Faulty, Rule
from tests.apiserver.sidecars import (
    DEPLOY,
    FORMATS,
    RECORDS,
    Cluster,
    Sidecar,
    assert_holds,
    exit_of,
    state_of,
    wanted,
)
from tests.proof.report import Report
from tests.support.controlplane import wait_for_policy
from tests.support.databases import records_on_disk

PATIENCE: Final = 60.0
SUCCEEDED: Final = 'storageformat_conversions_total{result="succeeded"}'
#: While a fault goes on: longer than any first retry, shorter than ``--api-wait``.
SOME_SECONDS: Final = 2.5

AT_GATE: Final = ("get storageformats", "get formatstates", "patch formatstates/status")
SIDECAR_WATCHES: Final = ("storageformats", "formatstates")
AT_START: Final = (*AT_GATE, "create formatstates", "list storageformats", "list formatstates")
CONTROLLER: Final = (
    "get formatstates", "patch formatstates", "create pods/eviction",
    "patch storageformats/status", "create events", "get leases", "update leases",
)  # fmt: skip
CONTROLLER_KINDS: Final = (
    "storageformats", "formatstates", "pods", "persistentvolumeclaims", "statefulsets", "deployments",
    "daemonsets", "replicasets",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """``times`` requests of ``kind`` after the first ``after`` meet the fault; None: all, for ``seconds``."""

    kind: str
    fault: Fault
    after: int = 0
    times: int | None = 1
    seconds: float = 0.0
    restart: bool = False

    @property
    def goes_on(self) -> bool:
        """For longer than the sidecar waits for the API."""
        return self.times is None and not self.seconds


@dataclass(frozen=True)
class Found:
    """``lost``: what was not as promised, in words; ``met``: whether the fault came to pass at all."""

    case: Case
    lost: str = ""
    met: bool = True


class Stage:
    """A process behind a proxy, and what its log must not have."""

    faulty: Faulty
    rule: Rule

    def play(self, case: Case) -> Found:
        self.faulty.heal()
        self.before(case)
        at = len(self.log())
        self.rule = self.faulty.fail(case.fault, case.kind, after=case.after, times=case.times)
        well = threading.Timer(case.seconds, self.faulty.heal)
        if case.seconds:
            well.start()
        try:
            self.act(case)
        except (AssertionError, TimeoutError) as error:
            return Found(case, f"{type(error).__name__}: {error}", self._is_met(case))
        finally:
            well.cancel()
            self.faulty.heal()
        return Found(case, self.trouble(at), self._is_met(case))

    def before(self, case: Case) -> None: ...
    def act(self, case: Case) -> None: ...
    def log(self) -> str:
        raise NotImplementedError

    def _is_met(self, case: Case) -> bool:
        return self.rule.met > case.after

    def trouble(self, at: int) -> str:
        """What the log must not have, of what it got since."""
        text = self.log()[at:]
        for word in ("Traceback", "internal error", "worker ended", "a part of the"):
            if word in text:
                _, _, rest = text.partition(word)
                return f"the log has {word!r}{rest[:300]!r}"
        return ""


class SidecarStage(Stage, AbstractContextManager["SidecarStage"]):
    """One pod whose database is converted between v2 and v3, at one gate after the other."""

    def __init__(
        self, plane: ControlPlane, folder: Path, name: str, *, api_wait: float, program: str = ""
    ) -> None:
        self._plane, self._folder, self._name, self._api_wait = plane, folder, name, api_wait
        self._program = program
        self._target = "v2"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.faulty = self._stack.enter_context(Faulty(self._plane))
        namespace = self._plane.create_namespace(self._name)
        self.cluster = self._stack.enter_context(
            Cluster(self._plane, namespace, self._folder, self.faulty.url)
        )
        self.pod = self.cluster.pod(api_wait=f"{self._api_wait:g}", resync="3600")
        self.cluster.create(wanted(self.pod))
        self._start()
        self._convert()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def log(self) -> str:
        return self.sidecar.text()

    def before(self, case: Case) -> None:
        self._converted = self.conversions()
        if case.restart:
            self.sidecar.kill_container()
            if case.kind == "create formatstates":
                self._plane.admin.delete(self.cluster.path("formatstates", state_of(self.pod)))
        else:
            wait_until(self._watches, timeout=PATIENCE, what="the watches are there")
        self._target = "v3" if self._target == "v2" else "v2"

    def act(self, case: Case) -> None:
        if case.kind.startswith(("watch", "list")) and not case.restart:
            if case.kind.startswith("list"):
                self.faulty.fail(Fault.WATCH_EXPIRED, case.kind.replace("list", "watch"))
            self.faulty.cut()
            self.cluster.change(target=self._target)
            # Nobody asks for an hour: the watch has to tell, before a gate does.
            self._reports("RestartRequired")
            self._convert()
            wait_until(self._watches, timeout=PATIENCE, what="the watches are there")
            return
        self.cluster.change(target=self._target)
        if case.restart:
            self._start()
        gate = self.pod.gate()
        if case.goes_on:
            assert exit_of(gate) == 0
            assert records_on_disk(self.pod.database) == RECORDS
            wait_until(lambda: self._is_met(case), timeout=PATIENCE, what="the fault")
            self.faulty.heal()
            self._convert()
            return
        self._opened(gate)
        assert self.conversions() == self._converted + 1, "converted more than once"
        wait_until(self._watches, timeout=PATIENCE, what="the watches are there")

    def conversions(self) -> float:
        return self.sidecar.metrics().get(SUCCEEDED, 0.0)

    def _start(self) -> None:
        self.sidecar: Sidecar = self.cluster.sidecar(self.pod, program=self._program)
        assert self.sidecar.port

    def _convert(self) -> None:
        self._opened(self.pod.gate())

    def _opened(self, gate: Any) -> None:
        assert exit_of(gate) == 0
        assert_holds(self.pod.database, self._target)
        self._reports("Converted")

    def _reports(self, phase: str) -> None:
        expected = {"phase": phase, "targetFormat": self._target, "gate": "Open"}

        def said() -> bool:
            status = self.cluster.status(state_of(self.pod))
            return all(status.get(key) == value for key, value in expected.items())

        wait_until(said, timeout=PATIENCE, what=f"it reports {expected}")

    def _watches(self) -> bool:
        return all(self.faulty.watching(plural) for plural in SIDECAR_WATCHES)


class ControllerStage(Stage, AbstractContextManager["ControllerStage"]):
    """A controller that brings two pods, which only the objects know, from target to target."""

    REPLICAS: Final = 2

    def __init__(self, plane: ControlPlane, folder: Path, name: str) -> None:
        self._plane, self._folder, self._name = plane, folder, name
        self._target = "v2"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.faulty = self._stack.enter_context(Faulty(self._plane))
        namespace = self._plane.create_namespace(self._name)
        self._folder.mkdir()
        self.controllers = Controllers(self._plane, self._folder, server=self.faulty.url)
        self._stack.callback(self.controllers.close)
        self.rollout = Rollout(self._plane, namespace, self.REPLICAS)
        self.rollout.make(spec__formats=FORMATS)
        self._start()
        self._roll_out("v1")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def log(self) -> str:
        return "".join(one.text() for one in self.controllers.processes)

    def before(self, case: Case) -> None:
        if case.restart:
            self.controllers.close()
        else:
            wait_until(self._watches, timeout=PATIENCE, what="the watches are there")

    def act(self, case: Case) -> None:
        old, self._target = self._target, "v3" if self._target == "v2" else "v2"
        if case.restart:
            self._start()
        elif case.kind.startswith("watch"):
            self.faulty.cut()
        self.rollout.apply(spec__target=self._target, spec__formats=FORMATS)
        self._roll_out(old)
        assert all(one.is_running for one in self.controllers.processes[-1:]), "it ended"

    def _start(self) -> None:
        # Left by one that was killed, the Lease would have to run out first.
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{self._name}"
        if self._plane.admin.exists(lease):
            self._plane.admin.delete(lease)
        self.controllers.start(namespace=self.rollout.namespace, lease=self._name)

    def _roll_out(self, old: str) -> None:
        rollout = self.rollout
        for ordinal in range(self.REPLICAS):
            rollout.report(ordinal, "RestartRequired", currentFormat=old, reason="AppRunning")
        for ordinal in reversed(range(self.REPLICAS)):
            uid = rollout.uid(ordinal)
            others = {one: rollout.uid(one) for one in range(self.REPLICAS) if one != ordinal}
            rollout.arm(ordinal)
            assert [one for one in rollout.permitted() if one < ordinal] == [], "out of order"
            rollout.gone(ordinal, uid)
            rollout.pod(ordinal, ready=False)
            rollout.report(ordinal, "Converted", currentFormat=self._target, armedFor=None)
            rollout.ready(ordinal)
            assert others == {one: rollout.uid(one) for one in others}, "more were evicted"
        wait_until(self._is_complete, timeout=PATIENCE, what="the rollout is complete")

    def _is_complete(self) -> bool:
        found = self.rollout.storageformat()
        status = found.get("status") or {}
        ready = self.rollout.condition("Ready")
        return (
            ready.get("status") == "True"
            and ready.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("converted") == self.REPLICAS
        )

    def _watches(self) -> bool:
        return all(self.faulty.watching(plural) for plural in CONTROLLER_KINDS)


# --- what is tried ----------------------------------------------------------------------------------------


def sidecar_cases() -> Iterator[Case]:
    """Once each, at a gate and at a start; then for some seconds."""
    for kind, fault in product(AT_GATE, (*OF_REQUESTS, Fault.DRIPS)):
        yield Case(kind, fault)
        if fault is not Fault.DRIPS:
            yield Case(kind, fault, times=None, seconds=SOME_SECONDS)
    for plural in SIDECAR_WATCHES:
        yield from (Case(f"watch {plural}", fault) for fault in OF_WATCHES)
        yield from (Case(f"list {plural}", fault) for fault in OF_REQUESTS)
    yield from (Case(kind, fault, restart=True) for kind, fault in product(AT_START, OF_REQUESTS))
    for after, fault in product(range(4), OF_REQUESTS):
        yield Case("get discovery", fault, after=after, restart=True)


def lasting_cases() -> Iterator[Case]:
    """Without an end, for a sidecar that waits a second for the API."""
    yield from (Case(kind, fault, times=None) for kind, fault in product(AT_GATE, OF_REQUESTS))


def controller_cases() -> Iterator[Case]:
    for kind, fault in product(CONTROLLER, OF_REQUESTS):
        yield Case(kind, fault)
        yield Case(kind, fault, times=None, seconds=SOME_SECONDS)
    for plural in CONTROLLER_KINDS:
        yield from (Case(f"watch {plural}", fault) for fault in OF_WATCHES)
        yield from (Case(f"list {plural}", fault, restart=True) for fault in OF_REQUESTS)
    for after, fault in product(range(4), OF_REQUESTS):
        yield Case("get discovery", fault, after=after, restart=True)


def sample(cases: Iterable[Case], count: int, seed: int, **attributes: Any) -> list[Case]:
    """So many of those with these attributes, as the seed has it."""
    found = [
        one for one in cases if all(getattr(one, key) == value for key, value in attributes.items())
    ]
    return random.Random(seed).sample(found, count)


def long(report: Report) -> None:
    """Every case."""
    with ControlPlane.started() as plane, tempfile.TemporaryDirectory() as folder:
        plane.install(DEPLOY)
        wait_for_policy(plane)
        place = Path(folder)
        _run(
            report,
            "sidecar",
            SidecarStage(plane, place / "a", "proof-a", api_wait=40),
            sidecar_cases(),
        )
        _run(
            report,
            "sidecar, no end",
            SidecarStage(plane, place / "b", "proof-b", api_wait=1),
            lasting_cases(),
        )
        _run(
            report, "controller", ControllerStage(plane, place / "c", "proof-c"), controller_cases()
        )


def _run(report: Report, what: str, stage: Any, cases: Iterable[Case]) -> None:
    begun = time.monotonic()
    found: list[Found] = []
    with ExitStack() as stack:
        # The pods' logs, for tests that fail.
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(stage)
        for case in cases:
            found.append(stage.play(case))
            if found[-1].lost:
                report.progress(f"{case}: {found[-1].lost}\n{stage.log()[-2000:]}")
    unmet = Counter(one.case.kind for one in found if not one.met)
    note = ", ".join(f"{count} {kind}" for kind, count in unmet.items())
    report.add(
        "operator side", f"wrong answers to the {what}", len(found),
        sum(bool(one.lost) for one in found), time.monotonic() - begun, f"not met: {note}" if note else "",
    )  # fmt: skip
