"""What a FormatState says, made of what the reconciler knows. Pure; nothing is ever read back from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from format_operator import __version__
from format_operator.api.models import (
    BackupStatus,
    ConversionStatus,
    DatabaseFailure,
    DatabasesStatus,
    FormatStateStatus,
    Gate,
    Progress,
    RecoveryStatus,
)
from format_operator.api.names import PROTOCOL_VERSION
from format_operator.api.statuses import MAX_FAILURES, MAX_MESSAGE
from format_operator.series import FormatInfo
from format_operator.settings import DatabaseArgument, SidecarSettings
from format_operator.sidecar.decide import Action
from format_operator.sidecar.observed import Disk, File
from format_operator.sidecar.wish import Wish
from format_store import Backup, Format
from format_store.errors import InvalidFormat
from format_store.history import History


@dataclass(frozen=True)
class Facts:
    """What a report is made of, besides the action."""

    argument: DatabaseArgument
    files: tuple[File, ...]
    backups: tuple[Backup, ...]
    histories: Mapping[str, History]
    refusal: ConversionStatus | None
    progress: Progress | None
    gate_open: bool
    observed_generation: int | None


def build(settings: SidecarSettings, action: Action, facts: Facts) -> FormatStateStatus:
    wish = action.wish
    return FormatStateStatus(
        pod_name=settings.pod_name,
        pod_uid=settings.pod_uid or None,
        node_name=settings.node_name or None,
        path=facts.argument.path,
        observed_generation=facts.observed_generation,
        target_hash=wish.target_hash if wish is not None else None,
        target_format=wish.target_name if wish is not None else None,
        current_format=_current_format(wish, facts.files),
        phase=action.phase,
        reason=action.reason,
        message=action.message[:MAX_MESSAGE],
        progress=facts.progress,
        databases=_databases(wish, facts.files) if facts.argument.is_glob else None,
        backup=_backup(facts.backups),
        last_recovery=_last_recovery(facts.histories.values()),
        last_conversion=_last_conversion(wish, facts),
        armed_for=action.armed_for,
        gate=Gate.OPEN if facts.gate_open else Gate.CLOSED,
        restart_required=action.restart_required,
        sidecar_version=__version__,
        api_version=PROTOCOL_VERSION,
    )


def format_infos(wish: Wish | None, files: Sequence[File]) -> dict[FormatInfo, int]:
    """How many databases are in which format, for the metric."""
    counts: Counter[FormatInfo] = Counter()
    for file in files:
        if file.format is None and file.disk in {Disk.ABSENT, Disk.EMPTY}:
            continue
        found = file.format or (
            _only(wish.taken_for) if wish and file.disk is Disk.UNMARKED else None
        )
        if found is None:
            counts[FormatInfo("unknown", "", "", "", "")] += 1
            continue
        rows = _rows(found)
        counts[
            FormatInfo(
                wish.name_of(found) if wish is not None and wish.names_of(found) else "",
                found.engine,
                str(rows.get("keyEncoding", "")),
                str(rows.get("valueCodec", "")),
                str(rows.get("compression", "")),
            )
        ] += 1
    return dict(counts)


def _rows(found: Format) -> Mapping[str, Any]:
    """The parameters that are about rows: the engine's own, or those of the part beside ``sqlite``."""
    if found.engine != "sqlite":
        return found.parameters
    part: Mapping[str, Any] | None = found.parameters.get("sqlitedict")
    return part or {}


def _current_format(wish: Wish | None, files: Sequence[File]) -> str | None:
    """One name when all databases agree, by the StorageFormat's names where it has one."""
    names = {name for file in files if (name := _format_name(wish, file)) is not None}
    if len(names) > 1:
        return "several"
    return names.pop()[:256] if names else None


def _format_name(wish: Wish | None, file: File) -> str | None:
    found = file.format
    if found is None and file.disk is Disk.UNMARKED and wish is not None:
        found = _only(wish.taken_for)
    if found is None:
        return None
    return wish.name_of(found) if wish is not None else str(found)


def _only(formats: Sequence[Format]) -> Format | None:
    return formats[0] if len(formats) == 1 else None


def _databases(wish: Wish | None, files: Sequence[File]) -> DatabasesStatus:
    present = [file for file in files if file.disk is not Disk.ABSENT or file.pending]
    converted = [file for file in present if _is_converted(wish, file)]
    failed = [file for file in present if file.failure is not None]
    return DatabasesStatus(
        total=len(present),
        converted=len(converted),
        pending=len(present) - len(converted) if wish is not None else 0,
        failed=len(failed),
        first_failures=tuple(
            DatabaseFailure(file.path, file.failure.reason, file.failure.message[:MAX_MESSAGE])
            for file in failed[:MAX_FAILURES]
            if file.failure is not None
        ),
    )


def _is_converted(wish: Wish | None, file: File) -> bool:
    if wish is None or file.format is None or file.pending:
        return False
    return file.format.same_bytes_as(wish.target)


def _backup(backups: Sequence[Backup]) -> BackupStatus:
    if not backups:
        return BackupStatus(present=False)
    newest = max(backups, key=lambda backup: backup.created_at)
    return BackupStatus(
        present=True,
        conversion_id=newest.conversion_id,
        size=sum(backup.size for backup in backups),
        created_at=newest.created_at,
        retain_until=newest.retain_until,
        pinned=newest.pinned,
        count=len(backups),
    )


def _last_entry(histories: Iterable[History], kind: str) -> Mapping[str, Any] | None:
    entries = [entry for history in histories for entry in history.entries if entry["kind"] == kind]
    # Times are whole seconds: of several in one second the later entry counts.
    return max(reversed(entries), key=lambda entry: str(entry["at"]), default=None)


def _last_recovery(histories: Iterable[History]) -> RecoveryStatus | None:
    entry = _last_entry(histories, "recovery")
    if entry is None:
        return None
    return RecoveryStatus(
        at=str(entry["at"]),
        outcome=str(entry["outcome"]),
        conversion_id=entry.get("conversionID"),
        detail=str(entry.get("detail", ""))[:MAX_MESSAGE],
    )


def _last_conversion(wish: Wish | None, facts: Facts) -> ConversionStatus | None:
    entry = _last_entry(facts.histories.values(), "conversion")
    if entry is None or (facts.refusal is not None and facts.refusal.at >= str(entry["at"])):
        return facts.refusal
    return ConversionStatus(
        at=str(entry["at"]),
        result=str(entry["result"]),
        from_format=_spec_name(wish, entry.get("source")),
        to_format=_spec_name(wish, entry.get("target")),
        rows=entry.get("rows"),
        bytes_before=entry.get("bytesBefore"),
        bytes_after=entry.get("bytesAfter"),
        duration_seconds=entry.get("seconds"),
        conversion_id=entry.get("conversionID"),
    )


def _spec_name(wish: Wish | None, spec: object) -> str | None:
    if not isinstance(spec, Mapping):
        return None
    try:
        found = Format.from_spec(spec)
    except InvalidFormat:
        return None
    return (wish.name_of(found) if wish is not None else str(found))[:256]
