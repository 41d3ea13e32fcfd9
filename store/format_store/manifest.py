"""The manifest: what a conversion under way, or a retained backup, consists of.

A small JSON file in the work directory, replaced atomically. Two phases carry the whole state machine
(drawn in ``docs/format.md``): ``building`` (no swap can have happened) and ``ready`` (staging copy verified
and durable; whether the swap happened is told by the marker inside the primary).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from format_store import clock, durable, errors
from format_store.formats import Format
from format_store.layout import WorkDirectory
from format_store.observer import Backup

#: A restoration's manifest is judged by other rules: an older tool must refuse it, and does.
VERSION = 1
RESTORATION_VERSION = 2
_LIMIT = 1 << 20


class ManifestPhase(StrEnum):
    BUILDING = "building"
    READY = "ready"


@dataclass(frozen=True)
class FileStat:
    """What identifies a file's content at rest. Not the device: its number changes with a remount."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileStat:
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Manifest:
    """Digests are of whole files at rest (``sha256:<hex>``); times RFC 3339 in UTC; sizes in bytes."""

    conversion_id: str
    database: str
    created_at: str
    tool_version: str
    source_format: Format | None
    target_format: Format | None
    source: FileStat
    source_digest: str = ""
    """Empty while the copy is being built: it is made at the same time."""
    phase: ManifestPhase = ManifestPhase.BUILDING
    staging: FileStat | None = None
    staging_digest: str | None = None
    rows: int = 0
    started_at: float = 0.0
    retain_for: float = 0.0
    pinned: bool = False
    retain_until: str | None = None
    note: str = ""
    restores: str | None = None
    """The backup that a restoration puts in place; None for a conversion. Only a restoration may not know
    the formats (None): what it finds, or puts back, may have no marker or be damaged."""

    def ready(
        self, source_digest: str, staging: FileStat, staging_digest: str, rows: int
    ) -> Manifest:
        return replace(
            self,
            phase=ManifestPhase.READY,
            source_digest=source_digest,
            staging=staging,
            staging_digest=staging_digest,
            rows=rows,
        )

    def backup(self, work: WorkDirectory) -> Backup:
        """The pre-image this manifest speaks of, as observers and people see it."""
        return Backup(
            self.conversion_id,
            os.fspath(work.preimage),
            self.source.size,
            self.created_at,
            self.retain_until,
            self.pinned,
            self.source_format,
            self.target_format,
            None if self.restores is not None else self.rows,
            self.note,
        )

    def save(self, work: WorkDirectory) -> None:
        """Write it durably. Raises OSError."""
        durable.write_file(work.manifest, (json.dumps(self._to_json(), indent=1) + "\n").encode())

    def _to_json(self) -> dict[str, Any]:
        return {
            "manifestVersion": VERSION if self.restores is None else RESTORATION_VERSION,
            "conversionID": self.conversion_id,
            "database": self.database,
            "createdAt": self.created_at,
            "startedAt": self.started_at,
            "toolVersion": self.tool_version,
            "phase": str(self.phase),
            "source": _stat_json(self.source) | {"digest": self.source_digest},
            "sourceFormat": _format_json(self.source_format),
            "targetFormat": _format_json(self.target_format),
            "staging": None
            if self.staging is None
            else _stat_json(self.staging) | {"digest": self.staging_digest},
            "rows": self.rows,
            "retainFor": self.retain_for,
            "pinned": self.pinned,
            "retainUntil": self.retain_until,
            "note": self.note,
        } | ({} if self.restores is None else {"restores": self.restores})


def load(work: WorkDirectory) -> Manifest | None:
    """Read a manifest; None when there is none. Raises UnreadableManifest, OSError."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(work.manifest, flags), "rb") as file:
            data = file.read(_LIMIT + 1)
    except FileNotFoundError:
        return None
    try:
        if len(data) > _LIMIT:
            raise ValueError("larger than a manifest can be")
        parsed = _parse(json.loads(data))
        if parsed.conversion_id != work.conversion_id:
            raise ValueError(f"it is of {parsed.conversion_id!r}")
        return parsed
    except (
        ValueError, KeyError, TypeError, OverflowError, RecursionError, errors.InvalidFormat,
    ) as error:  # fmt: skip
        raise errors.UnreadableManifest(
            f"the manifest cannot be understood ({error})",
            operation="recover",
            path=work.manifest,
            hint="Nothing was changed: the database, the staging copy and the pre-image are where they "
            "were. A newer version of this tool may have written it; otherwise compare the files by hand.",
        ) from error


def _parse(document: Mapping[str, Any]) -> Manifest:
    version = document["manifestVersion"]
    if version not in (VERSION, RESTORATION_VERSION):
        raise ValueError(f"manifest version {version!r}, we know up to {RESTORATION_VERSION}")
    restoration = version == RESTORATION_VERSION
    staging = document["staging"]
    parsed = Manifest(
        conversion_id=_text(document["conversionID"]),
        database=_text(document["database"]),
        created_at=_time(document["createdAt"]),
        started_at=_number(document["startedAt"]),
        tool_version=_text(document["toolVersion"]),
        phase=ManifestPhase(document["phase"]),
        source=_stat(document["source"]),
        source_digest=_source_digest(document["source"]["digest"]),
        source_format=_format(document["sourceFormat"], may_be_unknown=restoration),
        target_format=_format(document["targetFormat"], may_be_unknown=restoration),
        staging=None if staging is None else _stat(staging),
        staging_digest=None if staging is None else _digest(staging["digest"]),
        rows=_integer(document["rows"]),
        retain_for=_number(document["retainFor"]),
        pinned=_flag(document["pinned"]),
        retain_until=None if document["retainUntil"] is None else _time(document["retainUntil"]),
        note=_text(document["note"]),
        restores=_text(document["restores"]) if restoration else None,
    )
    if parsed.phase is ManifestPhase.READY and (parsed.staging is None or not parsed.source_digest):
        raise ValueError("ready without a digest of both files")
    return parsed


def _source_digest(value: object) -> str:
    return "" if value == "" else _digest(value)


def _format_json(value: Format | None) -> dict[str, Any] | None:
    return None if value is None else value.to_spec()


def _format(value: Any, *, may_be_unknown: bool) -> Format | None:
    return None if value is None and may_be_unknown else Format.from_spec(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value


def _time(value: object) -> str:
    text = _text(value)
    clock.parse(text)
    return text


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _digest(value: object) -> str:
    text = _text(value)
    if not text.startswith("sha256:") or len(text) != len("sha256:") + 64:
        raise ValueError(f"{text!r} is not a digest")
    return text


def _stat_json(value: FileStat) -> dict[str, Any]:
    return {"inode": value.inode, "size": value.size, "mtimeNs": value.mtime_ns}


def _stat(value: Mapping[str, Any]) -> FileStat:
    return FileStat(_integer(value["inode"]), _integer(value["size"]), _integer(value["mtimeNs"]))
