"""Commands in the sidecars of many pods at once, at most so many at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from format_operator.api.podspec import option_values
from format_operator.kubectl.kube import Done, Kubectl
from format_operator.kubectl.overview import Overview, Place
from format_operator.kubectl.problems import REFUSED, Problem

T = TypeVar("T")

#: What a glob means in a pod: files, without SQLite's own side files and what begins with a dot.
_EXPAND = (
    "import glob, json, os, sys; print(json.dumps(sorted(p for p in glob.glob(sys.argv[1]) if os.path.isfile(p) "
    "and not p.endswith(('-wal', '-shm', '-journal')))))"
)


@dataclass(frozen=True)
class Answer:
    """What a command in one pod said of one database. One of ``document`` and ``problem`` is there."""

    place: Place
    path: str
    code: int
    document: dict[str, Any] | None
    problem: str = ""


def places(found: Overview, pods: Sequence[str] | None) -> list[Place]:
    """The pods to ask. Raises Problem when one that was named is none of them, or there is none."""
    known = {place.pod: place for place in found.pods}
    for pod in pods or ():
        if pod not in known:
            raise Problem(
                f"pod {pod!r} is none of {found.namespace}/{found.name}",
                hint=f"its pods are {', '.join(known) or 'none at all'}",
                code=REFUSED,
            )
    chosen = [known[pod] for pod in pods] if pods else list(known.values())
    if not chosen:
        raise Problem(f"{found.namespace}/{found.name} selects no pod", code=REFUSED)
    return chosen


def each(places: Sequence[Place], work: Callable[[Place], T], parallel: int) -> Iterator[T]:
    """``work`` for each, in their order."""
    with ThreadPoolExecutor(parallel) as pool:
        yield from pool.map(work, places)


def ask(
    kube: Kubectl, place: Place, arguments: Callable[[str], Sequence[str]], stdin: str | None = None
) -> list[Answer]:
    """``storageformat …`` on each database of a pod; its answer is a JSON document."""
    if place.container is None:
        return [Answer(place, place.path, 1, None, "has no sidecar for this StorageFormat")]
    try:
        found = paths(kube, place)
    except Problem as problem:
        return [Answer(place, place.path, problem.code, None, problem.message)]
    if not found:
        return [Answer(place, place.path, 0, None, "there is no database yet")]
    return [_ask_one(kube, place, path, arguments(path), stdin) for path in found]


def _ask_one(
    kube: Kubectl, place: Place, path: str, arguments: Sequence[str], stdin: str | None
) -> Answer:
    assert place.container is not None
    try:
        done = kube.exec(
            *(place.namespace, place.pod, place.container),
            ("storageformat", *arguments),
            stdin=stdin,
        )
    except Problem as problem:
        return Answer(place, path, problem.code, None, problem.message)
    return _answer(place, path, done)


def _answer(place: Place, path: str, done: Done) -> Answer:
    try:
        document = json.loads(done.out)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        # Such as a sidecar of an older release, which does not know an option.
        lines = [line for line in done.err.splitlines() if "command terminated" not in line]
        said = lines[-1].strip() if lines else "no answer"
        return Answer(place, path, done.code or 1, None, said)
    return Answer(place, path, done.code, document)


def paths(kube: Kubectl, place: Place) -> list[str]:
    """The databases of a pod: the path that its sidecar serves, or what the glob matches there. Raises Problem."""
    if not any(sign in place.path for sign in "*?["):
        return [place.path]
    assert place.container is not None
    command = ("python", "-c", _EXPAND, place.path)
    done = kube.exec(place.namespace, place.pod, place.container, command)
    try:
        return [str(path) for path in json.loads(done.out)]
    except ValueError as error:
        raise Problem(f"pod {place.pod}: cannot list {place.path}: {done.err.strip()}") from error


def sidecars_options(place: Place) -> list[str]:
    """Options of its sidecar that its conversions go by, and a plan has to go by as well."""
    options: list[str] = []
    for allowed in option_values(place.arguments, "--pickle-allow"):
        options += ["--pickle-allow", allowed]
    if "--openers-unchecked" in place.arguments:
        options.append("--openers-unchecked")
    return options
