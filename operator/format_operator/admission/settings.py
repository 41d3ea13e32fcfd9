"""What the webhook is told: arguments, and its place through the environment."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from format_operator import __version__
from format_operator.admission.inject import MESHES, Defaults
from format_operator.runtime import lines
from format_operator.settings import (
    DEFAULT_METRICS_PORT,
    ApiServer,
    add_api_options,
    add_log_options,
    api_server,
    sidecar_settings,
)
from format_operator.snippet import DEFAULT_REQUESTS, InvalidSnippet, SnippetOptions

DEFAULT_PORT: Final = 9443
_SHORTEST_LIFETIME: Final = 10.0
_DAY: Final = 86400.0


@dataclass(frozen=True)
class GeneratedCertificates:
    """The Secret and the MutatingWebhookConfiguration that the webhook looks after itself. Times in seconds."""

    namespace: str
    secret: str
    configuration: str
    hosts: tuple[str, ...]
    lifetime: float = 90 * _DAY
    settle: float = 10.0


@dataclass(frozen=True)
class WebhookSettings:
    """Times are in seconds."""

    defaults: Defaults
    certificates: GeneratedCertificates | Path
    """A Path: the directory in which somebody else keeps ``tls.crt`` and ``tls.key``."""
    address: str = "0.0.0.0"  # noqa: S104 # the API server comes from another host
    port: int = DEFAULT_PORT
    metrics_address: str = "0.0.0.0"  # noqa: S104 # as above
    metrics_port: int = DEFAULT_METRICS_PORT
    look_every: float = 30.0
    drain: float = 5.0
    api: ApiServer = field(default_factory=ApiServer)
    log_level: str = "info"
    log_format: str = lines.TEXT


def webhook_settings(
    argv: Sequence[str], environ: Mapping[str, str] = os.environ
) -> WebhookSettings:
    """Parse the arguments. Exits with 2 (argparse) when they make no sense."""
    parser = _parser(environ)
    given = parser.parse_args(argv)
    for option in ("look_every", "drain", "settle"):
        if getattr(given, option) < 0:
            parser.error(f"--{option.replace('_', '-')}: seconds, 0 or more")
    return WebhookSettings(
        defaults=_defaults(parser, given, environ),
        certificates=_certificates(parser, given),
        address=given.address,
        port=given.port,
        metrics_address=given.metrics_address,
        metrics_port=given.metrics_port,
        look_every=max(0.1, given.look_every),
        drain=given.drain,
        api=api_server(given),
        log_level=given.log_level,
        log_format=given.log_format,
    )


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="storageformat webhook",
        description="Puts sidecar and gate into pods that ask for them by annotation.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--image", required=True, help="of the containers that are put into pods")
    add("--image-pull-policy", choices=("Always", "IfNotPresent", "Never"))
    add(
        "--sidecar-metrics-port",
        type=int,
        default=DEFAULT_METRICS_PORT,
        metavar="PORT",
        help="of the sidecars (%(default)s)",
    )
    for what in ("request", "limit"):
        add(
            f"--{what}",
            action="append",
            metavar="RESOURCE=QUANTITY",
            help=f"{what} of the sidecars, as in cpu=10m (repeatable)",
        )
    add(
        "--sidecar-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="one more argument of the sidecars, as in --sidecar-arg=--permit-wait=60 (repeatable)",
    )
    add(
        "--mesh",
        action="append",
        default=[],
        choices=tuple(MESHES),
        help="tell this service mesh by annotation to leave the API server's address alone (repeatable)",
    )
    add(
        "--mesh-address",
        action="append",
        default=[],
        metavar="CIDR",
        help="that address, where it is not $KUBERNETES_SERVICE_HOST (repeatable)",
    )
    add("--address", default="0.0.0.0", help="where the API server comes to (%(default)s)")  # noqa: S104 # as above
    add("--port", type=int, default=DEFAULT_PORT, help="(%(default)s)")
    add("--metrics-address", default="0.0.0.0", metavar="ADDRESS")  # noqa: S104 # as above
    add(
        "--metrics-port",
        type=int,
        default=DEFAULT_METRICS_PORT,
        metavar="PORT",
        help="for /metrics, /healthz and /readyz (%(default)s)",
    )
    add(
        "--certificate-dir",
        type=Path,
        metavar="DIR",
        help="tls.crt and tls.key, kept by somebody else; or let it be made, with all of:",
    )
    add("--certificate-secret", metavar="NAME", help="the Secret in which it is kept")
    add("--configuration", metavar="NAME", help="the MutatingWebhookConfiguration that trusts it")
    add("--host", action="append", default=[], help="a name or address it is made for (repeatable)")
    add(
        "--certificate-namespace",
        default=environ.get("POD_NAMESPACE", ""),
        metavar="NAMESPACE",
        help="of the Secret; or $POD_NAMESPACE",
    )
    add(
        "--certificate-lifetime",
        type=float,
        default=90 * _DAY,
        metavar="S",
        help="replaced when a third of it is left (%(default)s)",
    )
    add(
        "--settle",
        type=float,
        default=10.0,
        metavar="S",
        help="that long a new authority is known before its certificate is shown (%(default)s)",
    )
    add(
        "--look-every",
        type=float,
        default=30.0,
        metavar="S",
        help="after the certificate (%(default)s)",
    )
    add(
        "--drain",
        type=float,
        default=5.0,
        metavar="S",
        help="serve on for so long when told to stop (%(default)s)",
    )
    add_api_options(parser)
    add_log_options(parser)
    return parser


def _defaults(
    parser: argparse.ArgumentParser, given: argparse.Namespace, environ: Mapping[str, str]
) -> Defaults:
    defaults = Defaults(
        image=given.image,
        image_pull_policy=given.image_pull_policy,
        metrics_port=given.sidecar_metrics_port,
        requests=DEFAULT_REQUESTS
        if given.request is None
        else _quantities(parser, "request", given.request),
        limits=_quantities(parser, "limit", given.limit or ()),
        sidecar_args=tuple(given.sidecar_arg),
        log_format=given.log_format,
        meshes=tuple(dict.fromkeys(given.mesh)),
        api_addresses=_addresses(parser, given, environ) if given.mesh else (),
        release=__version__,
    )
    # What would be refused in each pod is refused here, once.
    sidecar_settings(
        ["--database", "none=/none/none", *defaults.sidecar_args], {"POD_NAME": "none"}
    )
    try:
        SnippetOptions(
            image=defaults.image,
            databases={"none": "/none/none"},
            metrics_port=defaults.metrics_port,
            requests=defaults.requests,
            limits=defaults.limits,
        )
    except InvalidSnippet as error:
        parser.error(f"--{error.option.replace('_', '-')}: {error}")
    return defaults


def _quantities(
    parser: argparse.ArgumentParser, option: str, entries: Sequence[str]
) -> dict[str, str]:
    found = {}
    for entry in entries:
        resource, separator, quantity = entry.partition("=")
        if not resource or not separator:
            parser.error(f"--{option} {entry}: write RESOURCE=QUANTITY")
        found[resource] = quantity
    return found


def _addresses(
    parser: argparse.ArgumentParser, given: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[str, ...]:
    told = given.mesh_address or [environ.get("KUBERNETES_SERVICE_HOST", "")]
    try:
        return tuple(str(ipaddress.ip_network(one)) for one in told)
    except ValueError as error:
        parser.error(f"--mesh-address: where do pods find the API server? Write its CIDR ({error})")


def _certificates(
    parser: argparse.ArgumentParser, given: argparse.Namespace
) -> GeneratedCertificates | Path:
    parts = (given.certificate_secret, given.configuration, given.host)
    if given.certificate_dir is not None:
        if any(parts):
            parser.error(
                "--certificate-dir: a certificate is either there or made, not both; leave out --certificate-secret, "
                "--configuration and --host"
            )
        directory: Path = given.certificate_dir
        return directory
    if not all(parts):
        parser.error(
            "which certificate? --certificate-dir; or --certificate-secret, --configuration and --host"
        )
    if not given.certificate_namespace:
        parser.error("--certificate-namespace: set it, or POD_NAMESPACE from the Downward API")
    if given.certificate_lifetime < _SHORTEST_LIFETIME:
        parser.error(f"--certificate-lifetime: at least {_SHORTEST_LIFETIME:g}")
    return GeneratedCertificates(
        namespace=given.certificate_namespace,
        secret=given.certificate_secret,
        configuration=given.configuration,
        hosts=tuple(given.host),
        lifetime=given.certificate_lifetime,
        settle=given.settle,
    )
