"""How each program of Kubernetes is started here: its arguments and its configuration files.

Pure but for the configuration files that are written into the cluster's folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.credentials import NODE, Credentials
from cluster.machine import cni_plugins, program
from cluster.network import Network
from controlplane import Binaries
from controlplane.plane import ISSUER

#: Inside, the machine's own /run is hidden, so everything has its usual place.
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE = "localhost/pause:1"
_ETCD = "http://127.0.0.1:2379"

_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    # What pods ask for, to count it; not what the cluster does for itself.
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Components:
    """The command lines of one cluster's processes."""

    folder: Path
    binaries: Binaries
    network: Network
    credentials: Credentials
    cgroup: str

    @property
    def audit_log(self) -> Path:
        """One line of JSON for each request of a pod."""
        return self.folder / "log" / "audit.log"

    def etcd(self) -> list[str]:
        return [
            self._binary("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",  # the data is thrown away
            "--log-level=warn",
        ]

    def apiserver(self) -> list[str]:
        keys = self.credentials.folder
        return [
            self._binary("kube-apiserver"),
            f"--etcd-servers={_ETCD}",
            f"--advertise-address={self.network.node}",
            "--secure-port=6443",
            f"--tls-cert-file={keys / 'apiserver.crt'}",
            f"--tls-private-key-file={keys / 'apiserver.key'}",
            f"--token-auth-file={keys / 'tokens.csv'}",
            f"--service-account-key-file={keys / 'sa.pub'}",
            f"--service-account-signing-key-file={keys / 'sa.key'}",
            f"--service-account-issuer={ISSUER}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={self.network.services}",
            # The node's name stands in no DNS, and logs and exec would look it up.
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged",
            "--profiling=false",
            f"--audit-policy-file={self._write('audit.json', _AUDIT)}",
            f"--audit-log-path={self.audit_log}",
            # Clients are told to come back elsewhere while it ends; there is nowhere else.
            "--shutdown-delay-duration=0s",
            "--v=1",
        ]

    def controller_manager(self) -> list[str]:
        return [
            self._binary("kube-controller-manager"),
            f"--kubeconfig={self.credentials.kubeconfig('kube-controller-manager')}",
            f"--service-account-private-key-file={self.credentials.folder / 'sa.key'}",
            f"--root-ca-file={self.credentials.ca_file}",
            # As in a real cluster: each controller is a ServiceAccount of kube-system.
            "--use-service-account-credentials=true",
            "--pvclaimbinder-sync-period=2s",  # 15 s is long to wait for a claim when tests watch
            f"--flex-volume-plugin-dir={self.folder / 'volume-plugins'}",  # it makes this folder
            "--leader-elect=false",
            "--v=1",
        ]

    def scheduler(self) -> list[str]:
        return [
            self._binary("kube-scheduler"),
            f"--kubeconfig={self.credentials.kubeconfig('kube-scheduler')}",
            "--leader-elect=false",
            "--v=1",
        ]

    def containerd(self) -> list[str]:
        network = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,  # a pod may meet itself through its Service
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": str(self.network.pods)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        self._write("cni/10-pods.conflist", network)
        config = self.folder / "containerd.toml"
        config.write_text(
            f"""version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.folder}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Root may lack CAP_SYS_RESOURCE (as in most containers); runc would die without a word.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins()}"
    conf_dir = "{self.folder}/cni"
"""
        )
        return [program("containerd"), f"--config={config}"]

    def kubelet(self) -> list[str]:
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            # Only this machine has a way to it, and who is root there needs no password.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "podLogsDir": str(self.folder / "log" / "pods"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "resolvConf": "",
            "syncFrequency": "5s",
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            # Images cannot be had again: there is no registry. So none is ever thrown away.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }
        return [
            self._binary("kubelet"),
            f"--config={self._write('kubelet.json', config)}",
            f"--kubeconfig={self.credentials.kubeconfig('kubelet')}",
            f"--hostname-override={NODE}",
            f"--node-ip={self.network.node}",
            f"--root-dir={self.folder / 'kubelet'}",
            "--v=2",
        ]

    def proxy(self) -> list[str]:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": str(self.network.pods),
            "hostnameOverride": NODE,
            "clientConnection": {"kubeconfig": str(self.credentials.kubeconfig("kube-proxy"))},
            # The machine's limits are not ours to change, and need not be: it is one node.
            "conntrack": {"maxPerCore": 0},
        }
        return [self._binary("kube-proxy"), f"--config={self._write('proxy.json', config)}"]

    def _binary(self, name: str) -> str:
        return str(self.binaries.path(name))

    def _write(self, name: str, content: dict[str, Any]) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
        return path
