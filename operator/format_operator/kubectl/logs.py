"""``logs``: of the sidecars and gates of all pods, merged by the time at which each line was written."""

from __future__ import annotations

import argparse
import heapq
import itertools
import queue
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from format_operator.api import podspec
from format_operator.kubectl import fleet, gather, terminal
from format_operator.kubectl.kube import Kubectl, Object, Stream, path_of
from format_operator.kubectl.overview import Overview, overview, sidecar_of
from format_operator.kubectl.problems import FAILED, Problem
from format_operator.kubectl.watching import Mirror, What

#: Lines of several containers arrive a moment apart; so long is waited to put them in order.
_SORT_SECONDS: Final = 0.5
_COLORS: Final = ("cyan", "green", "yellow", "bold")
_TIME: Final = re.compile(r"(\d+)(ms|s|m|h)")
_UNITS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Source:
    """A container's log: one life of it."""

    pod: str
    container: str
    previous: bool = False


@dataclass(frozen=True, order=True)
class Line:
    """``at``: RFC 3339 with nanoseconds, as the kubelet writes it; texts of it sort by time."""

    at: str
    number: int
    pod: str
    container: str
    text: str


def run(arguments: argparse.Namespace, kube: Kubectl) -> int:
    since = since_seconds(arguments.since)
    found = gather.one(kube, arguments.name)
    places = fleet.places(found, arguments.pod)
    query = {"timestamps": "true"}
    query |= {"sinceSeconds": str(since)} if since is not None else {}
    query |= {"tailLines": str(arguments.tail)} if arguments.tail is not None else {}
    printer = _Printer()
    if arguments.follow:
        return _follow(kube, found, arguments.pod, query, printer)
    wanted = {place.pod for place in places}
    pods, _ = kube.items("pods", found.namespace)
    chosen = [
        source
        for pod in pods
        if pod["metadata"]["name"] in wanted
        for source in sources(pod, found.name, previous=arguments.previous)
    ]
    lines, problems = read(kube, found.namespace, chosen, query)
    for line in lines:
        printer.show(line)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not chosen:
        print("no sidecar or gate has been started yet", file=sys.stderr)
    return FAILED if problems else 0


def since_seconds(text: str | None) -> int | None:
    """``10m`` or ``1h30m`` in seconds, at least one. Raises Problem."""
    if text is None:
        return None
    parts = _TIME.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Problem(f"--since {text}: no time", hint="write it as 30s, 10m or 1h30m", code=2)
    return max(1, round(sum(int(number) * _UNITS[unit] for number, unit in parts)))


def sources(pod: Object, name: str, *, previous: bool) -> Iterator[Source]:
    """The logs of a pod's sidecar for that StorageFormat and of its gates, as far as they were started."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    sidecar = sidecar_of(spec, name)
    if sidecar is None:
        return
    wanted = {sidecar[0]["name"], *podspec.gates(spec)}
    for one in status.get("initContainerStatuses") or ():
        if one["name"] not in wanted:
            continue
        ended = (one.get("lastState") or {}).get("terminated")
        if previous and ended:
            yield Source(pod["metadata"]["name"], one["name"], previous=True)
        state = one.get("state") or {}
        if "running" in state or "terminated" in state:
            yield Source(pod["metadata"]["name"], one["name"])


def read(
    kube: Kubectl, namespace: str, chosen: Iterable[Source], query: Mapping[str, str]
) -> tuple[Iterator[Line], list[str]]:
    """What was logged so far, merged; and what could not be read."""
    problems: list[str] = []

    def fetch(source: Source) -> list[Line]:
        path = path_of("pods", namespace, source.pod, "log")
        try:
            text = kube.raw(path, _query(source, query))
        except Problem as problem:
            problems.append(f"{source.pod}/{source.container}: {problem.message}")
            return []
        return [_line(source, *item) for item in enumerate(text.splitlines())]

    with ThreadPoolExecutor(8) as pool:
        each = list(pool.map(fetch, chosen))
    return heapq.merge(*each), problems


def _query(source: Source, query: Mapping[str, str]) -> dict[str, str]:
    return {
        **query,
        "container": source.container,
        **({"previous": "true"} if source.previous else {}),
    }


def _line(source: Source, number: int, text: str) -> Line:
    at, _, rest = text.partition(" ")
    return Line(at, number, source.pod, source.container, rest)


class _Printer:
    """Prefixes each line with where it is from, each pod in its colour on a terminal."""

    def __init__(self) -> None:
        self._look = terminal.of(sys.stdout)
        self._colors: dict[str, str] = {}
        self._next = itertools.cycle(_COLORS)

    def show(self, line: Line) -> None:
        color = self._colors.setdefault(line.pod, "")
        if not color:
            color = self._colors[line.pod] = next(self._next)
        prefix = f"[{line.pod}/{line.container}]"
        print(f"{self._look.paint(prefix, color)} {line.text}", flush=True)


# --- -f -----------------------------------------------------------------------------------------------------


def _follow(
    kube: Kubectl,
    found: Overview,
    only: list[str] | None,
    query: Mapping[str, str],
    printer: _Printer,
) -> int:
    """Every container that is there, and each that is started later, until it is interrupted."""
    mirror = Mirror(kube, [What("pods", found.namespace)])
    mirror.start()
    lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
    followed: set[tuple[str, str, int]] = set()
    began = True
    buffer: list[tuple[str, float, Line]] = []
    try:
        while True:
            pods = mirror.objects("pods")
            chosen = {place.pod for place in overview(found.body, (), pods).served}
            for pod in pods:
                name = pod["metadata"]["name"]
                if name in chosen and (only is None or name in only):
                    _attach(
                        kube,
                        found,
                        pod,
                        query if began else {"timestamps": "true"},
                        followed,
                        lines,
                    )
            began = False
            mirror.wait(_SORT_SECONDS / 2)
            _drain(lines, buffer, printer)
    finally:
        mirror.stop()


def _attach(
    kube: Kubectl,
    found: Overview,
    pod: Object,
    query: Mapping[str, str],
    followed: set[tuple[str, str, int]],
    lines: queue.SimpleQueue[Line],
) -> None:
    status = pod.get("status") or {}
    starts = {
        one["name"]: int(one.get("restartCount") or 0)
        for one in status.get("initContainerStatuses") or ()
    }
    for source in sources(pod, found.name, previous=False):
        key = (pod["metadata"]["uid"], source.container, starts.get(source.container, 0))
        if key in followed:
            continue
        followed.add(key)
        path = path_of("pods", found.namespace, source.pod, "log")
        stream = kube.stream(path, {**_query(source, query), "follow": "true"})
        threading.Thread(target=_pump, args=(stream, source, lines), daemon=True).start()


def _pump(stream: Stream, source: Source, lines: queue.SimpleQueue[Line]) -> None:
    try:
        for number, text in enumerate(stream.lines()):
            lines.put(_line(source, number, text))
    except Problem as problem:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        lines.put(Line(now, 0, source.pod, source.container, f"(log ended: {problem.message})"))


def _drain(
    lines: queue.SimpleQueue[Line], buffer: list[tuple[str, float, Line]], printer: _Printer
) -> None:
    """Show what has been here for long enough that nothing older is still to come."""
    now = time.monotonic()
    while not lines.empty():
        line = lines.get()
        heapq.heappush(buffer, (line.at, now, line))
    while buffer and now - buffer[0][1] >= _SORT_SECONDS:
        printer.show(heapq.heappop(buffer)[2])
