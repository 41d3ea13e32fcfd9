"""One cluster: its life, and what tests do with it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import cgroups, folders, machine, unpacked
from cluster.components import Components
from cluster.credentials import NODE, Credentials
from cluster.errors import ClusterError
from cluster.network import Network, free_network
from cluster.prometheus import PORT, Prometheus
from cluster.runtime import Runtime
from cluster.sandbox import Sandbox
from cluster.volumes import Volume, Volumes
from controlplane import ApiError, Binaries, Client, find_kubectl
from controlplane.client import wait_until

_READY_SECONDS = 90.0  # a tenth of it is usual; a busy machine may take many more
_NODE_PROGRAMS = (
    *("pki", "etcd", "kube-apiserver", "kube-controller-manager"),
    *("kube-scheduler", "kubelet", "kube-proxy"),
)


class Cluster:
    """A one-node cluster. Make it with `up` or, for a ``with`` statement, `started`.

    Methods raise ClusterError when the cluster does not do as it is told, ApiError when the API
    server refuses, CalledProcessError when kubectl or helm fails.
    """

    def __init__(self, name: str, folder: Path, network: Network) -> None:
        self.name = name
        self.folder = folder
        self.network = network
        self.binaries = Binaries.locate()
        self.sandbox = Sandbox(folder)
        self.runtime = Runtime(self.sandbox)

    # --- life -----------------------------------------------------------------------------------

    @classmethod
    def up(cls, name: str, images: list[Path], *, outlive: bool = False) -> Cluster:
        """A cluster whose node is Ready, with the images of those archives loaded.

        It ends with the calling process unless ``outlive``; then `down` ends it, from anywhere.
        Start it from the main thread: the kernel ends a child with the thread that started it.
        """
        machine.require()
        binaries = Binaries.locate()
        for program in _NODE_PROGRAMS:  # before anything is made that would have to be unmade
            binaries.path(program)
        folder = folders.clusters() / name
        folders.clusters().mkdir(parents=True, exist_ok=True)
        with (folders.clusters() / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # blocks of addresses are found and taken in one go
            bury_dead()
            if folder.exists():
                raise ClusterError(f"a cluster {name} is up already, in {folder}")
            cluster = cls(name, folder, free_network())
            folder.mkdir()
            (folder / "network").write_text(str(cluster.network.index))
            try:
                cluster.sandbox.start(outlive=outlive)
                holder = cluster.sandbox.holder
                if holder is None:
                    raise ClusterError(f"no sandbox:\n{cluster.sandbox.log('sandbox')}")
                cluster.network.connect(holder, cluster.sandbox.run)
            except BaseException:
                cluster.down()
                raise
        try:
            cluster._start(images)
        except BaseException:
            cluster.down(keep_logs=True)
            raise
        return cluster

    @classmethod
    @contextmanager
    def started(cls, name: str, images: list[Path]) -> Iterator[Cluster]:
        """A cluster for a ``with`` statement; its logs are kept when that ends with an error."""
        cluster = cls.up(name, images)
        try:
            yield cluster
        except BaseException:
            cluster.down(keep_logs=True)
            raise
        cluster.down()

    @classmethod
    def existing(cls, name: str) -> Cluster:
        """The cluster of that name that somebody has started. Raises ClusterError."""
        folder = folders.clusters() / name
        try:
            cluster = cls(name, folder, Network(int((folder / "network").read_text())))
        except FileNotFoundError:
            raise ClusterError(f"there is no cluster {name}") from None
        return cluster

    def down(self, *, keep_logs: bool = False) -> None:
        """End everything and remove all traces; with ``keep_logs``, all but `kept_logs`."""
        self.sandbox.stop()
        cgroups.remove(self._cgroup)
        if keep_logs and self.sandbox.logs.exists():
            shutil.rmtree(self.kept_logs, ignore_errors=True)
            self.kept_logs.parent.mkdir(exist_ok=True)
            self.sandbox.logs.rename(self.kept_logs)
            sys.stderr.write(f"\ncluster {self.name}: logs are kept in {self.kept_logs}\n")
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def kept_logs(self) -> Path:
        """Where the logs of a cluster that failed stay until the next of that name fails."""
        return folders.cache() / "cluster-logs" / self.name

    def stop_kubelet(self) -> None:
        """The node's kubelet ends; its containers go on, as after a crash of it."""
        self.sandbox.end("kubelet", hard=True)

    def start_kubelet(self) -> None:
        """The kubelet runs again."""
        self.sandbox.spawn("kubelet", self._components.kubelet())

    def stop_apiserver(self, *, hard: bool = True) -> None:
        """The API server goes away: with SIGKILL, or with SIGTERM when not ``hard``."""
        self.sandbox.end("kube-apiserver", hard=hard)

    def start_apiserver(self) -> None:
        """The API server comes back, at the same address; returns when it is ready."""
        self.sandbox.spawn("kube-apiserver", self._components.apiserver())
        self._wait_for_apiserver()

    # --- access ---------------------------------------------------------------------------------

    @property
    def credentials(self) -> Credentials:
        """Tokens and kubeconfigs."""
        return Credentials(self.folder / "credentials", f"https://{self.network.node}:6443")

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of somebody who may do everything, for programs of this machine."""
        return self.credentials.kubeconfig("admin")

    @property
    def client(self) -> Client:
        """A client that may do everything."""
        return self.client_of(self.credentials.token("admin"))

    def client_of(self, token: str) -> Client:
        """A client with that token."""
        return Client(self.credentials.server, str(self.credentials.ca_file), token)

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as admin."""
        cache = f"--cache-dir={self.folder / 'kubectl-cache'}"
        command = [str(find_kubectl()), cache, *arguments]
        return self._program(command, stdin=stdin, check=check, timeout=timeout)

    def helm(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run Helm as admin."""
        command = [str(self.binaries.path("helm")), *arguments]
        return self._program(command, stdin=stdin, check=check, timeout=timeout)

    def environment(self) -> dict[str, str]:
        """Environment variables for programs of this machine that shall talk to the cluster."""
        helm = self.folder / "helm"
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HELM_CACHE_HOME": str(helm / "cache"),
            "HELM_CONFIG_HOME": str(helm / "config"),
            "HELM_DATA_HOME": str(helm / "data"),
            # The machine's proxy, if it has one, knows no way to a cluster on this machine.
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), self._addresses])),
            "no_proxy": ",".join(filter(None, [os.environ.get("no_proxy"), self._addresses])),
        }

    def requests(self) -> list[dict[str, Any]]:
        """Every request of a pod so far, as the API server's audit log has it (level Metadata)."""
        lines = self._components.audit_log.read_text().splitlines()
        return [json.loads(line) for line in lines]

    # --- pods -----------------------------------------------------------------------------------

    def load_image(self, archive: Path) -> None:
        """Load an image from a file that ``buildah push … docker-archive:`` has made."""
        self.runtime.load(archive)

    def create_namespace(self, name: str, *, pod_security: str = "restricted") -> str:
        """Make a namespace that enforces that pod security standard; returns its name."""
        labels = {"pod-security.kubernetes.io/enforce": pod_security}
        self.client.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        # Without its ServiceAccount no pod is admitted; a workload's controller then backs off.
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_until(lambda: self.client.exists(account), what=f"{name} has its ServiceAccount")
        return name

    def delete_namespace(self, name: str, *, wait: bool = True, timeout: float = 60.0) -> None:
        """Delete a namespace and all that is in it, pods at once; returns when it is gone.

        That takes the controllers some ten seconds; without ``wait`` nobody waits for them.
        """
        path = f"/api/v1/namespaces/{name}"
        self.client.delete(path)
        for pod in self.client.list(f"{path}/pods"):
            self.delete_pod(name, pod["metadata"]["name"])
        if wait:
            gone = f"namespace {name} is gone"
            wait_until(lambda: not self.client.exists(path), timeout=timeout, every=0.1, what=gone)

    def delete_pod(self, namespace: str, pod: str, *, grace_seconds: int = 0) -> None:
        """Delete a pod, at once or with that grace; it need not be there."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        try:
            self.client.delete(path, gracePeriodSeconds=grace_seconds)
        except ApiError as error:
            if error.status != 404:
                raise

    def describe(self, namespace: str) -> str:
        """Everything in the namespace, events and containers' logs included, for people to read."""
        where = f"--namespace={namespace}"
        kinds = "statefulsets,deployments,pods,persistentvolumeclaims"
        texts = [
            self.kubectl("describe", kinds, where, check=False).stdout,
            self.kubectl("get", "events", where, "--sort-by=.lastTimestamp", check=False).stdout,
        ]
        for pod in self.client.list(f"/api/v1/namespaces/{namespace}/pods"):
            name = pod["metadata"]["name"]
            logs = ("logs", where, name, "--all-containers", "--prefix", "--tail=200")
            texts.append(self.kubectl(*logs, check=False).stdout)
        return "\n".join(texts)

    def logs(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> str:
        """What that container has printed; with ``previous``, the one before its last restart."""
        flags = ["--previous"] if previous else []
        return self.kubectl("logs", f"--namespace={namespace}", pod, "-c", container, *flags).stdout

    def exec(
        self,
        namespace: str,
        pod: str,
        container: str,
        *command: str,
        stdin: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        where = [f"--namespace={namespace}", pod, "-c", container]
        interactive = ["-i"] if stdin is not None else []
        return self.kubectl("exec", *interactive, *where, "--", *command, stdin=stdin, check=check)

    def evict(self, namespace: str, pod: str, *, uid: str | None = None) -> None:
        """Evict a pod, that very one when ``uid`` is given. Raises ApiError (429: a budget)."""
        options = {"preconditions": {"uid": uid}} if uid else {}
        self.client.create(
            f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction",
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod, "namespace": namespace},
                "deleteOptions": options,
            },
        )

    def pod(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The pod as the API server has it, or None."""
        try:
            return self.client.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def wait_for_pod(
        self, namespace: str, name: str, *, timeout: float = 60.0, not_uid: str | None = None
    ) -> dict[str, Any]:
        """The pod once it is Ready; with ``not_uid``, one that is not that one any more."""

        def ready() -> dict[str, Any] | None:
            pod = self.pod(namespace, name)
            if pod is None or pod["metadata"]["uid"] == not_uid:
                return None
            return pod if condition(pod, "Ready") == "True" else None

        found: dict[str, Any] = wait_until(
            ready, timeout=timeout, every=0.2, what=f"pod {namespace}/{name} is ready"
        )
        return found

    def container_pid(self, namespace: str, pod: str, container: str) -> int:
        """The container's process 1, as an id on this machine: ``os.kill`` it."""
        return self.runtime.container_pid(namespace, pod, container)

    def container_processes(self, namespace: str, pod: str, container: str) -> dict[int, str]:
        """All processes of the container: id on this machine → command line."""
        return self.runtime.container_processes(namespace, pod, container)

    # --- volumes --------------------------------------------------------------------------------

    def volume(self, namespace: str, claim: str, *, uid: int, **options: Any) -> Volume:
        """A volume for that claim alone; see `volumes.Volumes.make` for what it can be."""
        return self._volumes.make(namespace, claim, uid=uid, **options)

    # --- Prometheus -----------------------------------------------------------------------------

    @contextmanager
    def prometheus(self, config: str) -> Iterator[Prometheus]:
        """A Prometheus inside the cluster's network, with that configuration file.

        For ``kubernetes_sd_configs``, ``kubeconfig_file`` is `kubeconfig`. Raises ClusterError.
        """
        folder = self.folder / "prometheus"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "prometheus.yaml").write_text(config)
        command = [
            str(self.binaries.path("prometheus")),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.network.node}:{PORT}",
        ]
        prometheus = Prometheus(f"http://{self.network.node}:{PORT}")
        self.sandbox.spawn("prometheus", command)

        def ready() -> bool:
            if not self.sandbox.alive("prometheus"):
                raise ClusterError(f"Prometheus ended:\n{self.sandbox.log('prometheus')}")
            return prometheus.ready()

        try:
            wait_until(ready, timeout=30, what="Prometheus is ready")
            yield prometheus
        finally:
            self.sandbox.end("prometheus", hard=True)

    # --- inside ---------------------------------------------------------------------------------

    @property
    def _cgroup(self) -> str:
        return f"storageformat-{self.name}"

    @property
    def _addresses(self) -> str:
        return str(self.network.block)

    @property
    def _components(self) -> Components:
        return Components(self.folder, self.binaries, self.network, self.credentials, self._cgroup)

    @property
    def _volumes(self) -> Volumes:
        return Volumes(self.folder / "volumes", self.sandbox, self.client)

    def _start(self, images: list[Path]) -> None:
        Credentials.make(self.folder / "credentials", self.network, self.binaries)
        parts = self._components
        self.sandbox.spawn("etcd", parts.etcd())
        self.sandbox.spawn("kube-apiserver", parts.apiserver())
        unpacked.clone_for(images, self.folder / "containerd")  # meanwhile the API server starts
        self.sandbox.spawn("containerd", parts.containerd())
        self.runtime.wait()
        cgroups.make(self._cgroup)
        self._wait_for_apiserver()
        self.sandbox.spawn("kube-controller-manager", parts.controller_manager())
        self.sandbox.spawn("kube-scheduler", parts.scheduler())
        self.sandbox.spawn("kube-proxy", parts.proxy())
        self.start_kubelet()
        self._volumes.make_class()
        self._wait_for_node()

    def _wait_for_apiserver(self) -> None:
        def ready() -> bool:
            self._check("etcd", "kube-apiserver")
            try:
                return self.client.get("/readyz") == {"text": "ok"}
            except (ApiError, OSError):
                return False

        wait_until(ready, timeout=_READY_SECONDS, what="the API server is ready")

    def _wait_for_node(self) -> None:
        def ready() -> bool:
            self._check("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager")
            try:
                node = self.client.get(f"/api/v1/nodes/{NODE}")
            except ApiError:
                return False
            # A node that has just become Ready is still tainted: nothing would be put there.
            return condition(node, "Ready") == "True" and not node["spec"].get("taints")

        try:
            wait_until(ready, timeout=_READY_SECONDS, every=0.1, what="the node is ready")
        except TimeoutError as error:
            raise ClusterError(f"{error}\n{self.sandbox.log('kubelet')}") from error

    def _check(self, *names: str) -> None:
        for name in names:
            if not self.sandbox.alive(name):
                raise ClusterError(f"{name} ended:\n{self.sandbox.log(name)}")

    def _program(
        self, command: list[str], *, stdin: str | None, check: bool, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
            timeout=timeout,
        )
        if check and done.returncode != 0:
            sys.stderr.write(done.stdout + done.stderr)
            done.check_returncode()
        return done


def condition(item: dict[str, Any], kind: str) -> str | None:
    """The status of an object's condition of that type: ``True``, ``False``, ``Unknown``, or None."""
    for one in item.get("status", {}).get("conditions", []):
        if one["type"] == kind:
            status: str = one["status"]
            return status
    return None


def bury_dead() -> None:
    """Remove what is left of clusters whose processes are gone: theirs was not an orderly end."""
    for folder in sorted(path for path in folders.clusters().glob("*") if path.is_dir()):
        if Sandbox(folder).holder is None:
            Cluster(folder.name, folder, Network(0)).down()
