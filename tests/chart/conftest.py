"""Helm, and an API server that judges what it renders."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import Binaries, ControlPlane
from tests.chart.helm import Helm
from tests.support.controlplane import started, stopped


def _crd(
    kind: str, schema: Mapping[str, Any], *, of: str = "monitoring.coreos.com"
) -> dict[str, Any]:
    """As much of somebody else's kind as the chart uses; strict validation finds anything else."""
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{of}"},
        "spec": {
            "group": of,
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _cert_manager_crd(kind: str) -> dict[str, Any]:
    """As much of cert-manager as the chart uses."""
    names = {"type": "array", "items": _text()}
    reference = {
        "type": "object",
        "properties": {"name": _text(), "kind": _text(), "group": _text()},
        "required": ["name"],
    }
    key = {"algorithm": _text(), "size": {"type": "integer"}, "rotationPolicy": _text()}
    fields: dict[str, dict[str, Any]] = {
        "Certificate": {
            "secretName": _text(),
            "dnsNames": names,
            "usages": names,
            "privateKey": {"type": "object", "properties": key},
            "issuerRef": reference,
        },
        "Issuer": {"selfSigned": {"type": "object"}},
    }
    spec = {"type": "object", "properties": fields[kind]}
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": spec}}
    return _crd(kind, schema, of="cert-manager.io")


def _text() -> dict[str, Any]:
    return {"type": "string"}


def _duration() -> dict[str, Any]:
    pattern = "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
    return {"type": "string", "pattern": pattern}


def _prometheusrule_schema() -> dict[str, Any]:
    labels = {"type": "object", "additionalProperties": _text()}
    rule = {
        "type": "object",
        "required": ["expr"],
        "properties": {
            "alert": _text(),
            "expr": _text(),
            "for": _duration(),
            "labels": labels,
            "annotations": labels,
        },
    }
    group = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": _text(), "rules": {"type": "array", "items": rule}},
    }
    spec = {"groups": {"type": "array", "items": group}}
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": spec}}}


def _podmonitor_schema() -> dict[str, Any]:
    duration = _duration()
    texts = {"type": "array", "items": _text()}
    labels = {"type": "object", "additionalProperties": _text()}
    relabeling = {"sourceLabels": texts, "separator": _text(), "targetLabel": _text()}
    endpoint = {
        "port": _text(),
        "path": _text(),
        "interval": duration,
        "scrapeTimeout": duration,
        "relabelings": {"type": "array", "items": {"type": "object", "properties": relabeling}},
    }
    spec = {
        "namespaceSelector": {
            "type": "object",
            "properties": {"any": {"type": "boolean"}, "matchNames": texts},
        },
        "selector": {"type": "object", "properties": {"matchLabels": labels}},
        "podMetricsEndpoints": {
            "type": "array",
            "items": {"type": "object", "properties": endpoint},
        },
    }
    return {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "required": ["selector"], "properties": spec},
        },
    }


@pytest.fixture(scope="session")
def helm(build: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm with folders of its own: nobody's repositories and plugins."""
    build("helm")
    return Helm(Binaries.locate().path("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def plane(
    binaries: Binaries,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ControlPlane]:
    """A control plane that has the CRDs of the Prometheus Operator and of cert-manager, and nothing of ours."""
    plane = started(tmp_path_factory.mktemp("chart") / "controlplane", binaries)
    try:
        crds = [
            _crd("PodMonitor", _podmonitor_schema()),
            _crd("PrometheusRule", _prometheusrule_schema()),
            *(_cert_manager_crd(kind) for kind in ("Certificate", "Issuer")),
        ]
        plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(crds))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield plane
    finally:
        stopped(plane, request)


@pytest.fixture
def kubeconfig(plane: ControlPlane) -> Path:
    """The administrator's."""
    path = plane.directory / "helm.kubeconfig"
    return path if path.exists() else plane.write_kubeconfig(path)


@pytest.fixture
def dry_run(plane: ControlPlane) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Have the API server judge manifests, unknown fields included, without keeping them."""

    def judge(manifests: str) -> subprocess.CompletedProcess[str]:
        return plane.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
            stdin=manifests,
            check=False,
        )

    return judge
