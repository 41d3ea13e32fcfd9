"""What this sidecar knows of one StorageFormat and of its own FormatState, newest first.

Two sources write here: requests (at the start, at each gate, and now and then) and the watch. Both can bring an
older version late, so a body of a lower generation of the same object is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from format_operator.api.models import FormatState, InvalidObject, OnFailure, Permit
from format_operator.sidecar import kube
from format_operator.sidecar.observed import Answer, Asked, Rival
from format_operator.sidecar.wish import Wish

Body = Mapping[str, Any]


class Knowledge:
    """The answers for one database argument. ``changed`` is called when one of them is another than before."""

    def __init__(self, name: str, formatstate: str, changed: Callable[[], None]) -> None:
        self.name = name
        self.formatstate = formatstate
        self.storageformat: Answer[Wish] = Answer()
        self.permit: Answer[Permit] = Answer()
        self.storageformat_body: Body | None = None
        self.formatstate_body: Body | None = None
        self.last_answer_at: float | None = None
        self.version = 0
        self._changed = changed

    @property
    def is_complete(self) -> bool:
        """Whether both objects were asked for and something definite was answered."""
        return self.storageformat.is_known and self.permit.is_known

    @property
    def is_served(self) -> bool:
        """Whether the kind is known to be installed: only then can it be watched."""
        return self.storageformat.asked in {Asked.FOUND, Asked.ABSENT, Asked.INVALID}

    def forget(self) -> None:
        """A new gate: what was known may be old, and is to be asked for again."""
        self.storageformat, self.permit = Answer(), Answer()

    def saw_storageformat(self, body: Body | None) -> None:
        """The object as it is; None: there is none."""
        self.last_answer_at = time.monotonic()
        if body is not None and _is_older(body, self.storageformat_body):
            body = self.storageformat_body
        self.storageformat_body = body
        if body is None:
            self._set(
                Answer(Asked.ABSENT, None, f"there is no StorageFormat {self.name}"), self.permit
            )
            return
        try:
            answer: Answer[Wish] = Answer(Asked.FOUND, Wish.from_object(body))
        except (InvalidObject, TypeError, ValueError) as error:
            spec = body.get("spec")
            start = isinstance(spec, Mapping) and spec.get("onFailure") == OnFailure.START_APP
            on_failure = OnFailure.START_APP if start else OnFailure.BLOCK
            answer = Answer(Asked.INVALID, None, f"StorageFormat {self.name}: {error}", on_failure)
        self._set(answer, self.permit)

    def saw_formatstate(self, body: Body | None) -> None:
        """Our own FormatState; None: there is none, hence no permit."""
        self.last_answer_at = time.monotonic()
        if body is not None and _is_older(body, self.formatstate_body):
            body = self.formatstate_body
        self.formatstate_body = body
        answer: Answer[Permit] = Answer(Asked.ABSENT)
        if body is not None:
            try:
                answer = Answer(Asked.FOUND, FormatState.from_object(body).permit)
            except (InvalidObject, TypeError, ValueError) as error:
                # A permit that cannot be read permits nothing.
                answer = Answer(Asked.INVALID, None, f"FormatState {self.formatstate}: {error}")
        self._set(self.storageformat, answer)

    def failed_storageformat(self, error: kube.ApiError) -> None:
        self._set(_answer(error), self.permit)

    def failed_formatstate(self, error: kube.ApiError) -> None:
        self._set(self.storageformat, _answer(error))

    def _set(self, storageformat: Answer[Wish], permit: Answer[Permit]) -> None:
        if (storageformat, permit) == (self.storageformat, self.permit):
            return
        self.storageformat, self.permit = storageformat, permit
        self.version += 1
        self._changed()


def rival_of(mine: Knowledge, others: Iterable[Knowledge], path: str) -> tuple[Rival, str]:
    """Two StorageFormats for one path: the older one governs. Its name, where it is another's."""
    wish = _claim(mine, path)
    if wish is None:
        return Rival.NONE, ""
    undecided = False
    for other in others:
        theirs = _claim(other, path)
        if theirs is not None and theirs.storageformat.age_key() < wish.storageformat.age_key():
            return Rival.OLDER, theirs.name
        undecided = undecided or not other.storageformat.is_known
    return (Rival.UNDECIDED, "") if undecided else (Rival.NONE, "")


def _claim(knowledge: Knowledge, path: str) -> Wish | None:
    wish = knowledge.storageformat.value
    if wish is None or wish.storageformat.deleting or wish.path != path:
        return None
    return wish


def _is_older(body: Body, known: Body | None) -> bool:
    if known is None:
        return False
    new, old = body.get("metadata") or {}, known.get("metadata") or {}
    if new.get("uid") != old.get("uid"):
        return False
    return int(new.get("generation") or 0) < int(old.get("generation") or 0)


def _answer(error: kube.ApiError) -> Answer[Any]:
    if isinstance(error, kube.NotServed):
        return Answer(Asked.UNSERVED, None, str(error))
    if isinstance(error, kube.NotFound):
        return Answer(Asked.ABSENT, None, str(error))
    if isinstance(error, kube.Forbidden | kube.Unauthorized):
        return Answer(Asked.FORBIDDEN, None, str(error))
    return Answer(Asked.UNREACHABLE, None, str(error))
