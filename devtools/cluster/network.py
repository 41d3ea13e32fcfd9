"""The addresses of a cluster, and the one cable between it and this machine.

Each cluster has a block of 198.18.0.0/15 (RFC 2544: for tests between devices, routed nowhere):
a link to this machine, one network for services, one for pods. The machine gets one interface and
one route for that block, which the kernel removes with the cluster's namespace. There is no way
out: packets for anybody else are refused inside.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import ClusterError
from cluster.machine import program

_POOL = ipaddress.IPv4Network("198.18.0.0/15")
_BLOCK_PREFIX = 21


@dataclass(frozen=True)
class Network:
    """The addresses of the cluster with that index; nothing has happened yet."""

    index: int

    @property
    def block(self) -> ipaddress.IPv4Network:
        """All of this cluster's addresses."""
        size = 1 << (32 - _BLOCK_PREFIX)
        first = int(_POOL.network_address) + self.index * size
        return ipaddress.IPv4Network((first, _BLOCK_PREFIX))

    @property
    def interface(self) -> str:
        """This machine's end of the cable."""
        return f"sfo{self.index}"

    @property
    def host(self) -> str:
        """This machine's address on the cable."""
        return str(self.block[1])

    @property
    def node(self) -> str:
        """The node's address: API server, kubelet, Prometheus."""
        return str(self.block[2])

    @property
    def services(self) -> ipaddress.IPv4Network:
        """Where Services get their addresses."""
        return self._network(1)

    @property
    def pods(self) -> ipaddress.IPv4Network:
        """Where pods get their addresses."""
        return self._network(2)

    @property
    def api_service(self) -> str:
        """The address of the Service ``kubernetes``: always the first one."""
        return str(self.services[1])

    def connect(self, holder: int, run_inside: Callable[..., object]) -> None:
        """Lay the cable into the network namespace of process ``holder``. Raises ClusterError."""
        ip = program("ip")
        for command in (
            f"link add {self.interface} type veth peer name uplink netns {holder}",
            f"address add {self.host}/30 dev {self.interface}",
            f"link set {self.interface} up",
            f"route add {self.block} via {self.node} dev {self.interface}",
        ):
            _run([ip, *command.split()])
        for command in (
            "link set lo up",
            f"address add {self.node}/30 dev uplink",
            "link set uplink up",
            # The node itself reaches Services too: kube-proxy rewrites what leaves by this route.
            f"route add {self.services} dev uplink src {self.node}",
            "route add unreachable default",
        ):
            run_inside(ip, *command.split())
        run_inside("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def _network(self, number: int) -> ipaddress.IPv4Network:
        return list(self.block.subnets(new_prefix=24))[number]


def free_network() -> Network:
    """The first block that this machine has no route into. Call it under a lock.

    Raises ClusterError when all are taken.
    """
    taken = _routes()
    for index in range(1 << (_BLOCK_PREFIX - _POOL.prefixlen)):
        network = Network(index)
        if not any(network.block.overlaps(route) for route in taken):
            return network
    raise ClusterError(f"no block of {_POOL} is free on this machine")


def _routes() -> list[ipaddress.IPv4Network]:
    """The networks that this machine knows a way to, but for the default route."""
    lines = _run([program("ip"), "-4", "route", "show", "table", "all"]).splitlines()
    found = []
    for line in lines:
        for word in line.split()[:2]:  # a type may stand before the destination
            try:
                found.append(ipaddress.IPv4Network(word, strict=False))
                break
            except ValueError:
                continue
    return [network for network in found if network.prefixlen > 0]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
