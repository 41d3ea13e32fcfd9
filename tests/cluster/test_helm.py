"""A release's life on a real cluster: upgraded from an older chart and values, removed, installed again, namespaced."""

from __future__ import annotations

import json
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cluster import Cluster, images
from controlplane.client import Object
from controlplane.crds import delete_crds
from format_operator.api.names import API_VERSION, GROUP
from tests.cluster.operator import CHART, DEPLOYMENT, SYSTEM
from tests.cluster.shop import Shop, Writer, eventually, in_parallel, is_ready, writing

RELEASE: Final = "storageformat"
CRDS: Final = (f"storageformats.{GROUP}", f"formatstates.{GROUP}")
OLD: Final = "sqlitedict(natural pickle)"
NEW: Final = "sqlitedict(hierarchical msgpack zstd)"
WEBHOOK_PARTS: Final = ("certificate", "configuration", "deployment", "rbac", "service")
#: What "came later" than the older chart: values, the templates that need them, and a field of the API.
LATER_VALUES: Final = (
    "networkPolicy",
    "podDisruptionBudget",
    "topologySpreadConstraints",
    "webhook",
)
LATER_TEMPLATES: Final = (
    *("networkpolicy.yaml", "poddisruptionbudget.yaml", "NOTES.txt"),
    *(f"webhook-{part}.yaml" for part in WEBHOOK_PARTS),
)
LATER_FIELD: Final = "failureBudget"

# An older sidecar. There is no earlier release whose image could be run, so it is today's whose report lacks all
# that is not needed to convert: it does not say which protocol it speaks (the first ones did not: version 1),
# which release it is, where it runs, whether its gate is open, what it did last, and what backups it keeps.
_OLDER_SIDECAR: Final = """
import sys
if "sidecar-worker" in sys.orig_argv:
    from dataclasses import replace
    from format_operator.sidecar import status
    today = status.build
    later = (
        "api_version", "sidecar_version", "node_name", "gate", "restart_required",
        "last_conversion", "last_recovery", "backup", "progress", "databases",
    )
    status.build = lambda *facts: replace(today(*facts), **dict.fromkeys(later))
"""


@pytest.fixture(scope="module")
def elsewhere(archives: list[Path], request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of this file's own: CRDs and ClusterRoles come and go in it."""
    failed_before = request.session.testsfailed
    one = Cluster.up(f"helm-{uuid.uuid4().hex[:6]}", archives)
    yield one
    one.down(keep_logs=request.session.testsfailed > failed_before)


@pytest.fixture
def bare(elsewhere: Cluster) -> Cluster:
    """That cluster without anything of ours."""
    for release in yaml.safe_load(elsewhere.helm("list", "-A", "-o", "yaml").stdout):
        elsewhere.helm("uninstall", release["name"], "-n", release["namespace"], "--wait")
    delete_crds(elsewhere.client)
    if not elsewhere.client.exists(f"/api/v1/namespaces/{SYSTEM}"):
        elsewhere.create_namespace(SYSTEM)
    return elsewhere


@contextmanager
def a_shop(cluster: Cluster, request: pytest.FixtureRequest, replicas: int = 2) -> Iterator[Shop]:
    """The example app in a namespace of its own, described when the test fails, and deleted."""
    shop = Shop(
        cluster, cluster.create_namespace(f"t-{uuid.uuid4().hex[:10]}"), images.PRODUCT, replicas
    )
    try:
        yield shop
    except BaseException:
        sys.stderr.write(f"--- {request.node.name}\n{shop.describe()}\n")
        for words in (("get", "pods,events"), ("logs", DEPLOYMENT, "--tail=60")):
            sys.stderr.write(cluster.kubectl(*words, "-n", SYSTEM, check=False).stdout)
        raise
    if cluster.client.exists(f"/api/v1/namespaces/{shop.namespace}"):
        cluster.delete_namespace(shop.namespace, wait=False)


def image() -> dict[str, str]:
    """The values that say where this checkout's image is."""
    repository, _, tag = images.PRODUCT.rpartition(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "Never"}


def install(cluster: Cluster, chart: Path, *options: str, values: Object | None = None) -> None:
    """``helm upgrade --install`` with exactly these values."""
    cluster.helm(
        *("upgrade", "--install", RELEASE, str(chart), "-n", SYSTEM, "--wait", "--timeout=120s"),
        *options,
        *(("-f", "-") if values is not None else ()),
        stdin=yaml.safe_dump(values) if values is not None else None,
    )


def uninstall(cluster: Cluster) -> None:
    cluster.helm("uninstall", RELEASE, "-n", SYSTEM, "--wait", "--timeout=60s")


def older_chart(folder: Path) -> Path:
    """The chart as an earlier release might have had it: without what "came later"."""
    chart = folder / "storageformat-operator"
    shutil.copytree(CHART, chart)
    for name in LATER_TEMPLATES:
        (chart / "templates" / name).unlink()
    for name in ("values.yaml", "values.schema.json", "Chart.yaml"):
        body = yaml.safe_load((chart / name).read_text(encoding="utf-8"))
        if name == "Chart.yaml":
            body |= {"version": "0.0.9"}
        for key in LATER_VALUES:
            body.get("properties", body).pop(key, None)
        if "required" in body:
            body["required"] = [one for one in body["required"] if one not in LATER_VALUES]
        dump = json.dumps if name.endswith(".json") else yaml.safe_dump
        (chart / name).write_text(dump(body), encoding="utf-8")
    crd = chart / "files" / "crds" / "storageformats.yaml"
    body = yaml.safe_load(crd.read_text(encoding="utf-8"))
    del rollout_schema(body)[LATER_FIELD]
    crd.write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
    return chart


def rollout_schema(crd: Object) -> Object:
    """The properties of ``spec.rollout``."""
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    properties: Object = spec["properties"]["rollout"]["properties"]
    return properties


def crd(cluster: Cluster, name: str) -> Object:
    return cluster.client.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")


def older_sidecar(shop: Shop) -> Any:
    """A change of the StatefulSet: its sidecar reports as an older one would (see above)."""
    content = {"sitecustomize.py": _OLDER_SIDECAR}
    shop.create("api/v1", "configmaps", {"metadata": {"name": "older"}, "data": content})

    def change(body: Object) -> None:
        spec = body["spec"]["template"]["spec"]
        spec["volumes"].append({"name": "older", "configMap": {"name": "older"}})
        sidecar = spec["initContainers"][0]
        sidecar["volumeMounts"].append({"name": "older", "mountPath": "/older", "readOnly": True})
        sidecar["env"].append({"name": "PYTHONPATH", "value": "/older"})

    return change


def digests(shop: Shop) -> list[str]:
    return [shop.summary(ordinal)["digest"] for ordinal in range(shop.replicas)]


def formats(shop: Shop) -> set[str]:
    return {shop.summary(ordinal)["format"] for ordinal in range(shop.replicas)}


def test_upgrade_from_an_older_chart(
    bare: Cluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Values that the older chart did not have get their defaults, those that somebody set are kept, and the CRDs
    are upgraded with the release. (Helm's `--reuse-values` takes the older chart's defaults for the new ones; that
    is refused before anything changes.) Pods with older sidecars go on as they are, and are converted by the new
    controller: a new field of the StorageFormat is of use at once."""
    cluster = bare
    older = {"image": image(), "podLabels": {"team": "shop"}, "logLevel": "debug"}
    install(cluster, older_chart(tmp_path), values=older)
    assert LATER_FIELD not in rollout_schema(crd(cluster, CRDS[0]))
    with a_shop(cluster, request) as shop:
        shop.open(in_parallel, older_sidecar(shop), seed=50)
        shop.apply(shop.storage_format(spec__target="v1"))
        shop.wait_until_ready()
        before, uids = digests(shop), [shop.uid(0), shop.uid(1)]
        kept = cluster.client.get(shop.path(f"apis/{API_VERSION}", "storageformats", "orders"))
        budget = shop.storage_format(spec__rollout={LATER_FIELD: 1})
        text = yaml.safe_dump(budget)
        apply = ("apply", "-n", shop.namespace, "-f", "-")
        assert LATER_FIELD in cluster.kubectl(*apply, stdin=text, check=False).stderr

        upgrade = ("upgrade", RELEASE, str(CHART), "-n", SYSTEM)
        refused = cluster.helm(*upgrade, "--reuse-values", check=False)
        assert refused.returncode != 0
        assert all(one in refused.stderr for one in ("networkPolicy", "podDisruptionBudget"))
        assert LATER_FIELD not in rollout_schema(crd(cluster, CRDS[0]))

        install(cluster, CHART, "--reset-then-reuse-values")
        assert LATER_FIELD in rollout_schema(crd(cluster, CRDS[0]))
        (controller,) = eventually(lambda: controllers(cluster), "one controller is left")
        assert controller["metadata"]["labels"]["team"] == "shop"
        assert "debug" in controller["spec"]["containers"][0]["args"]
        now = cluster.client.get(shop.path(f"apis/{API_VERSION}", "storageformats", "orders"))
        assert now["metadata"]["uid"] == kept["metadata"]["uid"]
        assert now["spec"]["rollout"].pop(LATER_FIELD) == 0  # the new CRD's default
        assert now["spec"] == kept["spec"]
        assert [shop.uid(0), shop.uid(1)] == uids

        eventually(
            lambda: cluster.kubectl(*apply, stdin=text, check=False).returncode == 0,
            "the new field is known",
        )
        shop.wait_until_ready()
        assert digests(shop) == before
        assert formats(shop) == {NEW}
        for ordinal in range(2):
            assert "apiVersion" not in shop.state(ordinal)
            assert "gate" not in shop.state(ordinal)
        assert shop.condition("SafeToDropOldFormat")["status"] == "True"


def controllers(cluster: Cluster) -> list[Object]:
    """The controller's pods; empty while one of them is on its way out or not ready."""
    label = "app.kubernetes.io%2Fcomponent%3Dcontroller"
    pods = cluster.client.list(f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector={label}")
    return pods if all(is_ready(one) for one in pods) else []


def test_uninstall_in_the_middle_and_install_again(
    bare: Cluster, request: pytest.FixtureRequest
) -> None:
    """`helm uninstall` in mid-rollout leaves CRDs, StorageFormats, FormatStates and data; apps serve on and pods
    start again without it; the next release takes the rollout up where it was. A namespace goes at once, though
    it has all of ours in it and nobody is there to look after it."""
    cluster = bare
    install(cluster, CHART, values={"image": image()})
    with a_shop(cluster, request) as shop:
        shop.open(in_parallel, seed=50)
        with writing(shop) as writers:
            shop.apply(shop.storage_format(spec__rollout={"partition": 1}))
            shop.wait_for_rollout("Partitioned")
            uninstall(cluster)
            for name in CRDS:
                assert not crd(cluster, name)["metadata"].get("deletionTimestamp")
            assert shop.status()["converted"] == 1
            states = shop.path(f"apis/{API_VERSION}", "formatstates")
            assert len(cluster.client.list(states)) == shop.replicas

            # Without role and controller pods start and serve, each in the format that it has.
            served(writers)
            uids = {shop.uid(ordinal) for ordinal in range(2)}
            for ordinal in range(2):
                cluster.delete_pod(shop.namespace, f"orders-{ordinal}", grace_seconds=1)
            eventually(lambda: not uids & {shop.uid(ordinal) for ordinal in range(2)}, "new pods")
            shop.all_ready()
            served(writers)
            assert [shop.summary(ordinal)["format"] for ordinal in range(2)] == [OLD, NEW]

            install(cluster, CHART, values={"image": image()})
            shop.patch({"rollout": {"partition": 0}})
            shop.wait_until_ready()
            served(writers)
        assert formats(shop) == {NEW}
        cluster.helm("test", RELEASE, "-n", SYSTEM, "--timeout=60s")

        uninstall(cluster)
        began = time.monotonic()
        cluster.delete_namespace(shop.namespace, timeout=60)
        assert time.monotonic() - began < 45


def restart(shop: Shop, ordinal: int) -> None:
    before = shop.uid(ordinal)
    shop.cluster.delete_pod(shop.namespace, f"orders-{ordinal}", grace_seconds=1)
    shop.cluster.wait_for_pod(shop.namespace, f"orders-{ordinal}", not_uid=before)


def served(writers: list[Writer]) -> None:
    """Every pod takes orders, now."""
    counts = [len(one.acknowledged) for one in writers]
    eventually(
        lambda: all(
            len(one.acknowledged) > count for one, count in zip(writers, counts, strict=True)
        ),
        "everybody writes",
    )


def test_some_namespaces_only(bare: Cluster, request: pytest.FixtureRequest) -> None:
    """A release for one namespace binds nothing in the whole cluster but its webhook's configuration, converts there, and passes `helm test`.
    Elsewhere a StorageFormat is nobody's: the sidecar may not read it, and its app starts all the same."""
    cluster = bare
    with (
        a_shop(cluster, request, replicas=1) as shop,
        a_shop(cluster, request, replicas=1) as other,
    ):
        install(cluster, CHART, values={"image": image(), "watchNamespaces": [shop.namespace]})
        for kind in ("clusterroles", "clusterrolebindings"):
            path = f"/apis/rbac.authorization.k8s.io/v1/{kind}?labelSelector=app.kubernetes.io%2Finstance%3D{RELEASE}"
            names = [one["metadata"]["name"] for one in cluster.client.list(path)]
            # By their names: what the webhook's own certificate takes.
            assert names == ["storageformat-operator-webhook-configuration"]
        for one in (other, shop):
            one.open(seed=20, wait=False)
            one.apply(one.storage_format())
        before = digests(shop)
        shop.wait_until_ready()
        # The app makes its database after the gate has opened: ready can be told before, and then no longer.
        eventually(lambda: formats(shop) == {NEW}, "what the app made is converted")
        assert digests(shop) == before

        other.all_ready()
        restart(other, 0)
        assert formats(other) == {OLD}
        assert digests(other) == before  # the same seed
        assert other.status() == {}
        assert other.state(0) == {}
        cluster.helm("test", RELEASE, "-n", SYSTEM, "--timeout=60s")
