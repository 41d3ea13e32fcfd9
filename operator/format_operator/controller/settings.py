"""What the controller is told: arguments, and its own place through the environment."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from format_operator.runtime import lines
from format_operator.settings import (
    DEFAULT_METRICS_PORT,
    ApiServer,
    add_api_options,
    add_log_options,
    api_server,
)

DEFAULT_LEASE: Final = "storageformat-controller"
_SHORTEST_PERMIT: Final = 600.0
_SHORTEST_LEASE: Final = 3.0


@dataclass(frozen=True)
class ControllerSettings:
    """Times are in seconds. ``namespaces``: none means the whole cluster."""

    namespaces: tuple[str, ...] = ()
    identity: str = ""
    lease: str = DEFAULT_LEASE
    lease_namespace: str | None = None
    """None: no Lease; this process acts at once."""
    lease_seconds: float = 15.0
    metrics_address: str = "0.0.0.0"  # noqa: S104 # Prometheus comes from another host
    metrics_port: int = DEFAULT_METRICS_PORT
    permit_seconds: float = 3600.0
    resync: float = 300.0
    api: ApiServer = field(default_factory=ApiServer)
    log_level: str = "info"
    log_format: str = lines.TEXT


def controller_settings(
    argv: Sequence[str], environ: Mapping[str, str] = os.environ
) -> ControllerSettings:
    """Parse the arguments. Exits with 2 (argparse) when they make no sense."""
    parser = argparse.ArgumentParser(
        prog="storageformat controller",
        description="Decides which pod converts when: gives permits, restarts pods, reports.",
    )
    add = parser.add_argument
    add(
        "--watch-namespace",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="look after this namespace only (repeatable; default: all)",
    )
    add("--lease-name", default=DEFAULT_LEASE, metavar="NAME", help="(%(default)s)")
    add(
        "--lease-namespace",
        default=environ.get("POD_NAMESPACE", ""),
        metavar="NAMESPACE",
        help="where the Lease is that makes one instance the active one; or $POD_NAMESPACE",
    )
    add(
        "--lease-seconds",
        type=float,
        default=15.0,
        metavar="S",
        help="an instance that was not heard of for so long is replaced (%(default)s)",
    )
    add(
        "--no-lease",
        action="store_true",
        help="act at once: only where no second instance can be running",
    )
    add("--identity", default=environ.get("POD_NAME", ""), metavar="NAME", help="or $POD_NAME")
    add("--metrics-address", default="0.0.0.0", metavar="ADDRESS")  # noqa: S104 # as above
    add(
        "--metrics-port",
        type=int,
        default=DEFAULT_METRICS_PORT,
        metavar="PORT",
        help="for /metrics, /healthz and /readyz (%(default)s)",
    )
    add(
        "--permit-seconds",
        type=float,
        default=3600.0,
        metavar="S",
        help="how long a permit holds; renewed at half of that (%(default)s)",
    )
    add("--resync", type=float, default=300.0, metavar="S", help="between full looks (%(default)s)")
    add_api_options(parser)
    add_log_options(parser)
    given = parser.parse_args(argv)
    if given.permit_seconds < _SHORTEST_PERMIT:
        parser.error(
            f"--permit-seconds {given.permit_seconds:g}: at least {_SHORTEST_PERMIT:g}, or a pod could find its "
            "permit expired when it starts"
        )
    if given.lease_seconds < _SHORTEST_LEASE:
        parser.error(f"--lease-seconds {given.lease_seconds:g}: at least {_SHORTEST_LEASE:g}")
    if given.resync <= 0:
        parser.error("--resync: seconds, more than 0")
    lease_namespace = given.lease_namespace or _own_namespace(given.token_dir)
    if not given.no_lease and not lease_namespace:
        parser.error(
            "--lease-namespace: where is the Lease? Set it, or POD_NAMESPACE from the Downward API; "
            "--no-lease when this is the only instance"
        )
    return ControllerSettings(
        namespaces=tuple(dict.fromkeys(given.watch_namespace)),
        identity=given.identity or socket.gethostname(),
        lease=given.lease_name,
        lease_namespace=None if given.no_lease else lease_namespace,
        lease_seconds=given.lease_seconds,
        metrics_address=given.metrics_address,
        metrics_port=given.metrics_port,
        permit_seconds=given.permit_seconds,
        resync=given.resync,
        api=api_server(given),
        log_level=given.log_level,
        log_format=given.log_format,
    )


def _own_namespace(token_directory: str) -> str:
    try:
        return (Path(token_directory) / "namespace").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
