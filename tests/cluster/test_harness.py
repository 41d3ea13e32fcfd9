"""The cluster itself: that what the other tests of this folder stand on is real, and leaves no trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster, ClusterError, condition, folders
from cluster.images import PRODUCT
from cluster.network import Network
from controlplane import ApiError
from controlplane.client import wait_until

UID = 4242
_FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
_UP = """
import sys
from pathlib import Path
from cluster import Cluster
cluster = Cluster.up(sys.argv[1], [Path(one) for one in sys.argv[2:]])
print(cluster.sandbox.holder, flush=True)
sys.stdin.read()
"""


def _container(name: str, script: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": PRODUCT,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        **fields,
    }


def _stateful_set() -> dict[str, Any]:
    pod = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 2,
        "initContainers": [
            _container(
                "sidecar", f"echo sidecar of $(hostname); {_FOREVER}", restartPolicy="Always"
            )
        ],
        "containers": [
            _container(
                "app", "date >>/data/starts; exec python3 -m http.server --directory /data 8080"
            )
        ],
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "shop"},
        "spec": {
            "serviceName": "shop",
            "replicas": 1,
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {"metadata": {"labels": {"app": "shop"}}, "spec": pod},
            "volumeClaimTemplates": [claim],
        },
    }


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address of the cluster
        content: bytes = answer.read()
    return content.decode()


@pytest.fixture
def pod(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """A pod of a StatefulSet, on a volume of 16 MiB, with an app and a native sidecar."""
    cluster.volume(namespace, "data-shop-0", uid=UID, filesystem_mib=16)
    cluster.client.create(f"/apis/apps/v1/namespaces/{namespace}/statefulsets", _stateful_set())
    return cluster.wait_for_pod(namespace, "shop-0")


def test_a_pod_really_runs(cluster: Cluster, namespace: str, pod: dict[str, Any]) -> None:
    """Containers have logs, run commands, write to their volume and answer under the pod's address."""
    assert "sidecar of shop-0" in cluster.logs(namespace, "shop-0", "sidecar")
    assert cluster.exec(namespace, "shop-0", "app", "id", "-u").stdout == f"{UID}\n"
    size = cluster.exec(namespace, "shop-0", "app", "df", "-m", "--output=size", "/data").stdout
    assert 8 < int(size.split()[-1]) < 17
    assert len(_fetch(f"http://{pod['status']['podIP']}:8080/starts").splitlines()) == 1


def test_a_volume_is_seen_from_outside(cluster: Cluster, namespace: str) -> None:
    """What a pod writes to a volume is there for the test, and the other way round."""
    volume = cluster.volume(namespace, "data-shop-0", uid=UID)
    (volume.path / "from-outside").write_text("hello")
    cluster.client.create(f"/apis/apps/v1/namespaces/{namespace}/statefulsets", _stateful_set())
    pod = cluster.wait_for_pod(namespace, "shop-0")
    assert _fetch(f"http://{pod['status']['podIP']}:8080/from-outside") == "hello"
    assert (volume.path / "starts").stat().st_uid == UID


def test_services_and_the_api_are_reached(
    cluster: Cluster, namespace: str, pod: dict[str, Any]
) -> None:
    """A Service leads to its pods, from a pod and from outside; a pod reaches the API server."""
    port = {"port": 80, "targetPort": 8080}
    service = cluster.client.create(
        f"/api/v1/namespaces/{namespace}/services",
        {
            "metadata": {"name": "shop"},
            "spec": {"selector": pod["metadata"]["labels"], "ports": [port]},
        },
    )
    url = f"http://{service['spec']['clusterIP']}/starts"

    def reached() -> bool:
        try:
            return bool(_fetch(url))
        except OSError:
            return False

    wait_until(reached, what="the Service answers")
    ask = f"import urllib.request; print(urllib.request.urlopen({url!r}).status)"
    assert cluster.exec(namespace, "shop-0", "app", "python3", "-c", ask).stdout == "200\n"
    connect = (
        "import os, socket; "
        "socket.create_connection((os.environ['KUBERNETES_SERVICE_HOST'], 443), 5); print('there')"
    )
    assert cluster.exec(namespace, "shop-0", "app", "python3", "-c", connect).stdout == "there\n"


def test_an_eviction_moves_the_pod_and_keeps_its_data(
    cluster: Cluster, namespace: str, pod: dict[str, Any]
) -> None:
    """The next pod of that name has the same volume; a budget forbids an eviction with 429."""
    uid = pod["metadata"]["uid"]
    with pytest.raises(ApiError) as refused:
        cluster.evict(namespace, "shop-0", uid="of-somebody-else")
    assert refused.value.status == 409
    cluster.evict(namespace, "shop-0", uid=uid)
    after = cluster.wait_for_pod(namespace, "shop-0", not_uid=uid)
    assert len(_fetch(f"http://{after['status']['podIP']}:8080/starts").splitlines()) == 2
    cluster.client.create(
        f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
        {
            "metadata": {"name": "shop"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "shop"}}},
        },
    )

    def forbidden() -> bool:
        try:
            cluster.evict(namespace, "shop-0", uid="of-somebody-else")
        except ApiError as error:
            return error.status == 429
        return False

    wait_until(forbidden, what="the budget forbids evictions")


def test_a_killed_sidecar_comes_back_beside_its_app(
    cluster: Cluster,
    namespace: str,
    pod: dict[str, Any],  # noqa: ARG001 - it is there
) -> None:
    """A container's processes are found and can be killed; a native sidecar is restarted."""
    app = cluster.container_pid(namespace, "shop-0", "app")
    sidecar = cluster.container_pid(namespace, "shop-0", "sidecar")
    assert "http.server" in cluster.container_processes(namespace, "shop-0", "app")[app]
    os.kill(sidecar, signal.SIGKILL)

    def restarted() -> bool:
        now = cluster.pod(namespace, "shop-0") or {}
        return bool(now["status"]["initContainerStatuses"][0]["restartCount"] == 1)

    wait_until(restarted, what="the sidecar was restarted")
    assert cluster.container_pid(namespace, "shop-0", "sidecar") != sidecar
    assert cluster.container_pid(namespace, "shop-0", "app") == app
    assert cluster.logs(namespace, "shop-0", "sidecar", previous=True)


def test_a_kubelet_that_restarts_finds_its_pods(
    cluster: Cluster, namespace: str, pod: dict[str, Any]
) -> None:
    """Without a kubelet pods go on, but nothing new happens; afterwards it does."""
    app = cluster.container_pid(namespace, "shop-0", "app")
    cluster.stop_kubelet()
    try:
        assert _fetch(f"http://{pod['status']['podIP']}:8080/starts")
        cluster.client.delete(f"/api/v1/namespaces/{namespace}/pods/shop-0")
    finally:
        cluster.start_kubelet()
    cluster.wait_for_pod(namespace, "shop-0", not_uid=pod["metadata"]["uid"], timeout=90)
    assert cluster.container_pid(namespace, "shop-0", "app") != app


def test_an_api_server_that_restarts_knows_everything(
    cluster: Cluster, namespace: str, pod: dict[str, Any]
) -> None:
    """It comes back at the same address with the same objects; the pods have not noticed."""
    app = cluster.container_pid(namespace, "shop-0", "app")
    cluster.stop_apiserver()
    try:
        with pytest.raises(OSError, match="refused"):
            cluster.client.get("/readyz")
        assert cluster.container_pid(namespace, "shop-0", "app") == app
        assert _fetch(f"http://{pod['status']['podIP']}:8080/starts")
    finally:
        cluster.start_apiserver()
    after = cluster.pod(namespace, "shop-0")
    assert after is not None
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert condition(after, "Ready") == "True"


def test_the_namespace_is_restricted(cluster: Cluster, namespace: str) -> None:
    """A pod that is not as the pod security standard ``restricted`` demands is refused."""
    plain = {"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
    with pytest.raises(ApiError, match="violates PodSecurity") as refused:
        cluster.client.create(f"/api/v1/namespaces/{namespace}/pods", plain)
    assert refused.value.status == 403


def test_prometheus_finds_pods(cluster: Cluster, namespace: str, pod: dict[str, Any]) -> None:
    """A Prometheus inside discovers pods by the API and can be asked from outside."""
    discovery = {
        "role": "pod",
        "kubeconfig_file": str(cluster.kubeconfig),
        "namespaces": {"names": [namespace]},
    }
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "pods", "kubernetes_sd_configs": [discovery]}],
    }
    with cluster.prometheus(json.dumps(config)) as prometheus:
        # It is no exporter that it finds here: it is seen, and it is down.
        seen = wait_until(lambda: prometheus.query("up"), what="a target is scraped")
        assert {one["metric"]["job"] for one in seen} == {"pods"}
        assert prometheus.value('up{job="nobody"}') is None
        assert any(pod["status"]["podIP"] in one["scrapeUrl"] for one in prometheus.targets())


def test_clusters_live_side_by_side_and_leave_nothing(
    cluster: Cluster, pod: dict[str, Any], another_cluster: Cluster
) -> None:
    """A second cluster has addresses and objects of its own; the first does not notice its end."""
    other = another_cluster
    assert not other.network.block.overlaps(cluster.network.block)
    other.create_namespace("mine")
    other.volume("mine", "data-shop-0", uid=UID, filesystem_mib=16)
    other.client.create("/apis/apps/v1/namespaces/mine/statefulsets", _stateful_set())
    elsewhere = other.wait_for_pod("mine", "shop-0")
    assert _fetch(f"http://{elsewhere['status']['podIP']}:8080/starts")
    assert cluster.kubectl("get", "namespace", "mine", check=False).returncode != 0
    processes = _processes(other)
    assert len(processes) > 10
    other.down()
    assert _traces(other.name, other.network, processes) == []
    assert _fetch(f"http://{pod['status']['podIP']}:8080/starts")
    assert condition(cluster.client.get("/api/v1/nodes/node"), "Ready") == "True"


def test_a_cluster_ends_with_whoever_started_it(archives: list[Path]) -> None:
    """A test run that is killed leaves no process; the next cluster clears away the rest."""
    name = f"orphan-{os.getpid()}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "devtools")}
    starter = subprocess.Popen(
        [sys.executable, "-c", _UP, name, *map(str, archives)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline(), "it did not start"
        orphan = Cluster.existing(name)
        with pytest.raises(ClusterError, match="is up already"):
            Cluster.up(name, archives)
        processes = _processes(orphan)
        starter.kill()
    wait_until(lambda: orphan.sandbox.holder is None, what="the cluster ends")
    orphan.down()
    assert _traces(name, orphan.network, processes) == []


def _processes(cluster: Cluster) -> set[tuple[int, str]]:
    """The cluster's processes: id and start, because ids come round again."""
    pids = cluster.sandbox.processes().values()
    return {(pid, started) for pid in pids if (started := _started(pid))}


def _started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    # One that has ended may wait for its parent, who is busy, to take note.
    return None if fields[0] in {"X", "Z"} else fields[19]


def _traces(name: str, network: Network, processes: set[tuple[int, str]]) -> list[str]:
    """What can still be seen of a cluster."""
    found = [f"process {pid}" for pid, started in processes if _started(pid) == started]
    folder = folders.clusters() / name
    found += [str(folder)] if folder.exists() else []
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [line for line in mounts if str(folder) in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/storageformat-{name}")]
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    found += [line for line in routes.splitlines() if f"{network.interface} " in line]
    loops = subprocess.run(["losetup", "--all"], capture_output=True, text=True, check=True).stdout
    found += [line for line in loops.splitlines() if str(folder) in line]
    return found
