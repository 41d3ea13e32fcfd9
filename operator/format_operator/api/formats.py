"""Formats as a StorageFormat lists them: a name, one engine, and the engine's parameters."""

from __future__ import annotations

import re
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

# The server multiplies bounds such as these to estimate what a CEL rule may cost, and refuses a
# CRD that may cost too much. They are far above what anybody needs.
MAX_FORMATS: Final = 32
MAX_FORMAT_NAME: Final = 63
MAX_TABLES: Final = 64
MAX_TABLE_NAME: Final = 128

READ_ONLY_KEYS: Final = "old-compare-hierarchical"
"""A key encoding that a database can be in, and that none is converted to."""

_DNS_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"

FORMAT_NAME: Final = String(
    MAX_FORMAT_NAME,
    min_length=1,
    rules=(
        Rule(
            cel=f"self.matches('^{_DNS_LABEL}$')",
            message=(
                "write the name of a format in lower-case letters, digits and dashes, beginning "
                "and ending with a letter or digit, such as v2 or msgpack-zstd"
            ),
            holds=lambda name: re.fullmatch(_DNS_LABEL, name) is not None,
        ),
    ),
)


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


ENGINES: Final[Mapping[str, type[Any]]] = {"sqlitedict": SqlitedictParameters}
"""The engines by the key that names them in a format. A new engine is one more entry."""

_ENGINE_DESCRIPTIONS: Final = {
    "sqlitedict": "A file written by sqlitedict: tables of a key and an encoded value."
}


@dataclass(frozen=True)
class NamedFormat:
    """A format by the name that people, apps and statuses use for it.

    ``parameters`` are the engine's, as the API writes them, with defaults filled in.
    """

    name: str
    engine: str
    parameters: Mapping[str, Any]

    def to_spec(self) -> dict[str, Any]:
        """As the StorageFormat has it: ``{"name": …, "<engine>": {…}}``."""
        return {"name": self.name, self.engine: dict(self.parameters)}

    def canonical(self) -> dict[str, Any]:
        """What determines the bytes: the same for two formats that differ in name only."""
        parameters = dict(self.parameters)
        if "tables" in parameters:
            parameters["tables"] = sorted(parameters["tables"])
        return {self.engine: parameters}


class FormatKind(Kind):
    """A format: its name, and exactly one engine with the engine's parameters."""

    ONE_ENGINE: ClassVar = Rule(
        cel="["
        + ", ".join(f"has(self.{engine})" for engine in ENGINES)
        + "].filter(present, present).size() == 1",
        message=(
            "a format has exactly one engine: write one of "
            + ", ".join(f"{engine}: {{…}}" for engine in ENGINES)
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
        return with_rules(schema, [self.ONE_ENGINE])

    def parse(self, value: object, at: str, *, strict: bool = False) -> NamedFormat:
        del strict
        source = as_mapping(value, at)
        if "name" not in source:
            raise InvalidObject(f"{at}.name", "Required value")
        name = FORMAT_NAME.parse(source["name"], f"{at}.name")
        engines = [key for key in source if key != "name"]
        if len(engines) != 1 or engines[0] not in ENGINES:
            raise InvalidObject(at, self.ONE_ENGINE.message)
        engine = engines[0]
        # Always strict: a parameter that this release does not know would change the bytes, and
        # converting as if it were not there would write another format than the one asked for.
        parameters = parse(ENGINES[engine], source[engine], f"{at}.{engine}", strict=True)
        return NamedFormat(name, engine, dump(parameters))

    def dump(self, value: NamedFormat, *, nulls: bool = False) -> dict[str, Any]:
        del nulls
        return value.to_spec()


IMPLIED_UNMARKED: Final = NamedFormat("sqlitedict", "sqlitedict", dump(SqlitedictParameters()))
"""What a file without a marker may be when ``unmarked`` is left out: sqlitedict as it comes."""
