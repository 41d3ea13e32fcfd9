"""What a pod's spec tells of our containers in it. Pure; for whoever looks at pods from outside.

They are told by what they run, not by their names: a template may call them anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]


def sidecars(spec: Object) -> Iterator[tuple[Object, tuple[tuple[str, str], ...]]]:
    """Each sidecar's container, with the StorageFormat and path of each of its databases."""
    for container in spec.get("initContainers") or ():
        words = command_line(container)
        if container.get("restartPolicy") == "Always" and "sidecar" in words:
            yield container, tuple(_databases(words))


def gates(spec: Object) -> frozenset[str]:
    """The names of the gates' containers."""
    return frozenset(
        container["name"]
        for container in spec.get("initContainers") or ()
        if "gate" in command_line(container)[:3]
    )


def command_line(container: Object) -> list[str]:
    """Command and arguments as they are written."""
    return [*(container.get("command") or ()), *(container.get("args") or ())]


def option_values(words: Sequence[str], option: str) -> list[str]:
    """Every value of an option, written with a blank or with an equals sign."""
    found = []
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            found.append(words[index + 1])
        elif word.startswith(f"{option}="):
            found.append(word.removeprefix(f"{option}="))
    return found


def _databases(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in option_values(words, "--database"):
        name, separator, path = text.partition("=")
        if separator:
            yield name, path
