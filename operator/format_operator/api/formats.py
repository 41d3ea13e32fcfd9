"""Formats as a StorageFormat lists them: a name, and a part for each engine that has a say in the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from format_operator.api.schema import (
    Choice,
    InvalidObject,
    Kind,
    List,
    Rule,
    Schema,
    String,
    as_mapping,
    dump,
    object_schema,
    parse,
    prop,
    with_rules,
)
from format_operator.api.sqlite import SqliteParameters
from format_operator.api.texts import label

# The server multiplies bounds such as these to estimate what a CEL rule may cost, and refuses a
# CRD that may cost too much. They are far above what anybody needs.
MAX_FORMATS: Final = 32
MAX_TABLES: Final = 64
MAX_TABLE_NAME: Final = 128

SQLITEDICT: Final = "sqlitedict"
SQLITE: Final = "sqlite"

READ_ONLY_KEYS: Final = "old-compare-hierarchical"
"""A key encoding that a database can be in, and that none is converted to."""

FORMAT_NAME: Final = label("the name of a format", "v2 or msgpack-zstd")


@dataclass(frozen=True)
class SqlitedictParameters:
    """How a file of sqlitedict lays out its rows."""

    key_encoding: str = prop(
        Choice(("natural", "hierarchical", READ_ONLY_KEYS)),
        "natural: keys are text, as sqlitedict writes them. hierarchical: keys are bytes that sort "
        "a tree of paths level by level, compatible with Oxia's encoder. old-compare-hierarchical: "
        "text in a column with the collation slash_span, Oxia's first order; to be left, never the "
        "target.",
        default="natural",
    )
    value_codec: str = prop(
        Choice(("pickle", "json", "msgpack", "raw")),
        "How a value becomes bytes. pickle is what sqlitedict does unless told otherwise.",
        default="pickle",
    )
    compression: str = prop(
        Choice(("none", "zlib", "zstd")),
        "What is done to these bytes before they are stored.",
        default="none",
    )
    tables: tuple[str, ...] | None = prop(
        List(String(MAX_TABLE_NAME, min_length=1), MAX_TABLES, min_items=1, unique=True),
        "The tables that are in this format. Left out: every table that has sqlitedict's shape.",
        default=None,
    )
    shared_references: str = prop(
        Choice(("refuse", "expand")),
        "What to do with a pickled value that holds one object twice, which no other codec can "
        "say: refuse the conversion, or write the object out each time.",
        default="refuse",
    )


ENGINES: Final[Mapping[str, type[Any]]] = {
    SQLITEDICT: SqlitedictParameters,
    SQLITE: SqliteParameters,
}
"""The engines by the key of their part in a format. A new engine is one more entry."""

_ENGINE_DESCRIPTIONS: Final = {
    SQLITEDICT: "A file written by sqlitedict: tables of a key and an encoded value.",
    SQLITE: "Any SQLite file: its layout, and the migrations of its schema. Beside sqlitedict it "
    "is about the same file, and whatever else is in it.",
}


@dataclass(frozen=True)
class NamedFormat:
    """A format by the name that people, apps and statuses use for it.

    ``parts``: for each engine that it names, the parameters as the API writes them, defaults filled in.
    """

    name: str
    parts: Mapping[str, Mapping[str, Any]]

    @property
    def key_encoding(self) -> str | None:
        """How keys are stored; None where the format says nothing of rows."""
        return self.parts.get(SQLITEDICT, {}).get("keyEncoding")

    def to_spec(self) -> dict[str, Any]:
        """As the StorageFormat has it: ``{"name": …, "<engine>": {…}, …}``."""
        return {"name": self.name} | {engine: dict(part) for engine, part in self.parts.items()}

    def canonical(self) -> dict[str, Any]:
        """What a conversion depends on: the same for two formats that differ in names only.

        ``down`` and ``checks`` are in it: mending one is a new wish, and worth another try.
        """
        parts = {engine: _canonical(part) for engine, part in self.parts.items()}
        if SQLITEDICT in parts and not parts.get(SQLITE):
            parts.pop(SQLITE, None)  # an empty one beside it says nothing
        return parts


def _canonical(part: Mapping[str, Any]) -> dict[str, Any]:
    canonical = dict(part)
    if "tables" in canonical:
        canonical["tables"] = sorted(canonical["tables"])
    if "migrations" in canonical:
        canonical["migrations"] = [
            {key: value for key, value in one.items() if key != "name"}
            for one in canonical["migrations"]
        ]
    return canonical


class FormatKind(Kind):
    """A format: its name, and one or more engines with their parameters."""

    SOME_ENGINE: ClassVar = Rule(
        cel=" || ".join(f"has(self.{engine})" for engine in ENGINES),
        message=(
            "a format needs an engine: write "
            + ", ".join(f"{engine}: {{…}}" for engine in ENGINES)
            + ", or both"
        ),
        holds=None,
    )

    def schema(self) -> Schema:
        properties: Schema = {
            "name": {
                "description": "What people, apps and statuses call this format.",
                **FORMAT_NAME.schema(),
            }
        }
        for engine, model in ENGINES.items():
            properties[engine] = {
                "description": _ENGINE_DESCRIPTIONS[engine],
                **object_schema(model),
            }
        schema = {"type": "object", "required": ["name"], "properties": properties}
        return with_rules(schema, [self.SOME_ENGINE])

    def parse(self, value: object, at: str, *, strict: bool = False) -> NamedFormat:
        del strict
        source = as_mapping(value, at)
        if "name" not in source:
            raise InvalidObject(f"{at}.name", "Required value")
        name = FORMAT_NAME.parse(source["name"], f"{at}.name")
        named = [engine for engine in ENGINES if engine in source]
        if not named:
            raise InvalidObject(at, self.SOME_ENGINE.message)
        # Always strict: an engine or a parameter that this release does not know would change the
        # bytes, and converting as if it were not there would write another format than the one
        # asked for.
        unknown = sorted(str(key) for key in source if key != "name" and key not in ENGINES)
        if unknown:
            known = ", ".join(("name", *ENGINES))
            raise InvalidObject(at, f'unknown field "{unknown[0]}": the fields here are {known}')
        return NamedFormat(
            name,
            {
                engine: dump(parse(ENGINES[engine], source[engine], f"{at}.{engine}", strict=True))
                for engine in named
            },
        )

    def dump(self, value: NamedFormat, *, nulls: bool = False) -> dict[str, Any]:
        del nulls
        return value.to_spec()


IMPLIED_UNMARKED: Final = NamedFormat("sqlitedict", {SQLITEDICT: dump(SqlitedictParameters())})
"""What a file without a marker may be when ``unmarked`` is left out and the target has rows of sqlitedict's:
sqlitedict as it comes."""
