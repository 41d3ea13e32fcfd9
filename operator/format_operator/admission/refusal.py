"""Why a pod is not let in."""

from __future__ import annotations

from dataclasses import dataclass

FORBIDDEN = 403
"""As every admission webhook refuses: it has to be another pod."""
UNAVAILABLE = 503
"""The same pod may be let in later."""


@dataclass(frozen=True)
class Refusal:
    """``message`` names pod and annotation, what is wrong, and what to do."""

    message: str
    code: int = FORBIDDEN


class Refused(Exception):
    """Within the pure part: what is wrong with ``annotation``, and what to do about it."""

    def __init__(self, annotation: str, problem: str) -> None:
        super().__init__(problem)
        self.annotation = annotation
        self.problem = problem
