"""Runs Helm as a test needs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
OPERATOR = CHARTS / "storageformat-operator"
SIDECAR = CHARTS / "storageformat-sidecar"
NAMESPACE = "storageformat-system"

Object = dict[str, Any]


@dataclass(frozen=True)
class Helm:
    program: Path
    home: Path

    def run(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Raises AssertionError with Helm's words when it fails and ``check``."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        folders = {f"HELM_{one}_HOME": str(self.home / one) for one in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [str(self.program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=kept | folders,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def template(
        self, values: Mapping[str, Any] | None = None, *, release: str = "storageformat"
    ) -> list[Object]:
        """What the operator's chart renders, hooks included."""
        return objects(self.text(values, release=release))

    def text(
        self, values: Mapping[str, Any] | None = None, *, release: str = "storageformat"
    ) -> str:
        return self.run(
            *("template", release, str(OPERATOR), "--namespace", NAMESPACE, "--values", "-"),
            stdin=yaml.safe_dump(dict(values or {})),
        ).stdout


def objects(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one]


def of_kind(found: list[Object], kind: str, *, webhook: bool = False) -> list[Object]:
    """The objects of a kind: of the webhook, or of everything else."""
    return [one for one in found if one["kind"] == kind and of_webhook(one) is webhook]


def only(found: list[Object], kind: str, *, webhook: bool = False) -> Object:
    (one,) = of_kind(found, kind, webhook=webhook)
    return one


def of_webhook(one: Object) -> bool:
    labels = one["metadata"].get("labels") or {}
    return labels.get("app.kubernetes.io/component") == "webhook"
