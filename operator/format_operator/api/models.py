"""The API's objects as Python sees them; their CRD schemas are made from these very classes.

    StorageFormat   what people write: which database, in which formats, how to roll it out
    FormatState     one per pod and StorageFormat: `spec` is the controller's, `status` the sidecar's

Durations are seconds, sizes are bytes, times in a status are RFC 3339 texts in UTC.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from format_operator.api.formats import (
    ENGINES,
    IMPLIED_UNMARKED,
    MAX_FORMATS,
    READ_ONLY_KEYS,
    SQLITEDICT,
    FormatKind,
    NamedFormat,
)
from format_operator.api.names import MAX_STORAGEFORMAT_NAME
from format_operator.api.policies import (
    BackupPolicy,
    Canary,
    OnAppRollback,
    OnFailure,
    Rollout,
    Strategy,
)
from format_operator.api.schema import (
    Boolean,
    Choice,
    Integer,
    InvalidObject,
    List,
    Object,
    Rule,
    String,
    StringMap,
    Timestamp,
    as_mapping,
    dump,
    parse,
    prop,
)
from format_operator.api.statuses import (
    BackupStatus,
    Condition,
    ConversionStatus,
    DatabaseFailure,
    DatabasesStatus,
    FormatStateStatus,
    Gate,
    PersistedFormat,
    Phase,
    Progress,
    RecoveryStatus,
    RolloutStatus,
    StorageFormatStatus,
)
from format_operator.api.texts import MAX_LABEL, MAX_PATH, PRINTABLE, SHORTEST, absolute

__all__ = [
    "ENGINES",
    "BackupPolicy",
    "BackupStatus",
    "Canary",
    "Condition",
    "ConversionStatus",
    "Database",
    "DatabaseFailure",
    "DatabasesStatus",
    "FormatState",
    "FormatStateSpec",
    "FormatStateStatus",
    "Gate",
    "InvalidObject",
    "LabelSelector",
    "NamedFormat",
    "OnAppRollback",
    "OnFailure",
    "Permit",
    "PersistedFormat",
    "Phase",
    "Progress",
    "RecoveryStatus",
    "Rollout",
    "RolloutStatus",
    "StorageFormat",
    "StorageFormatSpec",
    "StorageFormatStatus",
    "Strategy",
]


# --- StorageFormat.spec -------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelRequirement:
    """One entry of ``matchExpressions``."""

    key: str = prop(String(317, min_length=1), "The label's key.")
    operator: str = prop(
        Choice(("In", "NotIn", "Exists", "DoesNotExist")), "How the label is compared."
    )
    values: tuple[str, ...] = prop(
        List(String(63), max_items=64), "What In and NotIn compare with.", default=()
    )


@dataclass(frozen=True)
class LabelSelector:
    """Which pods: ``metav1.LabelSelector``, except that it may not select everything."""

    RULES: ClassVar = (
        Rule(
            cel=(
                "(has(self.matchLabels) && size(self.matchLabels) > 0) || "
                "(has(self.matchExpressions) && size(self.matchExpressions) > 0)"
            ),
            message=(
                "an empty selector would mean every pod of the namespace: "
                "write at least one of matchLabels and matchExpressions"
            ),
            holds=lambda selector: bool(selector.match_labels or selector.match_expressions),
        ),
    )

    match_labels: Mapping[str, str] | None = prop(
        StringMap(max_properties=32, max_length=63),
        "Labels that a pod must carry with exactly these values.",
        default=None,
    )
    match_expressions: tuple[LabelRequirement, ...] = prop(
        List(Object(LabelRequirement), max_items=32),
        "Requirements that a pod's labels must meet, all of them.",
        default=(),
    )

    def to_dict(self) -> dict[str, Any]:
        """As ``metav1.LabelSelector``."""
        return {key: value for key, value in dump(self).items() if value}


@dataclass(frozen=True)
class Database:
    """Which file (or files) on the pod's volume."""

    path: str = prop(
        String(
            MAX_PATH,
            min_length=1,
            rules=(
                Rule(
                    cel="self == oldSelf",
                    message=(
                        "database.path cannot change: a database at another path is another "
                        "StorageFormat; make one beside this"
                    ),
                    holds=None,
                ),
                absolute("as the app sees it, such as /data/orders.db"),
                SHORTEST,
                PRINTABLE,
                Rule(
                    cel="!self.matches('[*?\\\\[].*/')",
                    message=(
                        "a glob (*, ?, [) may stand in the last part only, such as "
                        "/data/tenants/*.db"
                    ),
                    holds=lambda path: not re.search(r"[*?\[].*/", path),
                ),
                Rule(
                    cel="!self.matches('-(wal|shm|journal)$')",
                    message=(
                        "SQLite's own side files (-wal, -shm, -journal) are not databases: write "
                        "the path of the database they belong to"
                    ),
                    holds=lambda path: not re.search(r"-(wal|shm|journal)$", path),
                ),
            ),
        ),
        "Absolute path of the database as the app sees it. A glob in the last part names several "
        "databases, each converted by itself. Immutable.",
    )
    openers_unchecked: bool = prop(
        Boolean(),
        "Convert even where the filesystem has no leases, so that nobody can know whether another "
        "process has the database open. Only for volumes that one pod alone can write.",
        default=False,
    )


@dataclass(frozen=True)
class StorageFormatSpec:
    """What people ask for."""

    RULES: ClassVar = (
        Rule(
            cel="self.formats.exists(f, f.name == self.target)",
            message="target must be the name of one of spec.formats: add that format, or "
            "correct the name",
            holds=lambda spec: any(one.name == spec.target for one in spec.formats),
            field="target",
        ),
        Rule(
            cel=(
                "!self.formats.exists(f, f.name == self.target && has(f.sqlitedict) && "
                f"has(f.sqlitedict.keyEncoding) && f.sqlitedict.keyEncoding == '{READ_ONLY_KEYS}')"
            ),
            message=f"target must not be a format with the key encoding {READ_ONLY_KEYS}, which is "
            "read only: use natural or hierarchical, and name the old format in unmarked",
            holds=lambda spec: all(
                one.name != spec.target or one.key_encoding != READ_ONLY_KEYS
                for one in spec.formats
            ),
            field="target",
        ),
        Rule(
            cel=(
                "!has(self.unmarked) || self.unmarked.all(u, self.formats.exists(f, f.name == u))"
            ),
            message="each name in unmarked must be the name of one of spec.formats: add that "
            "format, or correct the name",
            holds=lambda spec: set(spec.unmarked) <= {one.name for one in spec.formats},
            field="unmarked",
        ),
    )

    selector: LabelSelector = prop(
        Object(LabelSelector),
        "Which pods should carry the sidecar. Immutable.",
        rules=(
            Rule(
                cel="self == oldSelf",
                message=(
                    "selector cannot change: other pods are another StorageFormat; make one "
                    "beside this"
                ),
                holds=None,
            ),
        ),
    )
    database: Database = prop(Object(Database), "The database on each of these pods' volumes.")
    formats: tuple[NamedFormat, ...] = prop(
        List(FormatKind(), MAX_FORMATS, min_items=1, key="name"),
        "The formats that the database is, was or may be in.",
    )
    target: str = prop(
        String(MAX_LABEL, min_length=1),
        "The name of the format that the database shall be in. Going back is naming the old one.",
    )
    unmarked: tuple[str, ...] = prop(
        List(String(MAX_LABEL, min_length=1), MAX_FORMATS, min_items=1, unique=True),
        "The names of the formats that a database without a marker may be in; the target always "
        "counts. Left out: plain sqlitedict (natural keys, pickled values, no compression) where "
        "the target has a sqlitedict part, and otherwise any SQLite file.",
        default=(),
    )
    backup: BackupPolicy = prop(
        Object(BackupPolicy), "What becomes of the old database.", default=BackupPolicy()
    )
    on_failure: OnFailure = prop(
        Choice(OnFailure),
        "Whether the app may start after a conversion that failed. The old database is intact "
        "either way.",
        default=OnFailure.BLOCK,
    )
    on_app_rollback: OnAppRollback = prop(
        Choice(OnAppRollback),
        "What happens to a pod whose app, as its annotation storageformat.dev/reads tells, reads neither "
        "the target nor what is on its volume. Block: its gate stays closed. ConvertBack: the database is "
        "converted to the format that it had before, or else to the last of spec.formats that the app reads, "
        "with everything written since, and without a permit.",
        default=OnAppRollback.BLOCK,
    )
    rollout: Rollout = prop(
        Object(Rollout), "In which order and at which pace pods convert.", default=Rollout()
    )

    def format(self, name: str) -> NamedFormat:
        """The format of that name. Raises KeyError."""
        for one in self.formats:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def target_format(self) -> NamedFormat:
        """The format that the database shall be in."""
        return self.format(self.target)

    @property
    def unmarked_formats(self) -> tuple[NamedFormat, ...]:
        """What a file without a marker may be in, besides the target; see ``unmarked_for``."""
        return self.unmarked_for(self.target_format)

    def unmarked_for(self, target: NamedFormat) -> tuple[NamedFormat, ...]:
        """What a file without a marker may be in when it is converted to ``target``.

        Empty where nothing is said and ``target`` says nothing of rows: any SQLite file will do then.
        """
        if self.unmarked:
            return tuple(self.format(name) for name in self.unmarked)
        return (IMPLIED_UNMARKED,) if SQLITEDICT in target.parts else ()

    def target_hash(self) -> str:
        """What permits and progress refer to: 16 hex digits over path, target and unmarked.

        Names of formats, retention and rollout are not in it, so that changing those starts
        nothing anew.
        """
        unmarked = {_canonical_json(one.canonical()) for one in self.unmarked_formats}
        content = {
            "path": self.database.path,
            "target": self.target_format.canonical(),
            "unmarked": sorted(unmarked),
        }
        return hashlib.sha256(_canonical_json(content).encode()).hexdigest()[:16]


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


# --- objects ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StorageFormat:
    """A StorageFormat as read from the API, or from a file (then without uid and generation)."""

    RULES: ClassVar = (
        Rule(
            cel=f"self.metadata.name.size() <= {MAX_STORAGEFORMAT_NAME} "
            "&& !self.metadata.name.contains('.')",
            message=(
                f"metadata.name is at most {MAX_STORAGEFORMAT_NAME} characters without dots "
                "(write orders-db, not orders.db): the state of pod orders-0 is called "
                "<name>.orders-0"
            ),
            holds=lambda storageformat: (
                len(storageformat.name) <= MAX_STORAGEFORMAT_NAME and "." not in storageformat.name
            ),
        ),
    )

    name: str
    namespace: str
    uid: str
    generation: int
    creation_timestamp: datetime | None
    deleting: bool
    spec: StorageFormatSpec

    @classmethod
    def from_object(cls, obj: Mapping[str, Any], *, strict: bool = False) -> StorageFormat:
        """From the API's form. Raises InvalidObject; with ``strict`` for unknown fields, too."""
        body = as_mapping(obj, "")
        metadata = as_mapping(body.get("metadata") or {}, "metadata")
        created = metadata.get("creationTimestamp")
        parsed = cls(
            name=str(metadata.get("name") or ""),
            namespace=str(metadata.get("namespace") or ""),
            uid=str(metadata.get("uid") or ""),
            generation=Integer(format="int64").parse(
                metadata.get("generation") or 0, "metadata.generation"
            ),
            creation_timestamp=(
                Timestamp().parse(created, "metadata.creationTimestamp") if created else None
            ),
            deleting=metadata.get("deletionTimestamp") is not None,
            spec=parse(StorageFormatSpec, body.get("spec"), "spec", strict=strict),
        )
        for rule in cls.RULES:
            rule.check(parsed, "metadata.name")
        return parsed

    def age_key(self) -> tuple[datetime, str]:
        """Sorts the older of two first, and tells two of one second apart the same way always."""
        return (self.creation_timestamp or datetime.max.replace(tzinfo=UTC), self.uid)


@dataclass(frozen=True)
class Permit:
    """The controller's word that a pod may convert."""

    target_hash: str = prop(String(64), "The target that may be converted to, and no other.")
    expires: datetime = prop(Timestamp(), "Until when a conversion may begin.")

    def allows(self, target_hash: str, now: datetime) -> bool:
        """Whether a conversion to that target may begin at ``now``."""
        return self.target_hash == target_hash and now < self.expires


@dataclass(frozen=True)
class FormatStateSpec:
    """The controller's part of a FormatState."""

    permit: Permit | None = prop(
        Object(Permit), "The controller's word that this pod may convert now.", default=None
    )
    claim_uid: str | None = prop(
        String(64),
        "UID of the PersistentVolumeClaim that holds the database: this state is deleted with it.",
        default=None,
        name="claimUID",
    )


@dataclass(frozen=True)
class FormatState:
    """A FormatState as read from the API; its status is a report and is not read back."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    permit: Permit | None
    claim_uid: str | None

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> FormatState:
        """From the API's form. Raises InvalidObject."""
        body = as_mapping(obj, "")
        metadata = as_mapping(body.get("metadata") or {}, "metadata")
        spec: FormatStateSpec = parse(FormatStateSpec, body.get("spec") or {}, "spec")
        return cls(
            name=str(metadata.get("name") or ""),
            namespace=str(metadata.get("namespace") or ""),
            uid=str(metadata.get("uid") or ""),
            resource_version=str(metadata.get("resourceVersion") or ""),
            permit=spec.permit,
            claim_uid=spec.claim_uid,
        )
