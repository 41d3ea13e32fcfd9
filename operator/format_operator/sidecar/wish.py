"""A StorageFormat as the sidecar understands it: with formats that the store knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from format_operator.api.formats import READ_ONLY_KEYS
from format_operator.api.models import (
    InvalidObject,
    OnAppRollback,
    OnFailure,
    Permit,
    StorageFormat,
    Strategy,
)
from format_operator.api.names import API_VERSION, KIND_STORAGEFORMAT
from format_operator.api.schema import Timestamp
from format_store import Format
from format_store.errors import InvalidFormat

STORED_VERSION: Final = 1


@dataclass(frozen=True)
class Wish:
    """What one StorageFormat asks for. ``raw`` is the part of the object that it was made from."""

    storageformat: StorageFormat
    target: Format
    unmarked: tuple[Format, ...]
    named: tuple[tuple[str, Format], ...]
    target_hash: str
    raw: Mapping[str, Any]

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> Wish:
        """From the API's form. Raises InvalidObject.

        A format that this release does not know, and that is neither the target nor in ``unmarked``, is passed
        over: an older sidecar goes on working when somebody adds a format for newer ones.
        """
        known = _without_unknown_formats(body)
        parsed = StorageFormat.from_object(known)
        spec = parsed.spec
        try:
            named = tuple((one.name, Format.from_spec(one.to_spec())) for one in spec.formats)
            unmarked = tuple(Format.from_spec(one.to_spec()) for one in spec.unmarked_formats)
        except InvalidFormat as error:
            raise InvalidObject("spec.formats", error.message) from error
        return cls(
            parsed, dict(named)[spec.target], unmarked, named, spec.target_hash(), _essential(body)
        )

    @property
    def name(self) -> str:
        return self.storageformat.name

    @property
    def path(self) -> str:
        return self.storageformat.spec.database.path

    @property
    def needs_permit(self) -> bool:
        return self.storageformat.spec.rollout.strategy is not Strategy.ON_RESTART

    @property
    def suspended(self) -> bool:
        return self.storageformat.spec.rollout.suspended

    @property
    def target_name(self) -> str:
        return self.storageformat.spec.target

    @property
    def on_failure(self) -> OnFailure:
        return self.storageformat.spec.on_failure

    @property
    def converts_back(self) -> bool:
        """Whether a database may follow its app's rollback."""
        return self.storageformat.spec.on_app_rollback is OnAppRollback.CONVERT_BACK

    @property
    def writable(self) -> tuple[str, ...]:
        """The names of the formats that can be converted to, in the order of ``spec.formats``."""
        return tuple(
            one.name
            for one in self.storageformat.spec.formats
            if one.key_encoding != READ_ONLY_KEYS
        )

    def format(self, name: str) -> Format:
        """The format of that name. Raises KeyError."""
        return dict(self.named)[name]

    @property
    def taken_for(self) -> tuple[Format, ...]:
        """What a file without a marker is taken for; any SQLite file where nothing is declared or implied."""
        return self.unmarked or (Format.from_spec({"sqlite": {}}),)

    def names_of(self, on_disk: Format) -> frozenset[str]:
        """The names that this StorageFormat has for the bytes of ``on_disk``; usually one."""
        return frozenset(name for name, one in self.named if one.same_bytes_as(on_disk))

    def name_of(self, on_disk: Format) -> str:
        """One name for people: the target's if it fits, then the first listed, then a description."""
        names = self.names_of(on_disk)
        if self.target_name in names:
            return self.target_name
        return next((name for name, _ in self.named if name in names), str(on_disk))


@dataclass(frozen=True)
class Stored:
    """The last word that the API had for this volume, kept on it (``desired.json``)."""

    wish: Wish
    permit: Permit | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> Stored | None:
        """Read it back; what cannot be understood is nothing: it is advice, and asking again is cheap."""
        if document is None or document.get("version") != STORED_VERSION:
            return None
        body, permit = document.get("storageFormat"), document.get("permit")
        if not isinstance(body, dict):
            return None
        try:
            return cls(Wish.from_object(body), _permit(permit) if permit is not None else None)
        except (InvalidObject, KeyError, TypeError):
            return None

    def to_document(self) -> dict[str, Any]:
        permit = None
        if self.permit is not None:
            permit = {
                "targetHash": self.permit.target_hash,
                "expires": Timestamp().dump(self.permit.expires),
            }
        return {"version": STORED_VERSION, "storageFormat": self.wish.raw, "permit": permit}


def forgotten() -> dict[str, Any]:
    """What is stored when the API says that there is no StorageFormat (any more)."""
    return {"version": STORED_VERSION, "storageFormat": None, "permit": None}


def _permit(document: Mapping[str, Any]) -> Permit:
    expires: datetime = Timestamp().parse(document["expires"], "permit.expires")
    return Permit(str(document["targetHash"]), expires)


def _essential(body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata") or {}
    keys = ("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp")
    return {
        "apiVersion": API_VERSION,
        "kind": KIND_STORAGEFORMAT,
        "metadata": {key: metadata[key] for key in keys if key in metadata},
        "spec": body.get("spec"),
    }


def _without_unknown_formats(body: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = body.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("formats"), list):
        return body  # the parser says what is wrong
    needed = {spec.get("target"), *(spec.get("unmarked") or ())}
    kept = [one for one in spec["formats"] if _is_known(one) or _name(one) in needed]
    return {**body, "spec": {**spec, "formats": kept}}


def _name(one: object) -> object:
    return one.get("name") if isinstance(one, Mapping) else None


def _is_known(one: object) -> bool:
    try:
        Format.from_spec(one)  # type: ignore[arg-type] # anything else is refused like an unknown format
    except InvalidFormat:
        return False
    return True
