"""``storageformat render sidecar``: what to put into a pod template, printed.

yaml    initContainers and volumes, with comments, to paste into a pod's spec
json    the same for programs
patch   a strategic merge patch for one workload: for kustomize's ``patches``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from format_operator import __version__
from format_operator.api.names import READS_ANNOTATION
from format_operator.gate_protocol import DEFAULT_SOCKET
from format_operator.runtime import lines
from format_operator.settings import (
    DEFAULT_METRICS_PORT,
    DEFAULT_TOKEN_DIRECTORY,
    sidecar_settings,
)
from format_operator.snippet import (
    DEFAULT_MIGRATIONS_PATH,
    DEFAULT_REQUESTS,
    WORKLOADS,
    InvalidSnippet,
    SnippetOptions,
    pod_template,
    snippet,
    workload_patch,
)

DEFAULT_IMAGE: Final = f"storageformat-operator:{__version__}"

#: Options whose field is called differently.
_FLAGS: Final[Mapping[str, str]] = {
    "requests": "cpu-request, --memory-request",
    "limits": "cpu-limit, --memory-limit",
    "variables": "env",
}

#: Comments by the line that they stand above, or (with a leading space) behind; the first such line only.
_COMMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "initContainers:": ("These two come before everything else that touches the volume.",),
    "- name: storageformat": (
        "A native sidecar. It has no probe, on purpose: a failing one would take a healthy app out",
        "of its Services, and a startup probe would hold the pod back when the sidecar restarts.",
    ),
    "- name: storageformat-gate": ("A plain init container: the app starts when it exits.",),
    "- name: STORAGEFORMAT_READS": (
        f"The pod's annotation {READS_ANNOTATION}, such as v1,v2: the formats that the app reads.",
    ),
    "- name: storageformat-run": ("The socket between the two.",),
    "- name: storageformat-token": (
        "A token of the sidecar's own: the app's containers need none, and the pod may say",
        "automountServiceAccountToken: false.",
    ),
    "- name: storageformat-migrations": (
        "The migrations of a format with migrationsFrom. Make this an immutable ConfigMap per release.",
    ),
}
_ROOT_COMMENT: Final = {
    "add:": (
        "uid 0 with these capabilities is NOT allowed by the pod security standard `restricted`,",
        "and LEASE not by `baseline`. Better: runAsUser with the uid that owns the database.",
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was asked for. Exits with 2 (argparse) when the options make no sense."""
    parser, sidecar = _parser()
    arguments = parser.parse_args(argv)
    try:
        options = _options(sidecar, arguments)
        sys.stdout.write(_rendered(sidecar, arguments, options))
    except InvalidSnippet as error:
        flag = _FLAGS.get(error.option, error.option.replace("_", "-"))
        sidecar.error(f"--{flag}: {error}")
    return 0


def _rendered(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, options: SnippetOptions
) -> str:
    annotations: bool = arguments.prometheus_annotations
    if arguments.output == "patch":
        kind, name = _workload(parser, arguments.workload)
        document = workload_patch(options, kind, name, annotations=annotations)
    elif arguments.workload:
        parser.error("--for: goes with -o patch")
    elif annotations:
        document = pod_template(options, annotations=True)
    else:
        document = dict(snippet(options))
    if arguments.output == "json":
        return json.dumps(document, indent=2) + "\n"
    return commented_yaml(document, root=options.run_as_user == 0)


def commented_yaml(document: Mapping[str, Any], *, root: bool = False) -> str:
    """The document as YAML, each part with its reason."""
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=False, width=200)
    return "".join(_commented(text, dict(_COMMENTS) | (_ROOT_COMMENT if root else {})))


def _commented(text: str, comments: dict[str, tuple[str, ...]]) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        indent = line[: len(line) - len(line.lstrip(" "))]
        for comment in comments.pop(line.strip(), ()):
            yield f"{indent}# {comment}\n"
        yield line


def _workload(parser: argparse.ArgumentParser, text: str | None) -> tuple[str, str]:
    if not text:
        parser.error("-o patch: say for which workload, as in --for statefulset/orders")
    kind, separator, name = text.partition("/")
    if not separator or not name or kind.lower() not in WORKLOADS:
        parser.error(f"--for {text}: write KIND/NAME; KIND is one of {', '.join(WORKLOADS)}")
    return WORKLOADS[kind.lower()], name


def _options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> SnippetOptions:
    given = [*_database_arguments(arguments.database), *arguments.sidecar_arg]
    # The sidecar's own parser judges its arguments: what is printed here would be refused there.
    settings = sidecar_settings(given, {"POD_NAME": "pod", "POD_NAMESPACE": "default"})
    if len(settings.databases) != len(arguments.database):
        parser.error("--sidecar-arg: a database is named with --database")
    if settings.metrics_port != DEFAULT_METRICS_PORT:
        parser.error("--sidecar-arg: the port is named with --metrics-port")
    if (settings.socket, settings.api.token_directory) != (DEFAULT_SOCKET, DEFAULT_TOKEN_DIRECTORY):
        parser.error("--sidecar-arg: socket and token are where the snippet's volumes are mounted")
    if settings.log_format != lines.TEXT:
        parser.error("--sidecar-arg: the log's format is named with --log-format, for the gate too")
    migrations, has_path, path = (arguments.migrations or "").partition(":")
    return SnippetOptions(
        image=arguments.image,
        databases={one.name: one.path for one in settings.databases},
        image_pull_policy=arguments.image_pull_policy,
        run_as_user=arguments.run_as_user,
        run_as_group=arguments.run_as_group,
        volume=arguments.volume,
        mount=arguments.mount,
        sub_path=arguments.sub_path,
        metrics_port=arguments.metrics_port,
        requests=_quantities(arguments.cpu_request, arguments.memory_request),
        limits=_quantities(arguments.cpu_limit, arguments.memory_limit),
        log_format=arguments.log_format,
        variables=dict(_variables(parser, arguments.env)),
        sidecar_args=tuple(arguments.sidecar_arg),
        migrations=None if arguments.migrations is None else migrations,
        migrations_path=path if has_path else DEFAULT_MIGRATIONS_PATH,
    )


def _database_arguments(databases: Sequence[str]) -> Iterator[str]:
    for one in databases:
        yield from ("--database", one)


def _variables(
    parser: argparse.ArgumentParser, variables: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for one in variables:
        name, separator, value = one.partition("=")
        if not separator:
            parser.error(f"--env {one}: write NAME=VALUE")
        yield name, value


def _quantities(cpu: str | None, memory: str | None) -> dict[str, str]:
    return {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(
        prog="storageformat render",
        description="Prints what belongs into the manifests of an app.",
        allow_abbrev=False,
    )
    what = parser.add_subparsers(title="what", required=True, metavar="WHAT")
    text = "the sidecar, the gate and their volumes, for a pod template"
    sidecar: argparse.ArgumentParser = what.add_parser(
        "sidecar", help=text, description=f"Prints {text}.", allow_abbrev=False
    )
    add = sidecar.add_argument
    add(
        "--database",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="StorageFormat and path of its database as the app sees it; a glob in the last part "
        "is allowed (repeatable)",
    )
    add("--image", default=DEFAULT_IMAGE, help="(%(default)s)")
    add("--image-pull-policy", choices=("Always", "IfNotPresent", "Never"))
    add(
        "--run-as-user",
        type=int,
        metavar="UID",
        help="the uid that owns the database; 0 adds capabilities (default: what pod or image say)",
    )
    add("--run-as-group", type=int, metavar="GID", help="(default: the uid)")
    add("--volume", default="data", metavar="NAME", help="the app's volume (%(default)s)")
    add(
        "--mount",
        metavar="PATH",
        help="where the app mounts that volume (default: the directory of the first database)",
    )
    add("--sub-path", metavar="PATH", help="the subPath of the app's mount")
    add(
        "--metrics-port",
        type=int,
        default=DEFAULT_METRICS_PORT,
        metavar="PORT",
        help="(%(default)s)",
    )
    add("--cpu-request", default=DEFAULT_REQUESTS["cpu"], metavar="QUANTITY", help="(%(default)s)")
    add(
        "--memory-request",
        default=DEFAULT_REQUESTS["memory"],
        metavar="QUANTITY",
        help="(%(default)s; empty: none)",
    )
    add("--cpu-limit", metavar="QUANTITY", help="of both containers (default: none)")
    add("--memory-limit", metavar="QUANTITY", help="of both containers (default: none)")
    add(
        "--log-format",
        choices=lines.STYLES,
        default=lines.TEXT,
        help="of both containers: lines for people, or one JSON object each (%(default)s)",
    )
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the sidecar, such as OTEL_EXPORTER_OTLP_ENDPOINT (repeatable)",
    )
    add(
        "--sidecar-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="one more argument of the sidecar, as in --sidecar-arg=--permit-wait=60 (repeatable)",
    )
    add(
        "--migrations",
        metavar="CONFIGMAP[:/PATH]",
        help="a ConfigMap of migrations, mounted for migrationsFrom (default path: "
        f"{DEFAULT_MIGRATIONS_PATH})",
    )
    add(
        "--prometheus-annotations",
        action="store_true",
        help="print a pod template with prometheus.io annotations around it",
    )
    add("-o", "--output", choices=("yaml", "json", "patch"), default="yaml", help="(%(default)s)")
    add(
        "--for",
        dest="workload",
        metavar="KIND/NAME",
        help="what the patch is for: statefulset/orders",
    )
    return parser, sidecar


if __name__ == "__main__":
    sys.exit(main())
