"""``support-bundle``: everything that helps to find a fault, without the data. What may be in it is ``redact``'s to say."""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from format_operator import __version__
from format_operator.api.names import PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS
from format_operator.api.podspec import option_values
from format_operator.kubectl import fleet, gather, logs, redact_pods, screen
from format_operator.kubectl.kube import Kubectl, Object
from format_operator.kubectl.overview import Overview, Place, overview
from format_operator.kubectl.problems import REFUSED, Problem
from format_operator.kubectl.redact import Redactor
from format_operator.kubectl.terminal import Look, size

_CONTROLLER: Final = {"labelSelector": "app.kubernetes.io/component in (controller,webhook)"}
_LOG_LINES: Final = {"timestamps": "true", "tailLines": "20000"}
#: Asked in the sidecar itself: pods' ports need not be reachable from where this runs.
_SCRAPE: Final = (
    "import sys, urllib.request; print(urllib.request.urlopen('http://127.0.0.1:' + sys.argv[1] + '/metrics', "
    "timeout=5).read().decode())"
)
_PORT: Final = "9865"
_README: Final = """\
Support bundle of the StorageFormat {namespace}/{name}, made {time} by kubectl storageformat {version}.

What is in it was copied because it is known to hold no data. Left out, with a note "(withheld: N characters)" in its
place: texts that may quote keys, values or SQL (most messages, unknown log lines), the SQL of migrations, values of
environment variables, command lines and probes of other containers than ours, annotations of others. Names of tables,
and of files that a glob matches, are numbers: table-1, database-1.

Look at these before you send it. They are in it as they are:
  names and labels of the namespace, pods, nodes, claims, ConfigMaps, Secrets (never their content), images
  IP addresses of pods and nodes, the path of the database, names of formats and of migrations
  row counts and sizes of databases and backups

Not collected:
{missing}
"""


@dataclass
class _Bundle:
    """Files by name, and what could not be had."""

    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def json(self, name: str, body: Any) -> None:
        self.files[name] = json.dumps(body, indent=1, sort_keys=True) + "\n"

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """What cannot be collected is named, and the rest is collected all the same."""
        try:
            work()
        except Problem as problem:
            # Its text may be of a pod: only what kind of problem it is.
            self.missing.append(f"{what}: {problem.kind or 'failed'}")


def run(arguments: argparse.Namespace, kube: Kubectl) -> int:
    target = arguments.output or f"storageformat-{arguments.name}-{_stamp()}.tar.gz"
    if os.path.exists(target):
        raise Problem(f"{target} is there already; nothing was written", code=REFUSED)
    bundle = collect(
        kube, arguments.name, arguments.controller_namespace, parallel=arguments.parallel
    )
    _write(target, bundle.files)
    print(f"wrote {target}")
    for name, text in sorted(bundle.files.items()):
        print(f"  {size(len(text.encode())):>9}  {name}")
    for one in bundle.missing:
        print(f"  not collected: {one}")
    print("No data is in it: keys, values, SQL, secrets and free texts were withheld.")
    print(
        "Names of pods, nodes, images and labels are. Look at README.txt in it before you send it."
    )
    return 0


def collect(kube: Kubectl, name: str, system: str, *, parallel: int) -> _Bundle:
    """Everything, redacted. Raises Problem when there is no such StorageFormat."""
    namespace = kube.namespace
    formats, _ = kube.items(PLURAL_STORAGEFORMATS, namespace)
    body = next((one for one in formats if one["metadata"]["name"] == name), None)
    if body is None:
        raise gather.no_such(name, namespace, [one["metadata"]["name"] for one in formats])
    states, _ = kube.items(PLURAL_FORMATSTATES, namespace)
    pods, _ = kube.items("pods", namespace)
    found = overview(body, states, pods)
    own = {place.pod for place in found.pods}
    redactor = Redactor(found.path, found.formats)
    chosen = [one for one in pods if one["metadata"]["name"] in own]
    reports = [one for one in states if one["metadata"]["name"].partition(".")[0] == name]
    bundle = _Bundle()
    _objects(bundle, redactor, body, reports, chosen)
    bundle.attempt("events", lambda: _events(bundle, kube, namespace, own | {name}))
    bundle.attempt("versions", lambda: _versions(bundle, kube, reports, chosen))
    _logs(bundle, kube, redactor, found, chosen)
    _of_pods(bundle, kube, redactor, found, parallel)
    bundle.attempt(
        f"controller and webhook in namespace {system}",
        lambda: _controller(bundle, kube, redactor, system),
    )
    bundle.files["README.txt"] = _README.format(
        namespace=namespace,
        name=name,
        time=_stamp(),
        version=__version__,
        missing="\n".join(f"  {one}" for one in bundle.missing) or "  nothing is missing",
    )
    return bundle


def _objects(
    bundle: _Bundle, redactor: Redactor, body: Object, states: list[Object], pods: list[Object]
) -> None:
    safe_body = redactor.storageformat(body)
    safe_states = [redactor.formatstate(one) for one in states]
    safe_pods = [redact_pods.pod(one) for one in pods]
    bundle.json("storageformat.json", safe_body)
    bundle.json("formatstates.json", safe_states)
    bundle.json("pods.json", safe_pods)
    # Drawn of what was redacted: it can show no more than that.
    drawn = overview(safe_body, safe_states, safe_pods)
    bundle.files["status.txt"] = screen.screen([drawn], Look(width=120), datetime.now(UTC)) + "\n"


def _events(bundle: _Bundle, kube: Kubectl, namespace: str, names: set[str]) -> None:
    found, _ = kube.items("events", namespace)
    kinds = {"Pod", "StorageFormat", "FormatState", "StatefulSet", "Deployment", "DaemonSet"}
    own = [
        one
        for one in found
        if (one.get("involvedObject") or {}).get("kind") in kinds
        and one["involvedObject"].get("name") in names
    ]
    bundle.json("events.json", [redact_pods.event(one) for one in own])


def _versions(bundle: _Bundle, kube: Kubectl, states: list[Object], pods: list[Object]) -> None:
    done = kube.run("version", "--output=json")
    try:
        said = json.loads(done.out)
    except ValueError:
        said = {}
    images = {
        status.get("imageID") or status.get("image")
        for one in pods
        for status in (one.get("status") or {}).get("initContainerStatuses") or ()
    }
    bundle.json(
        "versions.json",
        {
            "plugin": __version__,
            "kubectl": (said.get("clientVersion") or {}).get("gitVersion"),
            "server": (said.get("serverVersion") or {}).get("gitVersion"),
            "sidecars": sorted(
                {str((one.get("status") or {}).get("sidecarVersion")) for one in states}
            ),
            "images": sorted(str(one) for one in images),
        },
    )


def _logs(
    bundle: _Bundle, kube: Kubectl, redactor: Redactor, found: Overview, pods: list[Object]
) -> None:
    for pod in pods:
        for source in logs.sources(pod, found.name, previous=True):
            previous = ".previous" if source.previous else ""
            name = f"logs/{source.pod}/{source.container}{previous}.log"
            bundle.attempt(
                name, partial(_log, bundle, kube, redactor, found.namespace, source, name)
            )


def _log(
    bundle: _Bundle,
    kube: Kubectl,
    redactor: Redactor,
    namespace: str,
    source: logs.Source,
    name: str,
) -> None:
    lines, problems = logs.read(kube, namespace, [source], _LOG_LINES)
    if problems:
        raise Problem(problems[0])
    bundle.files[name] = redactor.log("\n".join(line.text for line in lines)) + "\n"


def _of_pods(
    bundle: _Bundle, kube: Kubectl, redactor: Redactor, found: Overview, parallel: int
) -> None:
    """Inspections and metrics, of each sidecar."""

    def ask(place: Place) -> tuple[Place, list[fleet.Answer], str | Problem]:
        told = fleet.ask(kube, place, lambda path: ["inspect", path, "-o", "json"])
        assert place.container is not None
        ports = option_values(place.arguments, "--metrics-port")
        command = ("python", "-c", _SCRAPE, ports[-1] if ports else _PORT)
        try:
            done = kube.exec(place.namespace, place.pod, place.container, command)
        except Problem as problem:
            return place, told, problem
        return place, told, done.out if done.code == 0 else Problem("no answer")

    for place, told, scrape in fleet.each(found.served, ask, parallel):
        inspected = [redactor.inspection(one.document) for one in told if one.document is not None]
        bundle.json(f"inspect/{place.pod}.json", inspected)
        bundle.missing += [
            f"inspect of {place.pod}: exit code {one.code}" for one in told if one.document is None
        ]
        if isinstance(scrape, Problem):
            bundle.missing.append(f"metrics of {place.pod}: {scrape.kind or 'failed'}")
        else:
            bundle.files[f"metrics/{place.pod}.txt"] = redactor.metrics(scrape) + "\n"


def _controller(bundle: _Bundle, kube: Kubectl, redactor: Redactor, system: str) -> None:
    pods, _ = kube.items("pods", system, _CONTROLLER)
    if not pods:
        bundle.missing.append(f"controller and webhook: no pod of them in namespace {system}")
    bundle.json("controller/pods.json", [redact_pods.pod(one) for one in pods])
    for pod in pods:
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            lives = [False, *([True] if (status.get("lastState") or {}).get("terminated") else [])]
            for previous in lives:
                source = logs.Source(pod["metadata"]["name"], status["name"], previous=previous)
                name = f"controller/{source.pod}{'.previous' if previous else ''}.log"
                bundle.attempt(name, partial(_log, bundle, kube, redactor, system, source, name))


def _write(target: str, files: dict[str, str]) -> None:
    """For the one who asked alone: mode 0600."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    folder = os.path.basename(target).removesuffix(".tar.gz")
    with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in sorted(files.items()):
            content = text.encode()
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mtime, info.mode = len(content), int(time.time()), 0o600
            archive.addfile(info, io.BytesIO(content))


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
