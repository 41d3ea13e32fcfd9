"""What the processes of a pod are told: arguments, and the Downward API through the environment.

Standard library only: the supervisor checks the arguments before it starts a worker, and stays small.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from format_operator.api.names import MAX_STORAGEFORMAT_NAME, READS_ANNOTATION, parse_reads
from format_operator.gate_protocol import DEFAULT_SOCKET
from format_operator.runtime import lines

DEFAULT_METRICS_PORT: Final = 9865
DEFAULT_TOKEN_DIRECTORY: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 # a path
#: Set by the supervisor, which outlives workers: how many of this container's ended, and how many of them hung.
RESTARTS_VARIABLE: Final = "STORAGEFORMAT_WORKER_RESTARTS"
HANGS_VARIABLE: Final = "STORAGEFORMAT_WORKER_HANGS"
_GLOB: Final = re.compile(r"[*?\[]")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ANNOTATION_LINE: Final = re.compile(r'(?P<key>[^=]+)="(?P<value>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class DatabaseArgument:
    """``--database NAME=PATH``: the StorageFormat ``name`` governs the database at ``path`` (or the glob)."""

    name: str
    path: str

    @property
    def is_glob(self) -> bool:
        return _GLOB.search(self.path) is not None


@dataclass(frozen=True)
class ApiServer:
    """How to reach the API server. By default as any pod does: the environment and the token's directory."""

    url: str | None = None
    token_directory: str = DEFAULT_TOKEN_DIRECTORY
    token_file: str | None = None
    ca_file: str | None = None
    kubeconfig: str | None = None


@dataclass(frozen=True)
class SidecarSettings:
    """Times are in seconds."""

    databases: tuple[DatabaseArgument, ...]
    socket: str = DEFAULT_SOCKET
    metrics_address: str = "0.0.0.0"  # noqa: S104 # Prometheus comes from another host
    metrics_port: int = DEFAULT_METRICS_PORT
    pod_name: str = ""
    pod_uid: str = ""
    node_name: str = ""
    namespace: str = "default"
    reads: frozenset[str] | None = None
    annotations_file: str | None = None
    permit_wait: float = 30.0
    api_wait: float = 10.0
    resync: float = 300.0
    gate_grace: float = 10.0
    openers_unchecked: bool = False
    pickle_allow: tuple[str, ...] = ()
    api: ApiServer = ApiServer()
    log_level: str = "info"
    log_format: str = lines.TEXT
    supervisor_fd: int | None = None

    def current_reads(self) -> frozenset[str] | None:
        """The formats that the app of this pod can read; None: no guard.

        The Downward API's file follows the pod's annotations; the environment is as it was at the start.
        """
        if self.annotations_file is None:
            return self.reads
        annotation = read_annotation(Path(self.annotations_file), READS_ANNOTATION)
        return parse_reads(annotation) if annotation is not None else self.reads


def read_annotation(file: Path, key: str) -> str | None:
    """One annotation from a Downward API file (``key="escaped value"`` per line); None when not there."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    for line in text.splitlines():
        match = _ANNOTATION_LINE.fullmatch(line.strip())
        if match is not None and match["key"] == key:
            return re.sub(r"\\(.)", r"\1", match["value"])
    return None


def sidecar_settings(
    argv: Sequence[str], environ: Mapping[str, str] = os.environ
) -> SidecarSettings:
    """Parse the sidecar's arguments. Exits with 2 (argparse) when they make no sense."""
    parser = _sidecar_parser(environ)
    given = parser.parse_args(argv)
    databases = tuple(_database(parser, text) for text in given.database)
    names = [one.name for one in databases]
    for name in names:
        if names.count(name) > 1:
            # One StorageFormat has one path, and one FormatState reports on it.
            parser.error(f"--database {name}=…: one StorageFormat, one path (a path may be a glob)")
    for option in ("permit_wait", "api_wait", "gate_grace"):
        if getattr(given, option) < 0:
            parser.error(f"--{option.replace('_', '-')}: seconds, 0 or more")
    if given.resync <= 0:
        parser.error("--resync: seconds, more than 0")
    if not given.pod_name:
        parser.error(
            "--pod-name: who am I? Set it, or POD_NAME from the Downward API (metadata.name)"
        )
    return SidecarSettings(
        databases=databases,
        socket=given.socket,
        metrics_address=given.metrics_address,
        metrics_port=given.metrics_port,
        pod_name=given.pod_name,
        pod_uid=given.pod_uid,
        node_name=given.node_name,
        namespace=given.namespace or _namespace(given.token_dir),
        reads=parse_reads(given.reads),
        annotations_file=given.annotations_file,
        permit_wait=given.permit_wait,
        api_wait=given.api_wait,
        resync=given.resync,
        gate_grace=given.gate_grace,
        openers_unchecked=given.openers_unchecked,
        pickle_allow=tuple(given.pickle_allow),
        api=api_server(given),
        log_level=given.log_level,
        log_format=given.log_format,
        supervisor_fd=given.supervisor_fd,
    )


def _sidecar_parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="storageformat sidecar",
        description="Recovers and converts this pod's databases before the app starts, and reports.",
    )
    add = parser.add_argument
    add(
        "--database",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="StorageFormat and database path, a glob in its last part allowed (repeatable)",
    )
    add(
        "--socket", default=DEFAULT_SOCKET, metavar="PATH", help="where gates connect (%(default)s)"
    )
    add("--metrics-address", default="0.0.0.0", metavar="ADDRESS")  # noqa: S104 # as above
    add(
        "--metrics-port",
        type=int,
        default=DEFAULT_METRICS_PORT,
        metavar="PORT",
        help="(%(default)s)",
    )
    add("--pod-name", default=environ.get("POD_NAME", ""), metavar="NAME", help="or $POD_NAME")
    add("--pod-uid", default=environ.get("POD_UID", ""), metavar="UID", help="or $POD_UID")
    add("--node-name", default=environ.get("NODE_NAME", ""), metavar="NAME", help="or $NODE_NAME")
    add("--namespace", default=environ.get("POD_NAMESPACE", ""), help="or $POD_NAMESPACE")
    add(
        "--reads",
        default=environ.get("STORAGEFORMAT_READS", ""),
        metavar="V1,V2",
        help=f"the pod's annotation {READS_ANNOTATION}, or $STORAGEFORMAT_READS",
    )
    add(
        "--annotations-file", metavar="FILE", help="the Downward API's file of annotations, instead"
    )
    add("--permit-wait", type=float, default=30.0, metavar="S", help="for a permit (%(default)s)")
    add("--api-wait", type=float, default=10.0, metavar="S", help="for the API (%(default)s)")
    add("--resync", type=float, default=300.0, metavar="S", help="between full looks (%(default)s)")
    add(
        "--gate-grace",
        type=float,
        default=10.0,
        metavar="S",
        help="without a gate for that long after a start, the app is taken to run (%(default)s)",
    )
    add("--openers-unchecked", action="store_true", help="recover also where there are no leases")
    add(
        "--pickle-allow",
        action="append",
        default=[],
        metavar="MODULE.NAME",
        help="a class of the standard library that pickled values may hold (repeatable)",
    )
    add_api_options(parser)
    add_log_options(parser)
    add("--supervisor-fd", type=int, help=argparse.SUPPRESS)
    return parser


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """How a process tells what it does, for every role that has a log."""
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )
    parser.add_argument(
        "--log-format",
        default=lines.TEXT,
        choices=lines.STYLES,
        help="lines for people, or one JSON object each (%(default)s)",
    )


def add_api_options(parser: argparse.ArgumentParser) -> None:
    """How to reach the API server, for every role that does; ``api_server`` reads them."""
    add = parser.add_argument
    add("--kube-api", metavar="URL", help="API server, when not in a cluster")
    add(
        "--token-dir", default=DEFAULT_TOKEN_DIRECTORY, metavar="DIR", help="of the projected token"
    )
    add("--token-file", metavar="FILE")
    add("--ca-file", metavar="FILE")
    add("--kubeconfig", metavar="FILE")


def api_server(given: argparse.Namespace) -> ApiServer:
    """What ``add_api_options`` were given."""
    return ApiServer(
        given.kube_api, given.token_dir, given.token_file, given.ca_file, given.kubeconfig
    )


def _database(parser: argparse.ArgumentParser, text: str) -> DatabaseArgument:
    name, separator, path = text.partition("=")

    def refuse(why: str) -> NoReturn:
        parser.error(f"--database {text}: {why}")

    if not separator or not _NAME.fullmatch(name) or len(name) > MAX_STORAGEFORMAT_NAME:
        refuse("write NAME=PATH; NAME is a StorageFormat's, without dots")
    if not path.startswith("/") or os.path.normpath(path) != path:
        refuse("the path is absolute and in its shortest form")
    if _GLOB.search(str(Path(path).parent)):
        refuse("a glob may stand in the last part only")
    return DatabaseArgument(name, path)


def _namespace(token_directory: str) -> str:
    try:
        return (Path(token_directory) / "namespace").read_text(
            encoding="utf-8"
        ).strip() or "default"
    except OSError:
        return "default"
