"""The charts before a real API server: it takes everything, releases come and go, pods pass `restricted`."""

from __future__ import annotations

import base64
import re
import shlex
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import ApiError, ControlPlane
from controlplane.crds import delete_crds
from format_operator import render
from format_operator.api.models import StorageFormat
from format_operator.api.names import API_VERSION
from format_operator.snippet import SnippetOptions, snippet
from tests.chart.helm import NAMESPACE, OPERATOR, ROOT, Helm, of_kind, only
from tests.chart.matrix import MATRIX
from tests.support.objects import storageformat

Judge = Callable[[str], subprocess.CompletedProcess[str]]

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def restricted(plane: ControlPlane) -> str:
    """A namespace that enforces the pod security standard `restricted`."""
    name = f"r-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.admin.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    return name


@pytest.fixture
def released(plane: ControlPlane, helm: Helm, kubeconfig: Path) -> Iterator[Callable[..., str]]:
    """Installs or upgrades a release; what is left of them goes with the test."""
    names: set[tuple[str, str]] = set()

    def release(
        *more: str,
        name: str = "storageformat",
        chart: Path = OPERATOR,
        namespace: str = NAMESPACE,
    ) -> str:
        names.add((name, namespace))
        return helm.run(
            *("upgrade", "--install", name, str(chart), "--namespace", namespace),
            *("--create-namespace", f"--kubeconfig={kubeconfig}", *more),
        ).stdout

    yield release
    for name, namespace in names:
        helm.run(
            *("uninstall", name, "--namespace", namespace, "--ignore-not-found"),
            f"--kubeconfig={kubeconfig}",
        )
    delete_crds(plane.admin)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_everything_rendered_is_accepted(
    plane: ControlPlane, helm: Helm, dry_run: Judge, values: dict[str, Any]
) -> None:
    """A server-side dry run of all objects, unknown fields refused."""
    if not plane.admin.exists(f"/api/v1/namespaces/{NAMESPACE}"):
        plane.create_namespace(NAMESPACE)
    done = dry_run(helm.text(values))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert len(done.stdout.splitlines()) == len(helm.template(values))


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_the_pods_pass_restricted(
    plane: ControlPlane, helm: Helm, restricted: str, values: dict[str, Any]
) -> None:
    """Controller, webhook and test pod are let into a namespace that enforces `restricted`."""
    found = helm.template(values)
    template = only(found, "Deployment")["spec"]["template"]["spec"]
    webhooks = of_kind(found, "Deployment", webhook=True)
    others = [one["spec"]["template"]["spec"] for one in webhooks]
    for spec in (template, only(found, "Pod")["spec"], *others):
        let_in(plane, restricted, {"spec": spec})


def let_in(plane: ControlPlane, namespace: str, template: dict[str, Any]) -> dict[str, Any]:
    """Raises ApiError where the pod is not admitted."""
    metadata = {"name": "probe", **template.get("metadata", {})}
    # Both are admission plugins' work elsewhere.
    spec = {"serviceAccountName": "default", **template["spec"]}
    spec.pop("priorityClassName", None)
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict"
    return plane.admin.create(path, body)


@pytest.mark.parametrize("uid", [None, 999])
def test_a_pod_with_the_snippet_passes_restricted(
    plane: ControlPlane, restricted: str, uid: int | None
) -> None:
    """An app that is `restricted` stays so with sidecar and gate; with uid 0 it does not."""
    app = {
        "name": "app",
        "image": "app:1",
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    context = snippet(SnippetOptions("i:1", {"a": "/data/a.db"}))["initContainers"][1]
    app["securityContext"] = context["securityContext"]

    def pod(run_as: int | None) -> dict[str, Any]:
        spec: dict[str, Any] = snippet(
            SnippetOptions("i:1", {"a": "/data/a.db"}, run_as_user=run_as, migrations="a-v2")
        )
        data = {"name": "data", "emptyDir": {}}
        return {"spec": {**spec, "containers": [app], "volumes": [data, *spec["volumes"]]}}

    let_in(plane, restricted, pod(uid))
    with pytest.raises(ApiError, match="restricted"):
        let_in(plane, restricted, pod(0))


def test_the_example_is_accepted(plane: ControlPlane, dry_run: Judge, restricted: str) -> None:
    """`kubectl apply -k examples/orders` is taken as it is, and its pods pass `restricted`."""
    text = plane.kubectl("kustomize", str(ROOT / "examples/orders")).stdout
    done = dry_run(text)
    assert done.returncode == 0, done.stderr
    workload = only(list(yaml.safe_load_all(text)), "StatefulSet")
    template = workload["spec"]["template"]
    claimed = [{"name": "data", "persistentVolumeClaim": {"claimName": "data-orders-0"}}]
    template["spec"]["volumes"] += claimed
    pod = let_in(plane, restricted, template)
    assert [one["name"] for one in pod["spec"]["initContainers"]] == [
        "storageformat",
        "storageformat-gate",
    ]


def test_a_patch_comes_first(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str], restricted: str
) -> None:
    """Patched into a workload, sidecar and gate stand before the init containers that it had."""
    render.main(
        ["sidecar", "--database", "o=/data/o.db", "-o", "patch", "--for", "statefulset/orders"]
    )
    patch = capsys.readouterr().out
    workload = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "orders"},
        "spec": {
            "serviceName": "orders",
            "selector": {"matchLabels": {"app": "orders"}},
            "template": {
                "metadata": {"labels": {"app": "orders"}},
                "spec": {
                    "initContainers": [{"name": "own", "image": "x"}],
                    "containers": [{"name": "app", "image": "x"}],
                    "volumes": [{"name": "data", "emptyDir": {}}],
                },
            },
        },
    }
    path = f"/apis/apps/v1/namespaces/{restricted}/statefulsets"
    plane.admin.create(path, workload)
    plane.admin.patch(
        f"{path}/orders",
        yaml.safe_load(patch),
        content_type="application/strategic-merge-patch+json",
    )
    spec = plane.admin.get(f"{path}/orders")["spec"]["template"]["spec"]
    names = [one["name"] for one in spec["initContainers"]]
    assert names == ["storageformat", "storageformat-gate", "own"]


def test_the_notes_say_the_next_step(
    released: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What an install prints can be done: the command renders, the StorageFormat is one."""
    notes = released("--set", "image.tag=t")
    command = re.search(r"kubectl exec .*?(?=\n\n)", notes, re.DOTALL)
    assert command is not None
    words = shlex.split(command[0].replace("\\\n", " "))
    assert words[2:5] == ["--namespace", NAMESPACE, "deploy/storageformat-operator"]
    assert words[6:8] == ["storageformat", "render"]
    assert render.main(words[8:]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["initContainers"][0]["image"] == "storageformat-operator:t"
    text = re.search(r"<<END\n(.*?)\n *END", notes, re.DOTALL)
    assert text is not None
    parsed = StorageFormat.from_object(yaml.safe_load(text[1]), strict=True)
    assert parsed.spec.target_format.name == "v2"


@pytest.mark.parametrize("namespaces", [(), ("shop",)], ids=["cluster-wide", "namespaced"])
def test_everybody_may_do_their_work_and_no_more(
    plane: ControlPlane, released: Callable[..., str], namespaces: tuple[str, ...]
) -> None:
    """An installed release lets the controller and the sidecars do what they do, where they shall."""
    for name in ("shop", "office"):
        if not plane.admin.exists(f"/api/v1/namespaces/{name}"):
            plane.create_namespace(name)
    released(*(("--set", "watchNamespaces={" + ",".join(namespaces) + "}") if namespaces else ()))
    controller = ("system:serviceaccount:" + NAMESPACE + ":storageformat-operator", ())

    def sidecar(namespace: str) -> tuple[str, tuple[str, ...]]:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        return f"system:serviceaccount:{namespace}:default", groups

    def may(who: tuple[str, tuple[str, ...]], verb: str, resource: str, namespace: str) -> bool:
        user, groups = who
        group, rest = resource.split("/", 1)
        plural, _, subresource = rest.partition("/")
        attributes = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
        spec = {
            "user": user,
            "groups": list(groups),
            "resourceAttributes": {**attributes, "subresource": subresource},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        review = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
        return bool(plane.admin.create(path, {**review, "spec": spec})["status"]["allowed"])

    ours = "storageformat.dev"
    for verb, resource in (
        ("patch", f"{ours}/storageformats/status"),
        ("manage", f"{ours}/formatstates"),
        ("create", "/pods/eviction"),
        ("watch", "apps/statefulsets"),
    ):
        assert may(controller, verb, resource, "shop"), (verb, resource)
        assert may(controller, verb, resource, "office") is (not namespaces), (verb, resource)
    assert may(controller, "update", "coordination.k8s.io/leases", NAMESPACE)
    assert not may(controller, "update", "coordination.k8s.io/leases", "shop")
    assert not may(controller, "delete", "/pods", "shop")
    assert not may(controller, "get", "/secrets", "shop")
    assert may(sidecar("shop"), "patch", f"{ours}/formatstates/status", "shop")
    assert may(sidecar("office"), "patch", f"{ours}/formatstates/status", "office") is (
        not namespaces
    )
    assert not may(sidecar("shop"), "patch", f"{ours}/formatstates", "shop")
    webhook = (f"system:serviceaccount:{NAMESPACE}:storageformat-operator-webhook", ())
    assert may(webhook, "get", f"{ours}/storageformats", "shop")
    assert may(webhook, "get", f"{ours}/storageformats", "office") is (not namespaces)
    # Its own by their names only.
    assert not may(webhook, "get", "/secrets", NAMESPACE)
    configurations = "admissionregistration.k8s.io/mutatingwebhookconfigurations"
    assert not may(webhook, "patch", configurations, "")


def test_an_upgrade_leaves_the_webhooks_certificate(
    plane: ControlPlane, released: Callable[..., str]
) -> None:
    """What the webhook has written into its Secret and its configuration is there after an upgrade."""
    name = "storageformat-operator-webhook"
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"
    hook = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
    released()
    plane.admin.patch(secret, {"data": {"tls.key": "eA=="}})
    bundle = plane.ca_file.read_bytes()
    written = base64.b64encode(bundle).decode()
    change = {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": written}
    plane.admin.patch(hook, [change], content_type="application/json-patch+json")
    released("--set", "webhook.timeoutSeconds=9")
    (one,) = plane.admin.get(hook)["webhooks"]
    assert (one["timeoutSeconds"], one["clientConfig"]["caBundle"]) == (9, written)
    assert plane.admin.get(secret)["data"] == {"tls.key": "eA=="}


def test_the_policy_of_a_release_is_in_effect(
    plane: ControlPlane, released: Callable[..., str], restricted: str
) -> None:
    """An installed release's policy denies a token that belongs to no pod, in its namespaces only."""
    elsewhere = plane.create_namespace(f"e-{uuid.uuid4().hex[:8]}")
    released("--set", "watchNamespaces={" + restricted + "}", "--set", "rbac.create=true")
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for namespace in (restricted, elsewhere):
        plane.create_service_account(namespace, "nobody")
        plane.kubectl(
            *("create", "rolebinding", "all", "--clusterrole=cluster-admin"),
            *(f"--serviceaccount={namespace}:nobody", "--namespace", namespace),
        )

    def create(namespace: str) -> str:
        # cluster-admin has the verb `manage`, too, unless it is somebody else's namespace
        client = plane.client(plane.token(namespace, "nobody"))
        body = {"apiVersion": API_VERSION, "kind": "FormatState", "metadata": {"name": "a.b"}}
        path = f"/apis/{API_VERSION}/namespaces/{namespace}/formatstates?dryRun=All"
        try:
            client.create(path, body)
        except ApiError as error:
            return error.message
        return ""

    # Who may do everything may `manage`: the policy lets the controller by, and whoever is like it.
    assert create(restricted) == ""
    assert create(elsewhere) == ""
    plane.kubectl("delete", "rolebinding", "all", "--namespace", restricted)
    plane.kubectl("wait", "--for=delete", "rolebinding/all", "-n", restricted, "--timeout=10s")
    assert denied_soon(lambda: create(restricted), "bound to a pod of the same namespace")


def denied_soon(call: Callable[[], str], says: str) -> bool:
    """A policy is in effect a moment after it was applied."""
    from controlplane.client import wait_until

    return bool(wait_until(lambda: says in call(), timeout=20, what=says))


def test_crds_upgrade_with_the_release_and_survive_it(
    plane: ControlPlane,
    released: Callable[..., str],
    helm: Helm,
    kubeconfig: Path,
    tmp_path: Path,
) -> None:
    """An upgrade brings the CRDs of its release; an uninstall leaves them and what people made; a reinstall takes over."""
    old = tmp_path / "old"
    shutil.copytree(OPERATOR, old)
    crd = old / "files/crds/storageformats.yaml"
    # As an older release would have it: without a column and a field.
    text = crd.read_text()
    assert "onFailure:" in text
    document = yaml.safe_load(text)
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["onFailure"]
    crd.write_text(yaml.safe_dump(document))
    metadata = old / "Chart.yaml"
    metadata.write_text(metadata.read_text().replace("0.1.0", "0.0.9"))

    def served() -> set[str]:
        found = plane.admin.get(f"{CRDS}/storageformats.storageformat.dev")
        version = found["spec"]["versions"][0]
        return set(version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])

    released(chart=old)
    assert "onFailure" not in served()
    released()
    assert "onFailure" in served()
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    path = f"/apis/{API_VERSION}/namespaces/default/storageformats"
    plane.admin.create(path, storageformat())
    helm.run(
        *("uninstall", "storageformat", "--namespace", NAMESPACE, f"--kubeconfig={kubeconfig}")
    )
    assert "onFailure" in served()
    assert plane.admin.exists(f"{path}/orders")
    assert not of_kind(
        plane.admin.list(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"), "Deployment"
    )
    released()
    plane.admin.delete(f"{path}/orders")
    assert not plane.admin.exists(f"{path}/orders")


def test_two_namespaced_releases_side_by_side(
    plane: ControlPlane, released: Callable[..., str]
) -> None:
    """Two teams install their own, one of them with the CRDs."""
    for name in ("left", "right"):
        if not plane.admin.exists(f"/api/v1/namespaces/{name}"):
            plane.create_namespace(name)
    released("--set", "watchNamespaces={left}", namespace="left", name="left")
    released(
        *("--set", "watchNamespaces={right}", "--set", "crds.create=false"),
        namespace="right",
        name="right",
    )
    for name in ("left", "right"):
        path = f"/apis/apps/v1/namespaces/{name}/deployments/{name}-storageformat-operator"
        assert plane.admin.exists(path)


class Healthy(BaseHTTPRequestHandler):
    """A controller, as far as `helm test` asks it."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # its name there
        pass


def test_helm_test_looks_at_both(
    plane: ControlPlane, helm: Helm, released: Callable[..., str], tmp_path: Path
) -> None:
    """The test pod's program passes where controller and CRDs are, and fails where one of them is not."""
    command = only(helm.template(), "Pod")["spec"]["containers"][0]["command"]
    assert command[:2] == ["python", "-c"]
    shutil.copy(plane.ca_file, tmp_path / "ca.crt")
    account = plane.create_namespace(f"h-{uuid.uuid4().hex[:8]}")
    plane.create_service_account(account, "test")
    (tmp_path / "token").write_text(plane.token(account, "test"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def program(port: int) -> subprocess.CompletedProcess[str]:
        name = command[3].upper().replace("-", "_")
        return subprocess.run(
            [sys.executable, "-c", command[2], command[3], str(port), str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            env={
                f"{name}_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": str(plane.port),
            },
        )

    try:
        assert program(server.server_port).returncode != 0, "there are no CRDs yet"
        released()
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        done = program(server.server_port)
        assert (done.returncode, done.stderr) == (0, "")
        assert "served: formatstates, formatstates/status, storageformats" in done.stdout
    finally:
        server.shutdown()
        server.server_close()
    assert program(server.server_port).returncode != 0
