"""How a field of the API is described once, and what follows from that description.

A model's field carries a `Kind`. From the kinds come the OpenAPI schema in the CRD (what the API
server refuses), the parser of an object read from the API or from a file (what the CLI refuses),
and the writer of a status. So the three cannot drift apart, and a status key that is written but
not declared (the API server drops those without a word) cannot exist.

A `Rule` is written twice, side by side: as CEL for the server and as a Python predicate for those
who read the same YAML without a server. The tests put one table of invalid objects through both.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

Schema = dict[str, Any]


class InvalidObject(ValueError):
    """An object does not fit its model. ``path`` names the field, ``message`` what to write."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


@dataclass(frozen=True)
class Rule:
    """What a schema alone cannot say.

    ``holds`` gets the parsed value. It is None for a rule about a change (``oldSelf`` in ``cel``),
    which only the server can see. ``field`` points at the culprit below the place of the rule.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None
    field: str = ""

    def schema(self) -> Schema:
        """The entry of ``x-kubernetes-validations``."""
        entry: Schema = {"rule": self.cel, "message": self.message}
        if self.field:
            entry["fieldPath"] = f".{self.field}"
        return entry

    def check(self, value: object, at: str) -> None:
        """Raise InvalidObject unless the rule holds for ``value``, which stands at ``at``."""
        if self.holds is not None and not self.holds(value):
            raise InvalidObject(f"{at}.{self.field}" if self.field else at, self.message)


def with_rules(schema: Schema, rules: Sequence[Rule]) -> Schema:
    """``schema`` with the rules in the place where the API server looks for them."""
    if rules:
        schema["x-kubernetes-validations"] = [rule.schema() for rule in rules]
    return schema


class Kind(ABC):
    """The type of a field: its schema, and the way between its value in Python and in the API."""

    @abstractmethod
    def schema(self) -> Schema:
        """The OpenAPI schema, without description and default."""

    @abstractmethod
    def parse(self, value: object, at: str, *, strict: bool = False) -> Any:
        """Python's value. Raises InvalidObject; with ``strict`` for fields nobody knows, too."""

    def dump(self, value: Any, *, nulls: bool = False) -> Any:
        """The API's value. With ``nulls``, what is absent is null, as a merge patch needs it."""
        del nulls
        return value


@dataclass(frozen=True)
class String(Kind):
    """Text. Without ``max_length`` the API server cannot bound the cost of rules on it."""

    max_length: int
    min_length: int = 0
    format: str | None = None
    rules: tuple[Rule, ...] = ()

    def schema(self) -> Schema:
        schema: Schema = {"type": "string"}
        if self.format:
            schema["format"] = self.format
        else:
            schema["maxLength"] = self.max_length
        if self.min_length:
            schema["minLength"] = self.min_length
        return with_rules(schema, self.rules)

    def parse(self, value: object, at: str, *, strict: bool = False) -> str:
        del strict
        if not isinstance(value, str):
            raise InvalidObject(at, f"is {_said(value)}: write a string, in quotes")
        if len(value) < self.min_length:
            raise InvalidObject(at, "is empty: write a value, or leave the field out")
        if not self.format and len(value) > self.max_length:
            raise InvalidObject(at, f"is longer than {self.max_length} characters")
        for rule in self.rules:
            rule.check(value, at)
        return value


DATE_TIME_TEXT: Final = String(max_length=64, format="date-time")
"""A moment that is only shown: kept as the RFC 3339 text it came as."""


@dataclass(frozen=True)
class Timestamp(Kind):
    """A moment that is compared: RFC 3339 in the API, an aware datetime in Python."""

    def schema(self) -> Schema:
        return {"type": "string", "format": "date-time"}

    def parse(self, value: object, at: str, *, strict: bool = False) -> datetime:
        del strict
        try:
            # A YAML reader may have made a datetime of it already.
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError as error:
            message = f"is {value!r}: write an RFC 3339 time such as 2026-01-31T12:00:00Z"
            raise InvalidObject(at, message) from error
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def dump(self, value: datetime, *, nulls: bool = False) -> str:
        del nulls
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number."""

    minimum: int | None = 0
    maximum: int | None = None
    format: str = "int32"

    def schema(self) -> Schema:
        schema: Schema = {"type": "integer", "format": self.format}
        if self.minimum is not None:
            schema["minimum"] = self.minimum
        if self.maximum is not None:
            schema["maximum"] = self.maximum
        return schema

    def parse(self, value: object, at: str, *, strict: bool = False) -> int:
        del strict
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidObject(at, f"is {_said(value)}: write a whole number")
        if self.minimum is not None and value < self.minimum:
            raise InvalidObject(at, f"should be greater than or equal to {self.minimum}")
        if self.maximum is not None and value > self.maximum:
            raise InvalidObject(at, f"should be less than or equal to {self.maximum}")
        return value


@dataclass(frozen=True)
class Number(Kind):
    """A number with a fraction; in Python a float."""

    minimum: int | None = 0

    def schema(self) -> Schema:
        schema: Schema = {"type": "number", "format": "double"}
        return schema if self.minimum is None else {**schema, "minimum": self.minimum}

    def parse(self, value: object, at: str, *, strict: bool = False) -> float:
        del strict
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidObject(at, f"is {_said(value)}: write a number")
        return float(value)


@dataclass(frozen=True)
class Boolean(Kind):
    """true or false."""

    def schema(self) -> Schema:
        return {"type": "boolean"}

    def parse(self, value: object, at: str, *, strict: bool = False) -> bool:
        del strict
        if not isinstance(value, bool):
            raise InvalidObject(at, f"is {_said(value)}: write true or false")
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words; ``choices`` is a StrEnum, or the words themselves."""

    choices: type[StrEnum] | tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The words, in the order in which they are declared."""
        return [str(one) for one in self.choices]

    def schema(self) -> Schema:
        return {"type": "string", "enum": self.words}

    def parse(self, value: object, at: str, *, strict: bool = False) -> str:
        del strict
        if value not in self.words:
            raise InvalidObject(at, f"is {value!r}: write one of {', '.join(self.words)}")
        return self.choices(value) if isinstance(self.choices, type) else str(value)

    def dump(self, value: str, *, nulls: bool = False) -> str:
        del nulls
        return str(value)


_DURATION: Final = r"([0-9]{1,9}(\.[0-9]{1,9})?(h|ms|m|s))+"
_UNIT_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Duration(Kind):
    """A span of time as Go writes it (``90s``, ``1h30m``); in Python seconds."""

    RULE: ClassVar[Rule] = Rule(
        cel=f"self.matches('^{_DURATION}$')".replace("\\", "\\\\"),
        message=(
            "write a duration with its units, such as 0s, 10m, 24h or 1h30m "
            "(h, m, s, ms; a week is 168h)"
        ),
        holds=lambda text: re.fullmatch(_DURATION, text) is not None,
    )

    def schema(self) -> Schema:
        return with_rules({"type": "string", "maxLength": 64}, [self.RULE])

    def parse(self, value: object, at: str, *, strict: bool = False) -> float:
        text = String(max_length=64, rules=(self.RULE,)).parse(value, at, strict=strict)
        parts = re.findall(r"([0-9.]+)(h|ms|m|s)", text)
        return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in parts)

    def dump(self, value: float, *, nulls: bool = False) -> str:
        del nulls
        milliseconds = round(value * 1000)
        if milliseconds % 1000:
            return f"{milliseconds}ms"
        minutes, seconds = divmod(milliseconds // 1000, 60)
        hours, minutes = divmod(minutes, 60)
        parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
        return "".join(f"{amount}{unit}" for amount, unit in parts if amount) or "0s"


@dataclass(frozen=True)
class StringMap(Kind):
    """Names to texts; a dict."""

    max_properties: int
    max_length: int

    def schema(self) -> Schema:
        return {
            "type": "object",
            "additionalProperties": String(self.max_length).schema(),
            "maxProperties": self.max_properties,
        }

    def parse(self, value: object, at: str, *, strict: bool = False) -> dict[str, str]:
        item = String(self.max_length)
        entries = as_mapping(value, at).items()
        if len(entries) > self.max_properties:
            raise InvalidObject(at, f"has more than {self.max_properties} entries")
        return {str(key): item.parse(one, f"{at}.{key}", strict=strict) for key, one in entries}

    def dump(self, value: Mapping[str, str], *, nulls: bool = False) -> dict[str, str]:
        del nulls
        return dict(value)


@dataclass(frozen=True)
class List(Kind):
    """Several of one kind; a tuple.

    ``key``: the field that tells items apart (the server merges them by it). ``unique``: the items
    themselves do. Neither: the list is one value, replaced as a whole.
    """

    item: Kind
    max_items: int
    min_items: int = 0
    key: str | None = None
    unique: bool = False

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "array",
            "items": self.item.schema(),
            "maxItems": self.max_items,
            "x-kubernetes-list-type": "map" if self.key else "set" if self.unique else "atomic",
        }
        if self.min_items:
            schema["minItems"] = self.min_items
        if self.key:
            schema["x-kubernetes-list-map-keys"] = [self.key]
        return schema

    def parse(self, value: object, at: str, *, strict: bool = False) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise InvalidObject(at, f"is {_said(value)}: write a list")
        if len(value) < self.min_items:
            raise InvalidObject(at, f"should have at least {self.min_items} items")
        if len(value) > self.max_items:
            raise InvalidObject(at, f"must have at most {self.max_items} items")
        items = []
        seen = set()
        for index, one in enumerate(value):
            items.append(self.item.parse(one, f"{at}[{index}]", strict=strict))
            identity = one.get(self.key) if self.key and isinstance(one, Mapping) else one
            if (self.key or self.unique) and identity in seen:
                raise InvalidObject(f"{at}[{index}]", f"Duplicate value: {identity!r}")
            if self.key or self.unique:
                seen.add(identity)
        return tuple(items)

    def dump(self, value: Sequence[Any], *, nulls: bool = False) -> list[Any]:
        # A merge patch replaces a list as a whole, so nothing in it has to be nulled.
        del nulls
        return [self.item.dump(one) for one in value]


@dataclass(frozen=True)
class Object(Kind):
    """A nested model: a dataclass whose fields were made by `prop`."""

    model: type[Any]

    def schema(self) -> Schema:
        return object_schema(self.model)

    def parse(self, value: object, at: str, *, strict: bool = False) -> Any:
        return parse(self.model, value, at, strict=strict)

    def dump(self, value: Any, *, nulls: bool = False) -> dict[str, Any]:
        return dump(value, nulls=nulls)


@dataclass(frozen=True)
class Prop:
    """A field of a model, as the API sees it."""

    name: str
    kind: Kind
    description: str
    filled: bool
    """Whether the server puts the default in when the field is left out."""
    rules: tuple[Rule, ...] = ()


_PROP: Final = "format_operator.prop"


def prop(
    kind: Kind,
    description: str,
    *,
    default: Any = dataclasses.MISSING,
    filled: bool | None = None,
    name: str = "",
    rules: tuple[Rule, ...] = (),
) -> Any:
    """A dataclass field that is a field of the API.

    Without ``default`` it is required. A default other than None or an empty tuple is filled in by
    the API server too (``filled``). ``name`` is for those that are not just camel case.
    """
    if filled is None:
        filled = default is not dataclasses.MISSING and default is not None and default != ()
    info = Prop(name, kind, description, filled, rules)
    if default is dataclasses.MISSING:
        return field(metadata={_PROP: info})
    return field(default=default, metadata={_PROP: info})


def props(model: type[Any]) -> list[tuple[dataclasses.Field[Any], Prop]]:
    """The fields of a model with their descriptions, names filled in."""
    found = []
    for one in dataclasses.fields(model):
        info: Prop = one.metadata[_PROP]
        found.append((one, dataclasses.replace(info, name=info.name or _camel(one.name))))
    return found


def object_schema(model: type[Any]) -> Schema:
    """The OpenAPI schema of a model. A class attribute ``RULES`` holds its rules."""
    properties: Schema = {}
    required = []
    for one, info in props(model):
        schema = info.kind.schema()
        own = [rule.schema() for rule in info.rules]
        if own:
            schema["x-kubernetes-validations"] = schema.get("x-kubernetes-validations", []) + own
        entry: Schema = {"description": info.description, **schema}
        if info.filled:
            # A nested object's own defaults are filled in by the server, into this empty one.
            nested = isinstance(info.kind, Object)
            entry["default"] = {} if nested else info.kind.dump(one.default)
        if one.default is dataclasses.MISSING:
            required.append(info.name)
        properties[info.name] = entry
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return with_rules(schema, getattr(model, "RULES", ()))


def parse(model: type[Any], value: object, at: str, *, strict: bool = False) -> Any:
    """An instance of ``model`` from the API's form of it, which stands at ``at``.

    Defaults are filled in. Fields nobody knows are left alone (a newer API server may send some),
    or refused when ``strict``. Raises InvalidObject.
    """
    source = as_mapping(value, at)
    values: dict[str, Any] = {}
    known = set()
    for one, info in props(model):
        known.add(info.name)
        place = f"{at}.{info.name}" if at else info.name
        given = source.get(info.name)
        if given is not None:
            values[one.name] = info.kind.parse(given, place, strict=strict)
            for rule in info.rules:
                rule.check(values[one.name], place)
        elif one.default is dataclasses.MISSING:
            raise InvalidObject(place, "Required value")
    unknown = sorted(str(key) for key in source if key not in known)
    if strict and unknown:
        message = f'unknown field "{unknown[0]}": the fields here are {", ".join(sorted(known))}'
        raise InvalidObject(at, message)
    parsed = model(**values)
    for rule in getattr(model, "RULES", ()):
        rule.check(parsed, at)
    return parsed


def dump(value: Any, *, nulls: bool = False) -> dict[str, Any]:
    """The API's form of a model's instance.

    What is None or an empty list is left out, or null with ``nulls``: a merge patch removes a key only then.
    """
    result: dict[str, Any] = {}
    for one, info in props(type(value)):
        current = getattr(value, one.name)
        if current is not None and current != ():
            result[info.name] = info.kind.dump(current, nulls=nulls)
        elif nulls:
            result[info.name] = None
    return result


def as_mapping(value: object, at: str) -> Mapping[str, Any]:
    """``value`` as a mapping; InvalidObject when it is something else."""
    if not isinstance(value, Mapping):
        raise InvalidObject(at, f"is {_said(value)}: write a mapping (key: value)")
    return value


def _said(value: object) -> str:
    return "empty" if value is None else f"{value!r} ({type(value).__name__})"


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
