"""``plan``: what a conversion would do, told by ``storageformat plan`` in each running pod."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from format_operator.kubectl import fleet, gather, terminal
from format_operator.kubectl.fleet import Answer
from format_operator.kubectl.kube import Kubectl
from format_operator.kubectl.output import document
from format_operator.kubectl.overview import Overview
from format_operator.kubectl.problems import FAILED, NEEDS_A_PERSON, REFUSED, TRY_AGAIN, Problem
from format_operator.kubectl.terminal import Look, safe

#: Which of several exit codes counts: the one that asks for most.
_WORST = (0, TRY_AGAIN, REFUSED, FAILED, NEEDS_A_PERSON)
_SHOWN_OBSTACLES = 5


def run(arguments: argparse.Namespace, kube: Kubectl) -> int:
    found = gather.one(kube, arguments.name)
    target = arguments.format or found.target
    if target not in found.formats:
        raise Problem(
            f"{found.name} has no format {target!r}; it has {', '.join(found.formats)}",
            hint="--format takes one of these; add others to spec.formats",
            code=REFUSED,
        )
    body = json.dumps(gather.body_for_sidecar(found))
    options = [
        "--format",
        target,
        "-o",
        "json",
        "--rehearse" if arguments.rehearse else "--while-in-use",
    ]
    ask = partial(_ask, kube, options, body)
    places = fleet.places(found, arguments.pod)
    answers = [one for each in fleet.each(places, ask, arguments.parallel) for one in each]
    if arguments.output:
        document({"target": target, "plans": [_document(one) for one in answers]}, arguments.output)
    else:
        for line in drawn(found, target, answers, terminal.of(sys.stdout)):
            print(line)
    return worst(answers)


def _ask(kube: Kubectl, options: Sequence[str], body: str, place: Any) -> list[Answer]:
    own = fleet.sidecars_options(place)

    def words(path: str) -> list[str]:
        return ["plan", path, "--to", "-", *options, *own]

    return fleet.ask(kube, place, words, stdin=body)


def worst(answers: Sequence[Answer]) -> int:
    """The exit code over all of them."""
    codes = {one.code if one.code in _WORST else FAILED for one in answers}
    return max(codes, key=_WORST.index, default=0)


def _document(one: Answer) -> dict[str, Any]:
    told = {"pod": one.place.pod, "path": one.path, "exitCode": one.code}
    return {**told, "plan": one.document} if one.document else {**told, "problem": one.problem}


# --- as text ------------------------------------------------------------------------------------------------


def drawn(found: Overview, target: str, answers: Sequence[Answer], look: Look) -> Iterator[str]:
    """A table, with what stands in the way below each pod."""
    several = len({one.path for one in answers}) > 1
    rows = [("POD", *(("DATABASE",) if several else ()), "WOULD", "ROWS", "SIZE", "SPACE", "TIME")]
    styles: list[tuple[tuple[str, ...], ...]] = [(("dim",),) * len(rows[0])]
    for one in answers:
        would, painted = _would(one)
        cells = _cells(one.document) if one.document and "error" not in one.document else ("",) * 4
        shown = (one.path.rpartition("/")[2],) if several else ()
        rows.append((one.place.pod, *shown, would, *cells))
        styles.append(((), *(((),) if several else ()), painted, (), (), (), ()))
    yield f"{look.paint(found.name, 'bold')}: to {target}, as {len(answers)} running sidecars see it"
    yield ""
    lines = terminal.table(look, rows, styles)
    yield lines[0]
    for one, line in zip(answers, lines[1:], strict=True):
        yield line
        for text in _notes(one):
            yield from (look.paint(wrapped, "dim") for wrapped in look.wrap(safe(text), 4))
    summary = _summary(answers)
    if summary:
        yield ""
        yield summary


def _would(one: Answer) -> tuple[str, tuple[str, ...]]:
    document = one.document
    if document is None:
        return ("nothing", ()) if one.code == 0 else ("no answer", ("red",))
    if "error" in document:
        return ("in use", ("yellow",)) if one.code == TRY_AGAIN else ("fail", ("red",))
    action = str(document.get("action", ""))
    if document.get("obstacles") or document.get("refusal"):
        return "refuse", ("red", "bold")
    if document.get("rehearsal"):
        return "convert (rehearsed)", ("green",)
    return {"none": ("nothing", ()), "recover": ("recover first", ("yellow",))}.get(
        action, (action, ("green",))
    )


def _cells(document: Mapping[str, Any]) -> tuple[str, str, str, str]:
    rows = sum(one.get("rows", 0) for one in document.get("tables") or ())
    needed, free = document.get("bytesNeeded") or 0, document.get("bytesAvailable") or 0
    estimate, rehearsal = document.get("estimate") or {}, document.get("rehearsal") or {}
    time = ""
    if rehearsal:
        time = terminal.duration(float(rehearsal["seconds"]))
    elif estimate:
        time = f"~{terminal.duration(float(estimate['seconds']))}"
    return (
        f"{rows:,}" if rows else "",
        terminal.size(document.get("size") or 0),
        f"{terminal.size(needed)} of {terminal.size(free)}" if needed else "",
        time,
    )


def _notes(one: Answer) -> Iterator[str]:
    document = one.document
    if document is None:
        yield one.problem
        return
    error = document.get("error")
    if error:
        yield f"{error.get('reason')}: {error.get('message')}. {error.get('hint', '')}"
        return
    obstacles = document.get("obstacles") or []
    for found in obstacles[:_SHOWN_OBSTACLES]:
        yield f"table {found['table']!r}, key {found['key']}: {found['what']}"
    if len(obstacles) > _SHOWN_OBSTACLES:
        yield f"and {len(obstacles) - _SHOWN_OBSTACLES} more; -o json has them all"
    refusal = document.get("refusal")
    if refusal:
        yield f"{refusal.get('reason')}: {refusal.get('message')}. {refusal.get('hint', '')}"
    yield from (f"{pending} would be recovered first" for pending in document.get("pending") or ())
    rehearsal = document.get("rehearsal")
    if rehearsal:
        before, after = (terminal.size(rehearsal[key]) for key in ("bytesBefore", "bytesAfter"))
        yield f"{rehearsal['rows']:,} rows, each verified; {before} became {after}; the copy is gone"


def _summary(answers: Sequence[Answer]) -> str:
    refused = sum(_would(one)[0] == "refuse" for one in answers)
    if refused:
        return f"{refused} of {len(answers)} would be refused; nothing would be touched there"
    in_use = sum(_would(one)[0] == "in use" for one in answers)
    if in_use:
        return (
            f"{in_use} of {len(answers)} are in use: a rehearsal copies the file, and its application must not "
            "have it open meanwhile; without --rehearse a plan is made beside a running one"
        )
    return ""
