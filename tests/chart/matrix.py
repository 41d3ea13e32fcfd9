"""The values with which the chart is rendered, linted and shown to an API server."""

from __future__ import annotations

from typing import Any, Final

#: An authority; nobody has its key.
CA_BUNDLE: Final = """\
-----BEGIN CERTIFICATE-----
MIIB2DCCAX+gAwIBAgIUbUqVq0A8kRnun5/MTYrkUwq6Tz4wCgYIKoZIzj0EAwIw
SDFGMEQGA1UEAww9c3RvcmFnZWZvcm1hdC13ZWJob29rLWRmZDFhOWU2NjViNmVi
NDJiMDQwNjQxNWM0MGUzNGUwZWQ3MTQ2MDAgFw0yNTEyMzEyMzAwMDBaGA8yMTI1
MTIwODAwMDAwMFowSDFGMEQGA1UEAww9c3RvcmFnZWZvcm1hdC13ZWJob29rLWRm
ZDFhOWU2NjViNmViNDJiMDQwNjQxNWM0MGUzNGUwZWQ3MTQ2MDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABAJIwmplLeJUIzGhMSq+0XoKYpVu5E8duCazT9m7m2mR
t+POP4bXfAs7TYrt855B4vmnizjbdQxWNyPPLm735vejRTBDMBIGA1UdEwEB/wQI
MAYBAf8CAQAwDgYDVR0PAQH/BAQDAgIEMB0GA1UdDgQWBBTnvcrFs8Nsbj84rgTO
wYjKBUjRrzAKBggqhkjOPQQDAgNHADBEAiBYtXCM62jm9v+HQCfYhtq7J1GIl3mM
Hch/XP+lcEUG0QIgQ6FxDm5Ai6XXyKMyoIFFJoRg9hzDwJ1R8iDhzxtbawQ=
-----END CERTIFICATE-----
"""
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
        "prometheusRule": {
            "create": True,
            "labels": {"release": "prom"},
            "alertLabels": {"team": "storage"},
            "runbookUrl": "https://runbooks.example/",
            "alerts": {"StorageFormatGateClosed": {"for": "5m", "severity": "page"}},
        },
        "dashboard": {"create": True, "annotations": {"folder": "Storage"}, "namespace": "default"},
        "networkPolicy": {
            "create": True,
            "metricsFrom": [{"podSelector": {}}],
            "apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
        },
        "webhook": {
            "replicas": 3,
            "port": 8443,
            "certificates": {"mode": "certManager"},
            "sidecar": {
                "metricsPort": 9000,
                "resources": {"requests": {"cpu": "5m"}, "limits": {"memory": "1Gi", "cpu": 1}},
                "extraArgs": ["--permit-wait=60"],
            },
            "meshes": ["istio", "linkerd"],
            "meshAddresses": ["10.96.0.1/32"],
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
        "webhook": {
            "replicas": 1,
            "excludeNamespaces": [],
            "certificates": {
                "mode": "existing",
                "secretName": "mine",
                "caBundle": CA_BUNDLE,
            },
        },
    },
    "as little as possible": {
        "replicas": 0,
        "crds": {"create": False},
        "rbac": {"create": False},
        "admissionPolicy": {"create": False},
        "serviceAccount": {"create": False},
        "resources": {},
        "fullnameOverride": "tiny",
        "webhook": {"enabled": False},
    },
}
