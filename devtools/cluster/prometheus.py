"""A real Prometheus inside a cluster."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from cluster.errors import ClusterError

PORT = 9090


@dataclass(frozen=True)
class Prometheus:
    """Questions to a Prometheus that runs; ``url`` is where it listens."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's vector: ``[{"metric": {…}, "value": [time, "text"]}, …]``.

        Raises ClusterError when Prometheus refuses it, OSError when it does not answer.
        """
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The one value of an instant query; None where there is no series.

        Raises ClusterError when there are several.
        """
        found = self.query(expression)
        if len(found) > 1:
            raise ClusterError(f"{expression} has {len(found)} series: {found}")
        return float(found[0]["value"][1]) if found else None

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """A range query's matrix: ``[{"metric": {…}, "values": [[time, "text"], …]}, …]``."""
        answer = self._get("query_range", query=expression, start=start, end=end, step=step)
        found: list[dict[str, Any]] = answer["result"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped now, each with ``labels``, ``health`` and ``lastError``."""
        found: list[dict[str, Any]] = self._get("targets", state="active")["activeTargets"]
        return found

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            self._fetch("/-/ready")
        except (ClusterError, OSError):
            return False
        return True

    def _get(self, what: str, **parameters: Any) -> dict[str, Any]:
        answer = self._fetch(f"/api/v1/{what}?{urllib.parse.urlencode(parameters)}")
        data: dict[str, Any] = json.loads(answer)["data"]
        return data

    def _fetch(self, path: str) -> bytes:
        # Whatever proxy this machine uses for the world is not to be asked about the cluster.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url + path, timeout=10) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise ClusterError(f"{error.code}: {error.read().decode()}") from None
        return content
