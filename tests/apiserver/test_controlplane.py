"""The harness itself: what the tests of an outage rely on."""

from __future__ import annotations

import json

import pytest

from controlplane import ControlPlane
from tests.support.objects import storageformat


@pytest.mark.parametrize("hard", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_the_apiserver_comes_back_as_it_was(bare_control_plane: ControlPlane, hard: bool) -> None:
    """Stopped, nobody answers; started again, address, tokens and objects are the same."""
    plane = bare_control_plane
    plane.create_namespace("before")
    plane.create_service_account("before", "someone")
    token = plane.token("before", "someone")
    server = plane.server
    plane.stop_apiserver(hard=hard)
    with pytest.raises(OSError, match="refused"):
        plane.admin.get("/readyz")
    plane.start_apiserver()
    assert plane.server == server
    assert plane.admin.exists("/api/v1/namespaces/before")
    assert plane.client(token).get("/version")["gitVersion"].startswith("v1.")


def test_the_kubeconfig_is_our_own(control_plane: ControlPlane, namespace: str) -> None:
    """kubectl works on this control plane and validates fields strictly, as a person's would."""
    body = storageformat()
    body["spec"]["unmarkt"] = ["v1"]
    done = control_plane.kubectl(
        "create", "-n", namespace, "-f", "-", stdin=json.dumps(body), check=False
    )
    assert done.returncode != 0
    assert 'unknown field "spec.unmarkt"' in done.stderr
