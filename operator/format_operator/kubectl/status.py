"""``status``: one screen; ``--watch``: the same as it changes, or a line per change where nobody looks at a terminal."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime

from format_operator.api.names import PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS
from format_operator.kubectl import gather, screen, terminal
from format_operator.kubectl.kube import Kubectl
from format_operator.kubectl.output import document
from format_operator.kubectl.overview import Overview
from format_operator.kubectl.overview import document as of
from format_operator.kubectl.problems import USAGE, Problem
from format_operator.kubectl.watching import Mirror

#: Changes that come together are one drawing.
_PAUSE_SECONDS = 0.2
#: Ages go on without news.
_REDRAW_SECONDS = 10.0
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def run(arguments: argparse.Namespace, kube: Kubectl) -> int:
    namespace = None if arguments.all_namespaces else kube.namespace
    if arguments.watch and arguments.output:
        raise Problem(
            "--watch draws a screen, or prints a line per change; it has no --output",
            hint="for programs: kubectl get storageformats,formatstates --watch -o json",
            code=USAGE,
        )
    if arguments.watch:
        return _watch(arguments, kube, namespace)
    found = gather.overviews(kube, namespace, arguments.name)
    if arguments.output:
        document({"storageformats": [of(one) for one in found]}, arguments.output)
        return 0
    print(_drawn(found, namespace, terminal.of(sys.stdout)))
    return 0


def _drawn(found: list[Overview], namespace: str | None, look: terminal.Look) -> str:
    if not found:
        where = f"namespace {namespace}" if namespace else "any namespace"
        return f"no StorageFormat in {where}"
    return screen.screen(found, look, datetime.now(UTC))


def _watch(arguments: argparse.Namespace, kube: Kubectl, namespace: str | None) -> int:
    mirror = Mirror(kube, gather.kinds(namespace))
    try:
        mirror.start()
        _seen(mirror, arguments.name, namespace)
        if sys.stdout.isatty():
            _redraw(mirror, arguments.name, namespace)
        else:
            _tell(mirror, arguments.name, namespace)
    except KeyboardInterrupt:
        pass  # how a watch ends
    finally:
        mirror.stop()
    return 0


def _seen(mirror: Mirror, name: str | None, namespace: str | None) -> list[Overview]:
    return gather.assembled(
        mirror.objects(PLURAL_STORAGEFORMATS),
        mirror.objects(PLURAL_FORMATSTATES),
        mirror.objects("pods"),
        name=name,
        namespace=namespace,
    )


def _redraw(mirror: Mirror, name: str | None, namespace: str | None) -> None:
    sys.stdout.write(_ENTER)
    last = ""
    try:
        while True:
            look = terminal.of(sys.stdout)
            try:
                last = _drawn(_seen(mirror, name, namespace), namespace, look)
            except Problem as gone:
                last = gone.message
            problem = mirror.problem()
            if problem is not None:
                warning = look.paint(f"not up to date: {problem.message}", "red", "bold")
                text = f"{warning}\n\n{last}"
            else:
                text = last
            clock = time.strftime("%H:%M:%S")
            lines = screen.fitted(text, look, clock).replace("\n", "\x1b[K\r\n")
            sys.stdout.write(f"\x1b[H{lines}\x1b[K\x1b[J")
            sys.stdout.flush()
            mirror.wait(_REDRAW_SECONDS)
            time.sleep(_PAUSE_SECONDS)
    finally:
        sys.stdout.write(f"{_LEAVE}{last}\n")
        sys.stdout.flush()


def _tell(mirror: Mirror, name: str | None, namespace: str | None) -> None:
    told: dict[str, str] = {}
    trouble = ""
    while True:
        problem = mirror.problem()
        said = problem.message if problem is not None else ""
        if said and said != trouble:
            _line("watch", said)
        trouble = said
        try:
            now = screen.facts(_seen(mirror, name, namespace))
        except Problem:
            now = {}
        for key in [*now, *(key for key in told if key not in now)]:
            if now.get(key) != told.get(key):
                _line(key, now.get(key, "is gone"))
        told = now
        while not mirror.wait(_REDRAW_SECONDS):
            pass


def _line(key: str, text: str) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{moment} {key} {text}", flush=True)
