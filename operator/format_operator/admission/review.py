"""An AdmissionReview in, an AdmissionReview out (admission.k8s.io/v1)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from format_operator.admission.formats import Unknown
from format_operator.admission.inject import Defaults, asks, inject, unknown_paths
from format_operator.admission.refusal import UNAVAILABLE, Refusal
from format_operator.api.injection import INJECT

API_VERSION: Final = "admission.k8s.io/v1"

Path = Callable[[str, str], Awaitable[str | None]]


class Result(StrEnum):
    """What became of a request, as the metric has it."""

    INJECTED = "injected"
    PRESENT = "present"
    """The containers are there already."""
    IGNORED = "ignored"
    """It did not ask; the match conditions of the configuration should have kept it away."""
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    """Refused because the API server did not say where the database is."""
    INVALID = "invalid"
    """No AdmissionReview."""


class NoReview(Exception):
    """The body is no AdmissionReview of a pod; the message says why."""


@dataclass(frozen=True)
class Answer:
    """``body`` goes to the API server."""

    result: Result
    body: Mapping[str, Any]
    pod: str = ""
    message: str = ""


async def answer(content: bytes, path: Path, defaults: Defaults) -> Answer:
    """Decide on one request; ``path`` looks a StorageFormat up. Raises NoReview."""
    request = _request(content)
    pod, namespace = request["object"], str(request.get("namespace") or "")
    metadata = pod.get("metadata") or {}
    name = f"{namespace}/{metadata.get('name') or metadata.get('generateName') or ''}"
    if request.get("operation") != "CREATE" or request.get("subResource") or not asks(pod):
        return Answer(Result.IGNORED, _body(request, {"allowed": True}), name)
    names = unknown_paths(pod)
    try:
        found = await asyncio.gather(*(path(namespace, one) for one in names))
    except Unknown as error:
        refusal = Refusal(
            f"pod {name}, annotation {INJECT}: where the database is cannot be asked now: {error}; a workload tries "
            f"again by itself, and with the path written out nobody is asked: {names[0]}=/PATH/OF/THE/DATABASE",
            UNAVAILABLE,
        )
        return _refused(request, Result.UNAVAILABLE, refusal, name)
    paths = {one: where for one, where in zip(names, found, strict=True) if where is not None}
    decided = inject(pod, paths, defaults, namespace)
    if isinstance(decided, Refusal):
        return _refused(request, Result.REFUSED, decided, name)
    response: dict[str, Any] = {"allowed": True}
    if decided.operations:
        text = json.dumps(list(decided.operations)).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(text).decode()}
    if decided.warnings:
        response["warnings"] = list(decided.warnings)
    result = Result.INJECTED if decided.operations else Result.PRESENT
    return Answer(result, _body(request, response), name)


def _request(content: bytes) -> dict[str, Any]:
    try:
        review = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoReview(f"no JSON: {error}") from error
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict) or review.get("apiVersion") != API_VERSION:
        raise NoReview(f"no AdmissionReview of {API_VERSION} with a request")
    pod = request.get("object")
    if not request.get("uid") or not isinstance(pod, dict) or not isinstance(pod.get("spec"), dict):
        raise NoReview("the request has no uid, or its object is no pod")
    return request


def _refused(request: Mapping[str, Any], result: Result, refusal: Refusal, pod: str) -> Answer:
    reason = "ServiceUnavailable" if refusal.code == UNAVAILABLE else "Forbidden"
    status = {
        "status": "Failure",
        "code": refusal.code,
        "reason": reason,
        "message": refusal.message,
    }
    body = _body(request, {"allowed": False, "status": status})
    return Answer(result, body, pod, refusal.message)


def _body(request: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "AdmissionReview",
        "response": {"uid": request["uid"], **response},
    }
