"""The StorageFormats that a command is about, with what belongs to them; or why there are none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from format_operator.api.names import PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS
from format_operator.kubectl.kube import Kubectl, Object
from format_operator.kubectl.overview import Overview, overview
from format_operator.kubectl.problems import REFUSED, Problem
from format_operator.kubectl.watching import What

KINDS = (PLURAL_STORAGEFORMATS, PLURAL_FORMATSTATES, "pods")


def kinds(namespace: str | None) -> list[What]:
    """What an overview is made of."""
    return [What(plural, namespace) for plural in KINDS]


def overviews(kube: Kubectl, namespace: str | None, name: str | None = None) -> list[Overview]:
    """Every one, or the one of that name. Raises Problem, with similar names where there is none of that."""
    with ThreadPoolExecutor(len(KINDS)) as pool:
        lists = [pool.submit(kube.items, plural, namespace) for plural in KINDS]
        # In order: what is said of a cluster without StorageFormats is said of these first.
        formats, states, pods = (one.result()[0] for one in lists)
    return assembled(formats, states, pods, name=name, namespace=namespace)


def assembled(
    formats: Sequence[Object],
    states: Iterable[Object],
    pods: Iterable[Object],
    *,
    name: str | None,
    namespace: str | None,
) -> list[Overview]:
    """From lists. Raises Problem when there is none of that name."""
    known, own = list(states), list(pods)
    wanted = [one for one in formats if name in {None, one["metadata"]["name"]}]
    if name is not None and not wanted:
        raise no_such(name, namespace, [one["metadata"]["name"] for one in formats])
    found = [overview(one, known, own) for one in wanted]
    return sorted(found, key=lambda one: (one.namespace, one.name))


def one(kube: Kubectl, name: str) -> Overview:
    """The one of that name in the namespace that is asked about. Raises Problem."""
    return overviews(kube, kube.namespace, name)[0]


def no_such(name: str, namespace: str | None, names: Sequence[str]) -> Problem:
    """There is no StorageFormat of that name; which ones are there?"""
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = ", ".join(similar or sorted(names)[:5])
    where = f"namespace {namespace}" if namespace else "any namespace"
    hint = "did you mean" if similar else "there is"
    return Problem(
        f"there is no StorageFormat {name!r} in {where}",
        hint=f"{hint} {listed}"
        if listed
        else "there is none at all: -n names another namespace, -A all",
        code=REFUSED,
        kind="NotFound",
    )


def body_for_sidecar(found: Overview) -> dict[str, Any]:
    """The StorageFormat as ``storageformat --to -`` takes it: what people wrote, and no more."""
    return {
        "apiVersion": found.body["apiVersion"],
        "kind": found.body["kind"],
        "metadata": {"name": found.name, "namespace": found.namespace},
        "spec": found.body["spec"],
    }
