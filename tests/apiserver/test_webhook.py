"""The webhook against the real API server: who gets to it, what is said, and its certificate in every state."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane import ApiError, Binaries, ControlPlane
from format_operator.admission import certificates
from format_operator.admission.certificates import Kept, Pair
from format_operator.api.injection import INJECTED
from tests.apiserver.another_hook import another_hook
from tests.apiserver.hooks import HOST, IMAGE, RESTRICTED, Hook, Pods, eventually, injected
from tests.apiserver.link import Link
from tests.chart.helm import Helm

DAY = timedelta(days=1)


@pytest.fixture
def hook(
    control_plane: ControlPlane, build: Callable[[str], None], tmp_path: Path
) -> Iterator[Hook]:
    build("helm")
    made = Hook(control_plane, tmp_path, Helm(Binaries.locate().path("helm"), tmp_path / "helm"))
    yield made
    made.close()


@pytest.fixture
def pods(control_plane: ControlPlane, namespace: str) -> Pods:
    """In a namespace that enforces `restricted`."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.admin.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": label}})
    return Pods(control_plane, namespace)


def pair(*, made: timedelta = timedelta(0), lasts: timedelta = DAY) -> Pair:
    """A certificate that was made so long ago."""
    return certificates.make([HOST], datetime.now(UTC) - made, lasts)


def test_who_gets_sidecar_and_gate(hook: Hook, pods: Pods, control_plane: ControlPlane) -> None:
    """Pods that ask do, under `restricted` too, in a dry run as well; the others do not even get to the webhook. Those that
    cannot be served are told why."""
    hook.configure()
    process = hook.generating()
    hook.ready(process)
    says = "there is no StorageFormat orders in this namespace"
    assert says in eventually(lambda: _said(pods, says), says)
    pods.storageformat()
    made = pods.create()
    assert injected(made)
    assert injected(pods.create(dry_run=True))
    sidecar = made["spec"]["initContainers"][0]
    assert (sidecar["image"], sidecar["args"]) == (
        *(IMAGE, ["sidecar", "--database", "orders=/data/orders.db"]),
    )
    assert sidecar["volumeMounts"][0] == {"name": "data", "mountPath": "/data"}
    assert made["metadata"]["annotations"][INJECTED]
    assert injected(pods.create("users=/data/users.db"))

    message = pods.refused(volumes=[{"name": "data", "emptyDir": {}}])
    assert 'admission webhook "inject.storageformat.dev" denied the request: pod ' in message
    assert "whose files end with the pod" in message
    said = hook.requests(process)
    assert said["injected"] == 3
    assert not injected(pods.create(None))
    elsewhere = Pods(control_plane, "kube-system")
    assert not injected(elsewhere.create(dry_run=True))
    # As somebody's template would have it that was copied from a pod.
    theirs = {key: made["spec"][key] for key in ("initContainers", "volumes")}
    again = pods.create(dry_run=True, **theirs)
    assert [len(again["spec"][key]) for key in theirs] == [len(one) for one in theirs.values()]
    assert set(hook.requests(process)) == {"injected", "refused", "present"}


def test_another_webhook_comes_after_it(hook: Hook, pods: Pods) -> None:
    """What that one put before ours is behind them in the end: the API server asks again, and they are moved."""
    hook.configure()
    process = hook.generating()
    hook.ready(process)
    asked = "orders=/data/orders.db"
    app = {**RESTRICTED, "runAsUser": 999}
    own = {"name": "own", "image": "own:1", "securityContext": app}

    def made() -> list[str]:
        pod = pods.create(asked, dry_run=True, initContainers=[own])
        return [one["name"] for one in pod["spec"]["initContainers"]]

    eventually(lambda: pods.let_in(asked))
    assert made() == ["storageformat", "storageformat-gate", "own"]
    pods.allow_everything()
    with another_hook(pods.plane, pods.namespace):
        expected = ["storageformat", "storageformat-gate", "mesh-init", "own"]
        eventually(lambda: made() == expected, "the other one is in effect")


def test_nobody_else_depends_on_it(hook: Hook, pods: Pods) -> None:
    """Without the webhook a pod that asks is not let in, and every other one is."""
    hook.configure()
    assert 'failed calling webhook "inject.storageformat.dev"' in pods.refused()
    pods.create(None)


def test_several_that_begin_at_once_agree(hook: Hook, pods: Pods) -> None:
    """On one certificate, whoever made it; it is theirs again after both were killed."""
    pods.storageformat()
    hook.configure()
    both = [hook.generating(), hook.generating(port=hook.port + 1)]
    for process in both:
        hook.ready(process)
    kept = certificates.parse(hook.secret())
    assert kept.current is not None
    assert hook.bundle() == kept.current.authority
    assert hook.shown() == hook.shown(hook.port + 1)
    eventually(pods.let_in)
    shown = hook.shown()
    for process in both:
        process.send(signal.SIGKILL)
        process.ends()
    hook.ready(hook.generating())
    assert hook.shown() == shown


def test_a_renewal_is_not_noticed(hook: Hook, pods: Pods) -> None:
    """A certificate that ends soon is replaced, authority and all, and not one pod is refused meanwhile."""
    pods.storageformat()
    hook.configure()
    old = pair(made=89 * DAY, lasts=90 * DAY)
    hook.secret(certificates.secret_data(Kept(old)))
    hook.trust(old.authority or b"")
    process = hook.generating("--settle", "2")
    hook.ready(process)
    was = hook.shown()
    eventually(pods.let_in)
    kept = certificates.parse(hook.secret())
    assert kept.previous == old
    refusals: list[str] = []

    def renewed() -> bool:
        try:
            pods.create(dry_run=True)
        except ApiError as error:
            refusals.append(error.message)
        return hook.shown() != was

    eventually(renewed, "the new certificate is shown")
    for _ in range(5):
        renewed()
    assert refusals == []
    assert hook.bundle() == _authority(hook) + (old.authority or b"")


def _authority(hook: Hook) -> bytes:
    """Who signed what the Secret holds now."""
    current = certificates.parse(hook.secret()).current
    return current.authority or b"" if current is not None else b""


def test_a_bundle_that_somebody_broke(hook: Hook, pods: Pods) -> None:
    """With another authority in it the API server does not call the webhook, and says so; the webhook mends it."""
    pods.storageformat()
    hook.configure()
    hook.ready(hook.generating())
    eventually(pods.let_in)
    (process,) = hook.processes
    process.send(signal.SIGKILL)
    process.ends()
    hook.trust(pair().authority or b"")
    process = hook.generating("--look-every", "3600")
    hook.ready(process)
    eventually(pods.let_in, "the bundle is mended at a start")
    hook.trust(pair().authority or b"")
    says = "certificate signed by unknown authority"
    assert says in eventually(lambda: _said(pods, says), says)
    pods.create(None)
    process.send(signal.SIGTERM)
    assert process.ends() == 0
    hook.ready(hook.generating())
    eventually(pods.let_in, "the bundle is mended")
    hook.trust(pair().authority or b"")
    eventually(lambda: _authority(hook) == hook.bundle())
    eventually(pods.let_in, "the bundle is mended by the one that runs")
    hook.secret({"tls.crt": "eA==", "tls.key": "eA=="})
    eventually(lambda: certificates.parse(hook.secret()).current is not None, "a new one is made")
    eventually(pods.let_in, "and trusted")


def test_a_secret_that_somebody_deleted(hook: Hook, pods: Pods) -> None:
    """The webhook may not make another one and says who can; what it shows is good, so pods are let in meanwhile. It fills
    the next one that is made."""
    pods.storageformat()
    hook.configure()
    process = hook.generating()
    hook.ready(process)
    eventually(pods.let_in)
    hook.delete_secret()
    process.says(
        "certificate problem=.*get secrets storageformat-webhook: .*helm upgrade", within=30
    )
    hook.ready(process)
    assert pods.let_in()
    hook.create_secret()
    eventually(lambda: _authority(hook) and _authority(hook) == hook.bundle())
    eventually(pods.let_in)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("path", "could not find the requested resource"),
        ("authority", "certificate signed by unknown authority"),
        ("expired", "certificate has expired"),
    ],
)
def test_a_given_certificate_that_is_wrong(hook: Hook, pods: Pods, wrong: str, says: str) -> None:
    """A pod that asks is refused with what is wrong; every other one is let in; right files heal it without a restart."""
    pods.storageformat()
    right = pair()
    shown = pair(made=2 * DAY, lasts=DAY) if wrong == "expired" else pair()
    trusted = right if wrong == "authority" else shown
    path = "/elsewhere" if wrong == "path" else "/mutate"
    hook.configure(path=path, bundle=trusted.authority)
    process = hook.given(shown)
    process.says("serving the webhook", within=30)
    assert says in eventually(lambda: _said(pods, says), says)
    pods.create(None)
    if wrong == "expired":
        assert "the certificate is valid from" in process.text()
    if wrong == "path":
        hook.configure(bundle=trusted.authority)
    else:
        hook.trust(right.authority or b"")
        hook.give(right)
    eventually(pods.let_in, "it is healed")


def _said(pods: Pods, says: str) -> str:
    """What is said of a pod that asks; empty while it is another thing: a configuration is in effect a moment later."""
    try:
        pods.create(dry_run=True)
    except ApiError as error:
        return error.message if says in error.message else ""
    return ""


def test_files_that_are_not_there_yet(hook: Hook, pods: Pods) -> None:
    """The process waits for them, not ready, and says what it waits for."""
    good = pair()
    hook.configure(bundle=good.authority)
    process = hook.start("--certificate-dir", str(hook.folder))
    process.says("certificate problem=.*No such file", within=30)
    hook.give(good)
    hook.ready(process)
    eventually(lambda: pods.let_in("orders=/data/orders.db"))


def test_the_webhook_cannot_reach_the_api_server(hook: Hook, pods: Pods) -> None:
    """A pod that leaves the path to a StorageFormat is refused with the way round, unless it was known before; one that
    says it is let in."""
    good = pair()
    for name in ("orders", "users"):
        pods.storageformat(name, spec__database__path=f"/data/{name}.db")
    hook.configure(bundle=good.authority)
    with Link(pods.plane.port) as link:
        process = hook.given(good, server=link.url)
        hook.ready(process)
        eventually(pods.let_in)
        link.down()
        message = pods.refused("users")
        assert "where the database is cannot be asked now: get storageformats users" in message
        assert "users=/PATH/OF/THE/DATABASE" in message
        assert pods.let_in("users=/data/users.db")
        assert pods.let_in("orders")
        link.up()
        eventually(lambda: pods.let_in("users"))
