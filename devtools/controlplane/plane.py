"""etcd, kube-apiserver and, where a test needs it, kube-controller-manager as child processes."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controlplane.binaries import Binaries, find_kubectl
from controlplane.client import ApiError, Client, Object, wait_until

ISSUER = "https://kubernetes.default.svc"
_START_SECONDS = 90.0  # three are usual; a busy machine may take many more
_STOP_SECONDS = 20.0

# Sets "die with the parent" and becomes the program. Not `preexec_fn`, which runs Python between
# fork and exec, and that may deadlock where there are threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)


class ControlPlaneError(RuntimeError):
    """The control plane did not start; the message holds the end of the log."""


class ControlPlane:
    """One control plane in a directory of its own.

    Start it from the main thread: the kernel ends the processes with the *thread* that started
    them, which is what keeps an interrupted test run from leaving servers behind.
    """

    def __init__(self, directory: Path, binaries: Binaries | None = None) -> None:
        self.directory = directory
        self.binaries = binaries or Binaries.locate()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd_port, self._peer_port, self.port = _free_ports(3)
        self._admin_token = secrets.token_hex(16)
        self._controller_manager_token = secrets.token_hex(16)

    @classmethod
    @contextmanager
    def started(
        cls, directory: Path | None = None, *, keep: bool = False
    ) -> Iterator[ControlPlane]:
        """A running control plane; its directory is removed afterwards unless ``keep``."""
        place = directory or Path(tempfile.mkdtemp(prefix="controlplane-"))
        plane = cls(place)
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()
            if not keep:
                shutil.rmtree(place, ignore_errors=True)

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start etcd and the API server; returns when it is ready. Raises ControlPlaneError."""
        programs = [self.binaries.path(name) for name in ("etcd", "kube-apiserver", "pki")]
        self.directory.mkdir(parents=True, exist_ok=True)
        subprocess.run([programs[2], str(self.directory)], check=True)
        (self.directory / "tokens.csv").write_text(
            f'{self._admin_token},admin,admin,"system:masters"\n'
            f"{self._controller_manager_token},system:kube-controller-manager,kcm\n"
        )
        self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{self._peer_port}",
            "--unsafe-no-fsync",  # the data is thrown away
            "--log-level=warn",
        )
        self.start_apiserver()

    def start_apiserver(self) -> None:
        """Start the API server, again at the same address after `stop_apiserver`."""
        place = self.directory
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={place / 'apiserver.crt'}",
            f"--tls-private-key-file={place / 'apiserver.key'}",
            f"--token-auth-file={place / 'tokens.csv'}",
            f"--service-account-key-file={place / 'sa.pub'}",
            f"--service-account-signing-key-file={place / 'sa.key'}",
            f"--service-account-issuer={ISSUER}",
            "--authorization-mode=RBAC",
            # Without a controller-manager nobody makes the default ServiceAccounts it insists on.
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",  # would refuse a loopback address
            "--service-cluster-ip-range=10.96.0.0/16",
            "--profiling=false",
            "--v=1",
        )
        self._wait_ready()

    def stop_apiserver(self, *, hard: bool = False) -> None:
        """Stop the API server alone: with SIGTERM, or ``hard`` with SIGKILL."""
        self._end("kube-apiserver", signal.SIGKILL if hard else signal.SIGTERM)

    def compact(self) -> None:
        """Let etcd forget all revisions but the newest. Watches of an older one end once the API server has started again.

        Until then it serves them from what it remembers itself.
        """
        revision = self._etcd("range", {"key": "AA=="})["header"]["revision"]
        self._etcd("compaction", {"revision": revision, "physical": True})

    def start_controller_manager(self) -> None:
        """Start the controllers that tests need: garbage collection and the end of namespaces."""
        config = self.directory / "controller-manager.kubeconfig"
        self.write_kubeconfig(config, self._controller_manager_token)
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            "--controllers=garbage-collector-controller,namespace-controller,serviceaccount-controller",
            # As in a real cluster: each controller is a ServiceAccount of kube-system.
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.directory / 'sa.key'}",
            f"--root-ca-file={self.directory / 'ca.crt'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--v=1",
        )

    def stop_controller_manager(self) -> None:
        """Stop the controllers again."""
        self._end("kube-controller-manager", signal.SIGTERM)

    def stop(self) -> None:
        """Stop everything that runs."""
        # The API server waits for its watchers on SIGTERM; nobody is served by that at the end.
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._end(name, signal.SIGKILL)

    def alive(self, name: str) -> bool:
        """Whether that process runs."""
        return name in self._processes and self._processes[name].poll() is None

    def log(self, name: str, lines: int = 30) -> str:
        """The end of a process's log."""
        path = self.directory / f"{name}.log"
        if not path.exists():
            return "(no log)"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    # --- access ---------------------------------------------------------------------------------

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """Who signed the API server's certificate."""
        return self.directory / "ca.crt"

    @property
    def admin(self) -> Client:
        """A client that may do everything."""
        return self.client(self._admin_token)

    @property
    def admin_token(self) -> str:
        """The token of somebody who may do everything."""
        return self._admin_token

    def client(self, token: str) -> Client:
        """A client with that token."""
        return Client(self.server, str(self.ca_file), token)

    def write_kubeconfig(
        self, path: Path, token: str | None = None, *, namespace: str = "default"
    ) -> Path:
        """Write a kubeconfig for that token (the admin's when left out); returns ``path``."""
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "plane",
                    "cluster": {"server": self.server, "certificate-authority-data": authority},
                }
            ],
            "users": [{"name": "user", "user": {"token": token or self._admin_token}}],
            "contexts": [
                {
                    "name": "plane",
                    "context": {"cluster": "plane", "user": "user", "namespace": namespace},
                }
            ],
            "current-context": "plane",
        }
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as admin. Raises CalledProcessError with its output when ``check``."""
        config = self.directory / "admin.kubeconfig"
        if not config.exists():
            self.write_kubeconfig(config)
        cache = self.directory / "kubectl-cache"
        command = [str(find_kubectl()), f"--kubeconfig={config}", f"--cache-dir={cache}"]
        done = subprocess.run(
            [*command, *arguments], input=stdin, text=True, capture_output=True, check=False
        )
        if check and done.returncode != 0:
            sys.stderr.write(done.stderr)
            done.check_returncode()
        return done

    def install(self, directory: Path) -> None:
        """Apply the manifests below ``directory`` and wait until the API serves the CRDs."""
        self.kubectl("apply", "-k", str(directory))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")

    # --- objects --------------------------------------------------------------------------------

    def create_namespace(self, name: str) -> str:
        """Make a namespace; returns its name."""
        self.admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def create_service_account(self, namespace: str, name: str) -> Object:
        """Make a ServiceAccount."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        return self.admin.create(path, {"metadata": {"name": name}})

    def create_pod(
        self,
        namespace: str,
        name: str,
        *,
        service_account: str = "default",
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> Object:
        """Make a pod: an object that nothing runs."""
        body = {
            "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}},
            "spec": {
                "serviceAccountName": service_account,
                "containers": [{"name": "app", "image": "localhost/app"}],
            },
        }
        return self.admin.create(f"/api/v1/namespaces/{namespace}/pods", body)

    def token(
        self,
        namespace: str,
        service_account: str,
        *,
        pod: Object | None = None,
        seconds: int = 3600,
    ) -> str:
        """A ServiceAccount's token, bound to a pod when one is given, as a kubelet would get it."""
        spec: dict[str, Any] = {"audiences": [ISSUER], "expirationSeconds": seconds}
        if pod is not None:
            metadata = pod["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        answer = self.admin.create(
            path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        )
        token: str = answer["status"]["token"]
        return token

    # --- inside ---------------------------------------------------------------------------------

    def _etcd(self, what: str, body: Object) -> Object:
        """One request to etcd's gateway of the gRPC API."""
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv/{what}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, data=json.dumps(body).encode(), timeout=30) as answer:
            found: Object = json.load(answer)
        return found

    def _spawn(self, name: str, *arguments: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ControlPlaneError(f"{name} must be started from the main thread")
        if self.alive(name):
            raise ControlPlaneError(f"{name} runs already")
        command: Sequence[str] = [
            *(sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT),
            *(str(self.binaries.path(name)), *arguments),
        ]
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                # Ctrl-C is for the tests, which then end the control plane in order.
                start_new_session=True,
            )

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_ready(self) -> None:
        def ready() -> bool:
            for name in ("etcd", "kube-apiserver"):
                if not self.alive(name):
                    raise ControlPlaneError(f"{name} ended:\n{self.log(name)}")
            try:
                return self.admin.get("/readyz") == {"text": "ok"}
            except (ApiError, OSError):
                return False

        try:
            wait_until(ready, timeout=_START_SECONDS, what="the API server is ready")
        except TimeoutError as error:
            raise ControlPlaneError(f"{error}\n{self.log('kube-apiserver')}") from error


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
