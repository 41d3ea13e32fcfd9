"""``backups``: those on all volumes, told by ``storageformat backups list`` in each pod; pinned and unpinned there."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from format_operator.api.names import PLURAL_FORMATSTATES
from format_operator.api.podspec import sidecars
from format_operator.kubectl import fleet, gather, terminal
from format_operator.kubectl.fleet import Answer
from format_operator.kubectl.kube import Kubectl
from format_operator.kubectl.output import document
from format_operator.kubectl.overview import Overview, Place
from format_operator.kubectl.plan import worst
from format_operator.kubectl.problems import FAILED, REFUSED, USAGE, Problem
from format_operator.kubectl.terminal import Look, safe


def run(arguments: argparse.Namespace, kube: Kubectl) -> int:
    words = arguments.words
    if words[0] in {"pin", "unpin"} and len(words) == 3:
        return _pin(kube, *words)
    if len(words) != 1:
        raise Problem(
            f"backups {' '.join(words)}: not understood; nothing was done",
            hint="backups NAME, backups pin POD ID, or backups unpin POD ID",
            code=USAGE,
        )
    found = gather.one(kube, words[0])
    places = fleet.places(found, arguments.pod)
    options = ["-o", "json", *(("--verify",) if arguments.verify else ())]

    def ask(place: Place) -> list[Answer]:
        own = ["--openers-unchecked"] if "--openers-unchecked" in place.arguments else []
        return fleet.ask(kube, place, lambda path: ["backups", "list", path, *options, *own])

    answers = [one for each in fleet.each(places, ask, arguments.parallel) for one in each]
    if arguments.output:
        body = [
            {"pod": one.place.pod, "path": one.path, **(one.document or {"problem": one.problem})}
            for one in answers
        ]
        document({"volumes": body}, arguments.output)
    else:
        look = terminal.of(sys.stdout)
        for line in drawn(kube.words, found, answers, look, datetime.now(UTC)):
            print(line)
    return worst(answers)


def drawn(
    words: Sequence[str], found: Overview, answers: Sequence[Answer], look: Look, now: datetime
) -> Iterator[str]:
    """A table; below it how to restore or delete one."""
    rows: list[tuple[str, ...]] = [("POD", "ID", "AGE", "SIZE", "ROWS", "KEPT", "FORMAT")]
    styles: list[tuple[tuple[str, ...], ...]] = [(("dim",),) * 7]
    first: tuple[Answer, Mapping[str, Any]] | None = None
    for one in answers:
        for backup in (one.document or {}).get("backups") or ():
            first = first or (one, backup)
            rows.append((one.place.pod, *_cells(backup, now)))
            sound: tuple[str, ...] = ("red", "bold") if backup.get("sound") is False else ()
            pinned = ("cyan",) if backup.get("pinned") else ()
            styles.append(((), sound, (), (), (), pinned, ()))
    if len(rows) == 1:
        yield f"no backups on the volumes of {found.namespace}/{found.name}"
    else:
        yield from terminal.table(look, rows, styles, shrink=6)
    for one in answers:
        if one.problem and one.code != 0:
            yield look.paint(f"{one.place.pod}: {safe(one.problem)}", "red")
        elif one.document and "error" in one.document:
            yield look.paint(f"{one.place.pod}: {safe(one.document['error']['message'])}", "red")
    if first is not None:
        yield ""
        yield look.paint(
            "To restore or delete one, in its pod, while the application is stopped:", "dim"
        )
        yield from _commands(words, *first)


def _cells(backup: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    kept = "pinned" if backup.get("pinned") else f"until {backup.get('retainUntil') or 'unknown'}"
    rows = backup.get("rows")
    sound = {"True": ", sound", "False": ", NOT SOUND"}.get(str(backup.get("sound")), "")
    return (
        safe(backup.get("conversionID")),
        terminal.age(backup.get("createdAt"), now),
        terminal.size(backup.get("size") or 0),
        "" if rows is None else f"{rows:,}",
        safe(kept) + sound,
        _format(backup.get("sourceFormat")),
    )


def _format(spec: Mapping[str, Any] | None) -> str:
    if not spec:
        return "unknown"
    rows = spec.get("sqlitedict")
    if isinstance(rows, Mapping):
        words = (rows.get("keyEncoding"), rows.get("valueCodec"), rows.get("compression"))
        return " ".join(str(word) for word in words if word not in {None, "none"})
    return ", ".join(key for key in spec if key != "name")


def _commands(words: Sequence[str], one: Answer, backup: Mapping[str, Any]) -> Iterator[str]:
    place = one.place
    prefix = [*words, "exec", "-n", place.namespace, place.pod, "-c", str(place.container), "--"]
    for verb in ("restore", "delete"):
        command = [*prefix, "storageformat", "backups", verb, one.path, backup["conversionID"]]
        yield f"  {shlex.join(command)}"


def _pin(kube: Kubectl, verb: str, pod: str, identity: str) -> int:
    """In whichever of the pod's databases has that backup."""
    body = kube.get("pods", kube.namespace, pod)
    for container, databases in sidecars(body.get("spec") or {}):
        for name, path in databases:
            place = Place(pod, kube.namespace, "", container=container["name"], path=path)
            for one in fleet.ask(kube, place, lambda at: ["backups", "list", at, "-o", "json"]):
                if one.document is None and one.problem and one.code != 0:
                    raise Problem(f"pod {pod}: {one.problem}; nothing was changed")
                held = [each["conversionID"] for each in (one.document or {}).get("backups") or ()]
                if identity in held:
                    return _do(kube, place, name, verb, one.path, identity)
    raise Problem(
        f"pod {pod} has no backup {identity!r}; nothing was changed",
        hint=f"kubectl get {PLURAL_FORMATSTATES} names the StorageFormats of its pods; backups NAME lists ids",
        code=REFUSED,
    )


def _do(kube: Kubectl, place: Place, name: str, verb: str, path: str, identity: str) -> int:
    assert place.container is not None
    command = ("storageformat", "backups", verb, path, identity)
    done = kube.exec(place.namespace, place.pod, place.container, command)
    if done.code != 0:
        lines = [line for line in done.err.splitlines() if "command terminated" not in line]
        raise Problem(f"pod {place.pod}: {' '.join(lines).strip()}", code=done.code or FAILED)
    print(f"{verb}ned: {identity} of {name} in pod {place.pod} ({path})")
    return 0
