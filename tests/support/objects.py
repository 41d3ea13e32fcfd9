"""Objects of the API for tests: a valid StorageFormat, every invalid one, and complete statuses."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from format_operator.api.names import API_VERSION, KIND_STORAGEFORMAT
from format_operator.api.schema import (
    Boolean,
    Choice,
    Duration,
    Integer,
    Kind,
    List,
    Number,
    Object,
    String,
    Timestamp,
    props,
)

ABSENT: Final = object()
"""As a changed value: the field is left out."""


def storageformat(name: str = "orders", **changes: Any) -> dict[str, Any]:
    """A valid StorageFormat; ``changes`` are paths with ``__`` for dots, such as spec__target."""
    body: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": KIND_STORAGEFORMAT,
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}},
            "database": {"path": "/data/orders.db"},
            "formats": [
                {"name": "v1", "sqlitedict": {"keyEncoding": "natural", "valueCodec": "pickle"}},
                {
                    "name": "v2",
                    "sqlitedict": {
                        "keyEncoding": "hierarchical",
                        "valueCodec": "msgpack",
                        "compression": "zstd",
                    },
                },
            ],
            "target": "v2",
            "unmarked": ["v1"],
        },
    }
    for path, value in changes.items():
        put(body, path.replace("__", "."), value)
    return body


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at ``path`` (dots and list indexes, such as spec.formats.0.name)."""
    *parents, last = path.split(".")
    place: Any = body
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if value is ABSENT:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = copy.deepcopy(value)
    else:
        place[last] = copy.deepcopy(value)


@dataclass(frozen=True)
class Invalid:
    """A StorageFormat that must be refused, and what must be said to whoever wrote it."""

    id: str
    changes: dict[str, Any]
    field: str
    """Where the mistake is, as both the server and the parser call it."""
    says: str
    """What the server says; rules in CEL say the same in Python."""
    python_says: str = ""
    name: str = "orders"
    body: dict[str, Any] = dataclasses.field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        body = storageformat(self.name)
        for path, value in self.changes.items():
            put(body, path, value)
        self.body.update(body)


_PLAIN: Final[dict[str, Any]] = {"name": "v1", "sqlitedict": {}}
_DURATION: Final = "write a duration with its units, such as 0s, 10m, 24h or 1h30m"
_SHORTEST: Final = "write the path in its shortest form"
_GLOB: Final = "may stand in the last part only"
_SIDE: Final = "SQLite's own side files (-wal, -shm, -journal) are not databases"
_NAME: Final = "write the name of a format in lower-case letters, digits and dashes"


def _path(identity: str, path: str, says: str) -> Invalid:
    return Invalid(f"path-{identity}", {"spec.database.path": path}, "spec.database.path", says)


def _parameter(key: str, value: Any, says: str, python_says: str = "") -> Invalid:
    return Invalid(
        f"{key}-{value}",
        {f"spec.formats.0.sqlitedict.{key}": value},
        f"spec.formats[0].sqlitedict.{key}",
        says,
        python_says,
    )


def _sqlite(identity: str, part: Any, below: str, says: str, python_says: str = "") -> Invalid:
    """A mistake in a format's ``sqlite`` part, at the field ``below`` it."""
    field = "spec.formats[1].sqlite" + (f".{below}" if below else "")
    return Invalid(f"sqlite-{identity}", {"spec.formats.1.sqlite": part}, field, says, python_says)


def migrations(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    """Migrations of these numbers, each with ``more``."""
    return [
        {"number": number, "sql": f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY);"} | more
        for number in numbers
    ]


_MIGRATION: Final = "write the name of a migration in lower-case letters, digits and dashes"
_POWER: Final = "write a power of two from 512 to 65536, such as 4096 or 8192"
_BOTH: Final = "write either migrations or migrationsFrom, not both"
_ORDER: Final = "write the migrations in ascending order of their numbers"
_FOLDER: Final = "write an absolute path, as the sidecar sees it, such as /migrations"

INVALID: Final = [
    # the selector
    Invalid("selector-missing", {"spec.selector": ABSENT}, "spec.selector", "Required value"),
    Invalid(
        "selector-empty",
        {"spec.selector": {}},
        "spec.selector",
        "write at least one of matchLabels and matchExpressions",
    ),
    # the database
    Invalid("database-missing", {"spec.database": ABSENT}, "spec.database", "Required value"),
    Invalid("path-missing", {"spec.database": {}}, "spec.database.path", "Required value"),
    _path("relative", "data/orders.db", "write an absolute path, as the app sees it"),
    _path("empty-part", "/data//orders.db", _SHORTEST),
    _path("dot-part", "/data/./orders.db", _SHORTEST),
    _path("dot-dot-part", "/data/../orders.db", _SHORTEST),
    _path("dot-dot-end", "/data/..", _SHORTEST),
    _path("trailing-slash", "/data/", _SHORTEST),
    _path("root", "/", _SHORTEST),
    _path("line-break", "/data/or\nders.db", "without line breaks and other control characters"),
    _path("star-in-directory", "/data/*/orders.db", _GLOB),
    _path("question-in-directory", "/d?ta/orders.db", _GLOB),
    _path("class-in-directory", "/d[ab]ta/orders.db", _GLOB),
    _path("wal", "/data/orders.db-wal", _SIDE),
    _path("shm", "/data/orders.db-shm", _SIDE),
    _path("journal", "/data/orders.db-journal", _SIDE),
    Invalid(
        "openers-unchecked-text",
        {"spec.database.openersUnchecked": "yes"},
        "spec.database.openersUnchecked",
        "must be of type boolean",
        "write true or false",
    ),
    # the formats
    Invalid("formats-missing", {"spec.formats": ABSENT}, "spec.formats", "Required value"),
    Invalid("formats-empty", {"spec.formats": []}, "spec.formats", "should have at least 1 items"),
    Invalid(
        "format-twice",
        {"spec.formats": [_PLAIN, _PLAIN], "spec.target": "v1"},
        "spec.formats[1]",
        "Duplicate value",
    ),
    Invalid(
        "format-without-engine",
        {"spec.formats.0": {"name": "v1"}},
        "spec.formats[0]",
        "a format needs an engine: write sqlitedict: {…}, sqlite: {…}, or both",
    ),
    Invalid(
        "format-of-unknown-engine",
        {"spec.formats.0": {"name": "v1", "leveldb": {}}},
        "spec.formats[0]",
        "a format needs an engine: write sqlitedict: {…}, sqlite: {…}, or both",
    ),
    Invalid(
        "format-without-name",
        {"spec.formats.0": {"sqlitedict": {}}},
        "spec.formats[0].name",
        "Required value",
    ),
    Invalid("format-name-upper", {"spec.formats.0.name": "V1"}, "spec.formats[0].name", _NAME),
    Invalid("format-name-comma", {"spec.formats.0.name": "a,b"}, "spec.formats[0].name", _NAME),
    Invalid("format-name-dash", {"spec.formats.0.name": "-v1"}, "spec.formats[0].name", _NAME),
    Invalid(
        "format-name-long",
        {"spec.formats.0.name": "v" * 64},
        "spec.formats[0].name",
        "Too long",
        "is longer than 63 characters",
    ),
    _parameter(
        "keyEncoding",
        "sorted",
        'supported values: "natural", "hierarchical", "old-compare-hierarchical"',
        "write one of natural, hierarchical, old-compare-hierarchical",
    ),
    _parameter(
        "valueCodec",
        "yaml",
        'supported values: "pickle", "json", "msgpack", "raw"',
        "write one of pickle, json, msgpack, raw",
    ),
    _parameter(
        "compression",
        "lz4",
        'supported values: "none", "zlib", "zstd"',
        "write one of none, zlib, zstd",
    ),
    _parameter(
        "sharedReferences",
        "ignore",
        'supported values: "refuse", "expand"',
        "write one of refuse, expand",
    ),
    _parameter("tables", [], "should have at least 1 items"),
    Invalid(
        "table-twice",
        {"spec.formats.0.sqlitedict.tables": ["a", "a"]},
        "spec.formats[0].sqlitedict.tables[1]",
        "Duplicate value",
    ),
    _sqlite("page-size-odd", {"pageSize": 4000}, "pageSize", _POWER),
    _sqlite(
        "page-size-small",
        {"pageSize": 256},
        "pageSize",
        "should be greater than or equal to 512",
    ),
    _sqlite(
        "page-size-large",
        {"pageSize": 131072},
        "pageSize",
        "should be less than or equal to 65536",
    ),
    _sqlite(
        "page-size-text",
        {"pageSize": "4k"},
        "pageSize",
        "must be of type integer",
        "write a whole number",
    ),
    _sqlite(
        "auto-vacuum-number",
        {"autoVacuum": "on"},
        "autoVacuum",
        'supported values: "none", "full", "incremental"',
        "write one of none, full, incremental",
    ),
    _sqlite(
        "journal-mode-memory",
        {"journalMode": "memory"},
        "journalMode",
        'supported values: "wal", "delete"',
        "write one of wal, delete",
    ),
    _sqlite("migrations-empty", {"migrations": []}, "migrations", "should have at least 1 items"),
    _sqlite(
        "migrations-many",
        {"migrations": migrations(*range(1, 66))},
        "migrations",
        "must have at most 64 items",
    ),
    _sqlite("migrations-descending", {"migrations": migrations(2, 1)}, "migrations", _ORDER),
    _sqlite(
        "migration-twice", {"migrations": migrations(1, 1)}, "migrations[1]", "Duplicate value"
    ),
    _sqlite(
        "migration-without-number",
        {"migrations": [{"sql": "SELECT 1"}]},
        "migrations[0].number",
        "Required value",
    ),
    _sqlite(
        "migration-zero",
        {"migrations": migrations(0)},
        "migrations[0].number",
        "should be greater than or equal to 1",
    ),
    _sqlite(
        "migration-without-sql",
        {"migrations": [{"number": 1}]},
        "migrations[0].sql",
        "Required value",
    ),
    _sqlite(
        "migration-empty-sql",
        {"migrations": migrations(1, sql="")},
        "migrations[0].sql",
        "should be at least 1 chars long",
        "is empty: write a value, or leave the field out",
    ),
    _sqlite(
        "migration-long-sql",
        {"migrations": migrations(1, sql="-" * 65537)},
        "migrations[0].sql",
        "Too long",
        "is longer than 65536 characters",
    ),
    _sqlite(
        "migration-empty-down",
        {"migrations": migrations(1, down="")},
        "migrations[0].down",
        "should be at least 1 chars long",
        "is empty: write a value, or leave the field out",
    ),
    _sqlite(
        "migration-name",
        {"migrations": migrations(1, name="Add customers")},
        "migrations[0].name",
        _MIGRATION,
    ),
    _sqlite(
        "check-text",
        {"migrations": migrations(1, checks="SELECT 1")},
        "migrations[0].checks",
        "must be of type array",
        "write a list",
    ),
    _sqlite(
        "checks-many",
        {"migrations": migrations(1, checks=["SELECT 1"] * 17)},
        "migrations[0].checks",
        "must have at most 16 items",
    ),
    _sqlite(
        "check-long",
        {"migrations": migrations(1, checks=["-" * 4097])},
        "migrations[0].checks[0]",
        "Too long",
        "is longer than 4096 characters",
    ),
    _sqlite(
        "migrations-twice",
        {"migrations": migrations(1), "migrationsFrom": {"folder": "/migrations"}},
        "",
        _BOTH,
    ),
    _sqlite(
        "migrations-from-nowhere", {"migrationsFrom": {}}, "migrationsFrom.folder", "Required value"
    ),
    _sqlite(
        "up-to-negative",
        {"migrationsFrom": {"folder": "/migrations", "upTo": -1}},
        "migrationsFrom.upTo",
        "should be greater than or equal to 0",
    ),
    _sqlite(
        "folder-relative",
        {"migrationsFrom": {"folder": "migrations"}},
        "migrationsFrom.folder",
        _FOLDER,
    ),
    _sqlite(
        "folder-up",
        {"migrationsFrom": {"folder": "/migrations/../x"}},
        "migrationsFrom.folder",
        _SHORTEST,
    ),
    _sqlite(
        "folder-line-break",
        {"migrationsFrom": {"folder": "/a\nb"}},
        "migrationsFrom.folder",
        "without line breaks and other control characters",
    ),
    # target and unmarked
    Invalid("target-missing", {"spec.target": ABSENT}, "spec.target", "Required value"),
    Invalid(
        "target-unknown",
        {"spec.target": "v3"},
        "spec.target",
        "target must be the name of one of spec.formats",
    ),
    Invalid(
        "target-read-only",
        {"spec.formats.1.sqlitedict.keyEncoding": "old-compare-hierarchical"},
        "spec.target",
        "target must not be a format with the key encoding old-compare-hierarchical",
    ),
    Invalid(
        "target-read-only-beside-sqlite",
        {
            "spec.formats.1.sqlitedict.keyEncoding": "old-compare-hierarchical",
            "spec.formats.1.sqlite": {"pageSize": 8192},
        },
        "spec.target",
        "target must not be a format with the key encoding old-compare-hierarchical",
    ),
    Invalid(
        "unmarked-unknown",
        {"spec.unmarked": ["v1", "v0"]},
        "spec.unmarked",
        "each name in unmarked must be the name of one of spec.formats",
    ),
    Invalid(
        "unmarked-twice",
        {"spec.unmarked": ["v1", "v1"]},
        "spec.unmarked[1]",
        "Duplicate value",
    ),
    Invalid(
        "unmarked-empty", {"spec.unmarked": []}, "spec.unmarked", "should have at least 1 items"
    ),
    # backup and failures
    Invalid(
        "retain-for-without-unit",
        {"spec.backup.retainFor": "10"},
        "spec.backup.retainFor",
        _DURATION,
    ),
    Invalid("retain-for-days", {"spec.backup.retainFor": "7d"}, "spec.backup.retainFor", "168h"),
    Invalid(
        "retain-for-negative",
        {"spec.backup.retainFor": "-1h"},
        "spec.backup.retainFor",
        _DURATION,
    ),
    Invalid(
        "retain-for-number",
        {"spec.backup.retainFor": 0},
        "spec.backup.retainFor",
        "must be of type string",
        "write a string, in quotes",
    ),
    Invalid(
        "on-failure-unknown",
        {"spec.onFailure": "Ignore"},
        "spec.onFailure",
        'supported values: "Block", "StartApp"',
        "write one of Block, StartApp",
    ),
    # the rollout
    Invalid(
        "strategy-unknown",
        {"spec.rollout.strategy": "Recreate"},
        "spec.rollout.strategy",
        'supported values: "RollingRestart", "OnRestart"',
        "write one of RollingRestart, OnRestart",
    ),
    Invalid(
        "max-unavailable-zero",
        {"spec.rollout.maxUnavailable": 0},
        "spec.rollout.maxUnavailable",
        "should be greater than or equal to 1",
    ),
    Invalid(
        "max-unavailable-percent",
        {"spec.rollout.maxUnavailable": "25%"},
        "spec.rollout.maxUnavailable",
        "must be of type integer",
        "write a whole number",
    ),
    Invalid(
        "partition-negative",
        {"spec.rollout.partition": -1},
        "spec.rollout.partition",
        "should be greater than or equal to 0",
    ),
    Invalid(
        "canary-without-pods",
        {"spec.rollout.canary": {"pods": 0}},
        "spec.rollout.canary.pods",
        "should be greater than or equal to 1",
    ),
    Invalid(
        "canary-soak",
        {"spec.rollout.canary": {"soakFor": "long"}},
        "spec.rollout.canary.soakFor",
        _DURATION,
    ),
    Invalid(
        "failure-budget-negative",
        {"spec.rollout.failureBudget": -1},
        "spec.rollout.failureBudget",
        "should be greater than or equal to 0",
    ),
    # the object itself
    Invalid("spec-missing", {"spec": ABSENT}, "spec", "Required value", "write a mapping"),
    Invalid("name-with-dot", {}, "", "write orders-db, not orders.db", name="orders.db"),
    Invalid("name-too-long", {}, "", "at most 63 characters without dots", name="o" * 64),
]


def complete(model: type[Any]) -> dict[str, Any]:
    """The API's form of a model with every field filled in, so that none can be forgotten."""
    return {info.name: _sample(info.name, info.kind) for _, info in props(model)}


def _sample(name: str, kind: Kind) -> Any:
    match kind:
        case Object(model=model):
            return complete(model)
        case List(item=item):
            return [_sample(name, item)]
        case Choice():
            return kind.words[-1]
        case Timestamp() | String(format="date-time"):
            return "2026-01-31T12:00:00Z"
        case Duration():
            return "1h30m"
        case Boolean():
            return True
        case Integer():
            return 42
        case Number():
            return 1.5
        case _:
            return f"some-{name.lower()}"
