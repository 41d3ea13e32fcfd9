"""The names by which the roles find each other: group, kinds, annotations, object names."""

from __future__ import annotations

from typing import Final

GROUP: Final = "storageformat.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

KIND_STORAGEFORMAT: Final = "StorageFormat"
KIND_FORMATSTATE: Final = "FormatState"
PLURAL_STORAGEFORMATS: Final = "storageformats"
PLURAL_FORMATSTATES: Final = "formatstates"

READS_ANNOTATION: Final = f"{GROUP}/reads"
"""On a pod: the names of the formats that this version of its app can read, comma separated."""

STORAGEFORMAT_LABEL: Final = f"{GROUP}/storageformat"
"""On a FormatState: the StorageFormat it belongs to, so that one selector lists all of them."""

PROTOCOL_VERSION: Final = "1"
"""What a sidecar and a controller say to each other through a FormatState; raised when the meaning
of a field changes. A sidecar reports it as ``status.apiVersion``."""

MAX_OBJECT_NAME: Final = 253
MAX_STORAGEFORMAT_NAME: Final = 63
"""Leaves 189 characters for the pod's name in ``<storageformat>.<pod>``."""


def formatstate_name(storageformat: str, pod: str) -> str:
    """Name of the FormatState in which ``pod`` reports on ``storageformat``.

    The first dot is the separator, which is why the name of a StorageFormat holds none (the name
    of a pod may). The admission policy takes the pod from behind it.

    Raises ValueError when either is empty, the StorageFormat's name has a dot, or the result is
    longer than Kubernetes allows.
    """
    if not storageformat or not pod:
        raise ValueError("a FormatState's name needs the name of a StorageFormat and of a pod")
    if "." in storageformat:
        raise ValueError(f"the StorageFormat's name {storageformat!r} has a dot")
    name = f"{storageformat}.{pod}"
    if len(name) > MAX_OBJECT_NAME:
        raise ValueError(f"{name!r} is longer than {MAX_OBJECT_NAME} characters")
    return name


def parse_reads(annotation: str | None) -> frozenset[str] | None:
    """Names in the annotation ``storageformat.dev/reads``; None (no guard) when absent or empty."""
    names = frozenset(part.strip() for part in (annotation or "").split(",")) - {""}
    return names or None
