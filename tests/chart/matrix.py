"""The values with which the chart is rendered, linted and shown to an API server."""

from __future__ import annotations

from typing import Any, Final

MATRIX: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "namespaced": {"watchNamespaces": ["default", "kube-public"]},
    "everything": {
        "replicas": 3,
        "image": {"repository": "localhost:5000/a/b", "digest": "sha256:" + "a" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "nameOverride": "sfo",
        "commonLabels": {"team": "storage", "app.kubernetes.io/part-of": "platform"},
        "logLevel": "debug",
        "extraArgs": ["--permit-seconds=1200"],
        "serviceAccount": {"name": "sfo", "annotations": {"a": "b"}},
        "podLabels": {"x": "1", "team": "other"},
        "podAnnotations": {"prometheus.io/scrape": "false"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
            },
        ],
        "podMonitor": {"create": True, "labels": {"release": "prom"}},
        "networkPolicy": {
            "create": True,
            "metricsFrom": [{"podSelector": {}}],
            "apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
        },
    },
    "namespaced, everything": {
        "replicas": 2,
        "watchNamespaces": ["default"],
        "podDisruptionBudget": {"maxUnavailable": "50%"},
        "podMonitor": {"create": True},
        "networkPolicy": {"create": True},
        "metrics": {"port": 9000, "annotations": False},
        "crds": {"keep": False},
    },
    "as little as possible": {
        "replicas": 0,
        "crds": {"create": False},
        "rbac": {"create": False},
        "admissionPolicy": {"create": False},
        "serviceAccount": {"create": False},
        "resources": {},
        "fullnameOverride": "tiny",
    },
}
