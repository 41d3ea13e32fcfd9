"""The annotations of a pod by which it asks for sidecar and gate, and how they are read. Pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from format_operator.api.names import GROUP, MAX_STORAGEFORMAT_NAME, READS_ANNOTATION

INJECT: Final = f"{GROUP}/inject"
"""``orders,users``: StorageFormats of the pod's namespace; ``orders=/data/orders.db`` says the path itself."""
INJECTED: Final = f"{GROUP}/injected"
"""Written by the webhook: the release that added the containers. Without it they were put there by hand."""
CONTAINER: Final = f"{GROUP}/container"
"""Whose mount of the volume is taken, and whose user, where several containers could be meant."""
RUN_AS_USER: Final = f"{GROUP}/run-as-user"
RUN_AS_GROUP: Final = f"{GROUP}/run-as-group"
METRICS_PORT: Final = f"{GROUP}/metrics-port"
REQUESTS: Final = f"{GROUP}/requests"
LIMITS: Final = f"{GROUP}/limits"
PICKLE_ALLOW: Final = f"{GROUP}/pickle-allow"
MIGRATIONS: Final = f"{GROUP}/migrations"

#: What a person may write on a pod.
OPTIONS: Final = (
    INJECT,
    CONTAINER,
    RUN_AS_USER,
    RUN_AS_GROUP,
    METRICS_PORT,
    REQUESTS,
    LIMITS,
    PICKLE_ALLOW,
    MIGRATIONS,
    READS_ANNOTATION,
)

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_GLOB: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Asked:
    """One entry of the annotation. ``path`` is None where the StorageFormat is to be asked."""

    name: str
    path: str | None


def parse_inject(annotation: str) -> tuple[Asked, ...]:
    """The entries of the annotation. Raises ValueError with what is wrong, and what to write instead."""
    found: dict[str, Asked] = {}
    for entry in annotation.split(","):
        name, separator, path = (part.strip() for part in entry.partition("="))
        if not name and not separator:
            continue
        if not _NAME.fullmatch(name) or len(name) > MAX_STORAGEFORMAT_NAME:
            raise ValueError(f"{name!r} is no name of a StorageFormat; write NAME or NAME=/PATH")
        if name in found:
            raise ValueError(
                f"{name} is there twice; one StorageFormat has one path (which may be a glob)"
            )
        if separator:
            _check_path(name, path)
        found[name] = Asked(name, path if separator else None)
    if not found:
        raise ValueError("it names no StorageFormat; write NAME or NAME=/PATH, with commas between")
    return tuple(found.values())


def _check_path(name: str, path: str) -> None:
    if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
        raise ValueError(f"{name}={path}: the path is absolute and in its shortest form")
    if _GLOB.search(os.path.dirname(path)):
        raise ValueError(f"{name}={path}: a glob may stand in the last part only")
