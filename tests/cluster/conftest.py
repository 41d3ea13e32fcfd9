"""A real one-node cluster for the tests of this folder, with the product's image loaded.

``cluster`` is one for the whole run; each test gets a namespace of its own in it, which enforces
the pod security standard ``restricted``. ``another_cluster`` is one of a single test's own.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cluster import Cluster, ClusterUnavailable, images, machine
from controlplane import Binaries, BinariesUnavailable
from controlplane.binaries import CLUSTER
from tests.cluster.operator import Operator
from tests.cluster.shop import Shop
from tests.support.requirements import unavailable


@pytest.fixture(scope="session")
def archives(request: pytest.FixtureRequest) -> list[Path]:
    """The images of this checkout; what is missing is built, and that is shown. Or skips."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    try:
        machine.require()
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            for name in CLUSTER:
                Binaries.locate().path(name)
            return [images.pause(), images.product()]
    except (ClusterUnavailable, BinariesUnavailable) as error:
        unavailable(f"needs a Kubernetes node: {error}")
        raise


@pytest.fixture(scope="session")
def cluster(archives: list[Path], request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster that tests share; its logs are kept when a test has failed."""
    one = Cluster.up(f"tests-{os.getpid()}", archives)
    yield one
    one.down(keep_logs=request.session.testsfailed > 0)


@pytest.fixture
def another_cluster(archives: list[Path]) -> Iterator[Cluster]:
    """A cluster of one test's own, for what would disturb others."""
    with Cluster.started(f"own-{uuid.uuid4().hex[:6]}", archives) as one:
        yield one


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own; what was going on in it is shown when the test has failed."""
    failed_before = request.session.testsfailed
    name = cluster.create_namespace(f"t-{uuid.uuid4().hex[:10]}")
    yield name
    if request.session.testsfailed > failed_before:
        sys.stderr.write(cluster.describe(name))
    cluster.delete_namespace(name, wait=False)


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> Operator:
    """The operator, installed by Helm once for all tests that share the cluster."""
    installed = Operator(cluster)
    installed.install()
    return installed


@pytest.fixture
def shop(
    cluster: Cluster, operator: Operator, namespace: str, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    """The example app, in a namespace of its own; not open yet."""
    failed_before = request.session.testsfailed
    made = Shop(cluster, namespace, images.PRODUCT)
    yield made
    if request.session.testsfailed > failed_before:
        sys.stderr.write(made.describe())
        sys.stderr.write(operator.logs())
