"""A real API server for any test that asks for one, with the product's manifests applied.

``control_plane`` is one for the whole run (it takes three seconds); each test gets a namespace of
its own in it. ``bare_control_plane`` is one for a single test, with nothing applied: for tests that
stop it, or begin without CRDs.
"""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from controlplane import ApiError, Binaries, BinariesUnavailable, Client, ControlPlane
from controlplane.client import wait_until
from format_operator.api.names import API_VERSION, KIND_FORMATSTATE
from tests.support.requirements import unavailable

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="session")
def build(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Have a program of the control plane ready, or skip; its progress is shown while it builds."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def build_now(name: str) -> None:
        try:
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                Binaries.locate().path(name)
        except BinariesUnavailable as error:
            unavailable(f"needs a Kubernetes API server: {error}")

    return build_now


@pytest.fixture(scope="session")
def binaries(build: Callable[[str], None]) -> Binaries:
    """The programs that every control plane consists of."""
    for name in ("pki", "etcd", "kube-apiserver"):
        build(name)
    return Binaries.locate()


@pytest.fixture(scope="session")
def control_plane(
    binaries: Binaries,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ControlPlane]:
    """The control plane that tests share, with everything of ``deploy/`` in effect."""
    plane = started(tmp_path_factory.mktemp("controlplane"), binaries)
    try:
        plane.install(DEPLOY)
        wait_for_policy(plane)
        yield plane
    finally:
        stopped(plane, request)


@pytest.fixture
def bare_control_plane(
    binaries: Binaries, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[ControlPlane]:
    """A control plane of one test's own, to which nothing has been applied."""
    plane = started(tmp_path / "controlplane", binaries)
    try:
        yield plane
    finally:
        stopped(plane, request)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A namespace of this test's own."""
    return control_plane.create_namespace(f"t-{uuid.uuid4().hex[:10]}")


@pytest.fixture
def admin(control_plane: ControlPlane) -> Client:
    """Somebody who may do everything."""
    return control_plane.admin


def started(directory: Path, binaries: Binaries) -> ControlPlane:
    plane = ControlPlane(directory, binaries)
    try:
        plane.start()
    except BaseException:
        plane.stop()
        raise
    return plane


def stopped(plane: ControlPlane, request: pytest.FixtureRequest) -> None:
    plane.stop()
    shutil.rmtree(plane.directory / "etcd", ignore_errors=True)
    if request.session.testsfailed:
        sys.stderr.write(f"\ncontrol plane: logs are kept in {plane.directory}\n")
    else:
        shutil.rmtree(plane.directory, ignore_errors=True)


def wait_for_policy(plane: ControlPlane) -> None:
    """An admission policy is in effect a moment after it was applied; tests must not be before."""
    namespace = plane.create_namespace("policy-probe")
    plane.create_service_account(namespace, "probe")
    nobody = plane.client(plane.token(namespace, "probe"))
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/formatstates"

    def denied() -> bool:
        name = f"probe.{uuid.uuid4().hex[:8]}"
        body = {"apiVersion": API_VERSION, "kind": KIND_FORMATSTATE, "metadata": {"name": name}}
        try:
            nobody.create(path, body)
        except ApiError as error:
            return "bound to a pod" in error.message
        return False

    wait_until(denied, what="the admission policy denies an unbound token")
