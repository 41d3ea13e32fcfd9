"""``pause``, ``resume`` and ``undo``: changes of a StorageFormat's spec, said before and after."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from format_operator.kubectl import gather, terminal
from format_operator.kubectl.kube import Kubectl
from format_operator.kubectl.overview import Overview, Place
from format_operator.kubectl.problems import REFUSED, USAGE, Problem

_DONE = {
    "none": "",
    "client": " (client dry run: nothing was changed)",
    "server": " (server dry run)",
}


def run(arguments: argparse.Namespace, kube: Kubectl) -> int:
    if arguments.command == "undo":
        return _undo(arguments, kube)
    return _suspend(arguments, kube, suspended=arguments.command == "pause")


def _suspend(arguments: argparse.Namespace, kube: Kubectl, *, suspended: bool) -> int:
    found = gather.one(kube, arguments.name)
    what = f"storageformat {found.namespace}/{found.name}"
    if found.suspended == suspended:
        print(f"{what} {'is paused' if suspended else 'is not paused'} already")
        return 0
    if arguments.dry_run != "client":
        body = {"spec": {"rollout": {"suspended": suspended}}}
        kube.patch_spec(found.namespace, found.name, body, dry_run=arguments.dry_run)
    done = f"{'paused' if suspended else 'resumed'}{_DONE[arguments.dry_run]}"
    print(f"{what} {done}")
    for line in _meaning(found, suspended=suspended):
        print(f"  {line}")
    return 0


def _meaning(found: Overview, *, suspended: bool) -> Iterator[str]:
    if suspended:
        yield "permits are taken back and no pod is evicted; apps start on the format that they have"
        under_way = [place.pod for place in found.served if place.phase == "Converting"]
        if under_way:
            yield f"{', '.join(under_way)}: the conversion under way is finished"
        return
    left = [place.pod for place in found.served if not place.is_converted]
    yield f"{len(left)} of {len(found.served)} pods are still to be converted to {found.target}"


def _undo(arguments: argparse.Namespace, kube: Kubectl) -> int:
    found = gather.one(kube, arguments.name)
    back = _back_to(found, arguments.to)
    look = terminal.of(sys.stdout)
    for line in _preview(found, back):
        print(line if line.startswith(" ") else look.paint(line, "bold"))
    if arguments.dry_run == "none" and not arguments.yes and not _confirmed():
        raise Problem("nothing was changed", code=REFUSED)
    if arguments.dry_run != "client":
        # Of what was shown, and of nothing that somebody has changed since.
        version = found.body["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": {"target": back}}
        try:
            kube.patch_spec(found.namespace, found.name, body, dry_run=arguments.dry_run)
        except Problem as problem:
            if problem.kind == "Conflict":
                raise Problem(
                    f"{found.name} was changed by somebody meanwhile; nothing was changed by this",
                    hint="look at it again, and repeat",
                    code=REFUSED,
                ) from problem
            raise
    print(
        f"storageformat {found.namespace}/{found.name} target set to {back}{_DONE[arguments.dry_run]}"
    )
    return 0


def _back_to(found: Overview, asked: str | None) -> str:
    """The format before. Raises Problem where that is not one and the same for all volumes."""
    others = [name for name in found.formats if name != found.target]
    if asked is not None:
        if asked == found.target:
            raise Problem(f"{asked} is the target already; nothing was changed", code=REFUSED)
        if asked not in found.formats:
            raise Problem(
                f"{found.name} has no format {asked!r}; nothing was changed",
                hint=f"--to takes one of {', '.join(others) or 'spec.formats, which has no other'}",
                code=REFUSED,
            )
        return asked
    came = origins(found)
    named = [name for name in came if name in others]
    if len(came) == 1 and named:
        return named[0]
    if not came:
        message = "no volume says which format it was in before"
    elif len(came) == 1:
        (name,) = came
        message = f"the volumes came from {name}, which is none of spec.formats"
    else:
        each = "; ".join(f"{name}: {_listed(pods)}" for name, pods in came.items())
        message = f"the volumes did not all come from one format ({each})"
    raise Problem(
        f"{message}; nothing was changed",
        hint=f"say which: --to {' or --to '.join(others) or 'FORMAT (add it to spec.formats first)'}",
        code=REFUSED,
    )


def origins(found: Overview) -> dict[str, list[str]]:
    """Where each volume came from: the format before, or the one that it still is in."""
    came: dict[str, list[str]] = {}
    for place in found.places:
        if place.format is None:
            continue
        origin = place.came_from if place.format == found.target else place.format
        if origin is not None and origin != found.target:
            came.setdefault(origin, []).append(place.pod)
    return came


def _preview(found: Overview, back: str) -> Iterator[str]:
    yield f"{found.namespace}/{found.name}: target {found.target} becomes {back}"
    convert = [place for place in found.places if place.format not in {None, back}]
    stay = [place for place in found.places if place.format == back]
    if convert:
        yield f"  would convert back, with everything written since: {_listed_places(convert)}"
    if stay:
        yield f"  in {back} already: {_listed_places(stay)}"
    blind = [place for place in found.pods if place.reads and back not in place.reads]
    if blind:
        yield (
            f"  cannot read {back} (annotation storageformat.dev/reads), and will not be converted: "
            f"{_listed_places(blind)}; roll the app back first"
        )
    busy = [place for place in found.served if place.phase == "Converting"]
    if busy:
        yield f"  converting to {found.target} right now, and finished first: {_listed_places(busy)}"
    if found.suspended:
        yield f"  the rollout is paused: nothing happens before kubectl storageformat resume {found.name}"
    elif found.strategy == "OnRestart":
        yield "  each pod converts when something restarts it (rollout.strategy: OnRestart)"
    else:
        yield "  pods are restarted one after the other, as in every rollout"
    yield f"  records that {back} cannot hold are refused by key: kubectl storageformat plan {found.name} --format {back}"


def _listed_places(places: Sequence[Place]) -> str:
    return _listed([place.pod for place in places])


def _listed(pods: Sequence[str]) -> str:
    return ", ".join(pods[:5]) + (f" and {len(pods) - 5} more" if len(pods) > 5 else "")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise Problem(
            "nobody is there to be asked; nothing was changed",
            hint="--yes does it without asking, --dry-run=server tries it",
            code=USAGE,
        )
    return input("Set it back? [y/N] ").strip().lower() in {"y", "yes"}
