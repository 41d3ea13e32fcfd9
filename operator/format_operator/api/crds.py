"""The two CustomResourceDefinitions, made from the models."""

from __future__ import annotations

from typing import Any

from format_operator.api.models import (
    FormatStateSpec,
    StorageFormat,
    StorageFormatSpec,
)
from format_operator.api.names import (
    GROUP,
    KIND_FORMATSTATE,
    KIND_STORAGEFORMAT,
    PLURAL_FORMATSTATES,
    PLURAL_STORAGEFORMATS,
    VERSION,
)
from format_operator.api.schema import Schema, object_schema, with_rules
from format_operator.api.statuses import FormatStateStatus, StorageFormatStatus


def storageformat_crd() -> dict[str, Any]:
    """The CRD of StorageFormat."""
    schema = _root_schema(
        "How the databases of some pods shall be stored, and how they get there.",
        StorageFormatSpec,
        StorageFormatStatus,
    )
    schema["required"] = ["spec"]
    return _crd(
        kind=KIND_STORAGEFORMAT,
        plural=PLURAL_STORAGEFORMATS,
        short="sf",
        schema=with_rules(schema, StorageFormat.RULES),
        columns=[
            _column("Target", ".spec.target", "the format that the databases shall be in"),
            _column("Pods", ".status.pods", "pods that carry the sidecar", "integer"),
            _column("Converted", ".status.converted", "pods in the target format", "integer"),
            _column("Failed", ".status.failed", "pods whose conversion failed", "integer"),
            _column(
                "Ready",
                '.status.conditions[?(@.type=="Ready")].status',
                "whether every pod is in the target format",
            ),
            _column("Rollout", ".status.rollout.phase", "what the rollout is doing"),
            _column("Path", ".spec.database.path", "the database on each volume", priority=1),
            _column("Strategy", ".spec.rollout.strategy", "who restarts the pods", priority=1),
            _column("Age", ".metadata.creationTimestamp", "since when it is there", "date"),
        ],
    )


def formatstate_crd() -> dict[str, Any]:
    """The CRD of FormatState."""
    return _crd(
        kind=KIND_FORMATSTATE,
        plural=PLURAL_FORMATSTATES,
        short="fs",
        schema=_root_schema(
            "What one pod's sidecar says about one StorageFormat. Made by the sidecar.",
            FormatStateSpec,
            FormatStateStatus,
        ),
        columns=[
            _column("Phase", ".status.phase", "where the database stands"),
            _column("Format", ".status.currentFormat", "the format on disk"),
            _column("Target", ".status.targetFormat", "the format asked for"),
            _column("Done", ".status.progress.percent", "percent of the current phase", "integer"),
            _column("Gate", ".status.gate", "whether the app may start"),
            _column("Backup", ".status.backup.present", "whether the old one is kept", "boolean"),
            _column("Reason", ".status.reason", "why the database stands there"),
            _column("Pod", ".status.podName", "the pod that reports", priority=1),
            _column("Path", ".status.path", "the database", priority=1),
            _column("Message", ".status.message", "the reason for people", priority=1),
            _column("Age", ".metadata.creationTimestamp", "since when it is there", "date"),
        ],
    )


def _root_schema(description: str, spec: type[Any], status: type[Any]) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {"description": spec.__doc__, **object_schema(spec)},
            "status": {"description": status.__doc__, **object_schema(status)},
        },
    }


def _column(
    name: str, path: str, description: str, kind: str = "string", *, priority: int = 0
) -> dict[str, Any]:
    column: dict[str, Any] = {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "description": description,
    }
    return {**column, "priority": priority} if priority else column


def _crd(
    *, kind: str, plural: str, short: str, schema: Schema, columns: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }
