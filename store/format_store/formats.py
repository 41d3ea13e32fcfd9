"""Formats, and the marker that records one inside the database.

A format is how the bytes lie: an engine and its parameters. The marker is a view,

    CREATE VIEW _storageformat AS SELECT '<canonical JSON>' AS marker

which is parsed from the schema's text and never executed. A table would show up in sqlitedict's
``get_tablenames`` and break apps that iterate it; a view does not, survives ``flag='w'`` and refuses DELETE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from format_store import errors

MARKER_NAME = "_storageformat"
MARKER_VERSION = 1

_PREFIX = f"CREATE VIEW {MARKER_NAME} AS SELECT '"
_SUFFIX = "' AS marker"
#: The engine whose parameters may stand beside those of sqlite, and are among them in a ``Format``.
_PART = "sqlitedict"


@dataclass(frozen=True)
class Format:
    """An engine and its normalised parameters; two that are equal mean the same bytes on disk.

    ``parameters`` has every parameter of the engine, defaults filled in. Make one with ``from_spec`` or
    ``sqlitedict``, which validate.
    """

    engine: str
    parameters: Mapping[str, Any]

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Format:
        """Parse the shape that a StorageFormat's ``formats`` list has: ``{"sqlitedict": {...}}``.

        Beside ``sqlite`` may stand ``sqlitedict``, for tables of its shape in the same file. A ``name`` is
        passed over. Raises InvalidFormat.
        """
        from format_store.engines import registry

        if not isinstance(spec, Mapping):
            raise _invalid(f"a format is a mapping with one engine, not {type(spec).__name__}")
        engines = [key for key in spec if key != "name"]
        both = {*engines} == {"sqlite", _PART}
        if len(engines) != 1 and not both:
            raise _invalid(
                f"a format names one engine, or sqlite and sqlitedict; this one has {sorted(map(str, engines)) or 'none'}"
            )
        name = "sqlite" if both else engines[0]
        parameters = {one: spec[one] if spec[one] is not None else {} for one in engines}
        for one, told in parameters.items():
            if not isinstance(told, Mapping):
                raise _invalid(f"the parameters of {one} are a mapping, not {type(told).__name__}")
        if name == "sqlite" and _PART in parameters[name]:
            raise _invalid("sqlitedict stands beside sqlite, not in it")
        if both:
            return cls(
                name, registry.get(name).parse({**parameters[name], _PART: parameters[_PART]})
            )
        return cls(name, registry.get(name).parse(parameters[name]))

    @classmethod
    def sqlitedict(
        cls,
        *,
        key_encoding: str = "natural",
        value_codec: str = "pickle",
        compression: str = "none",
        tables: Sequence[str] | None = None,
        shared_references: str = "refuse",
    ) -> Format:
        """A sqlitedict file. The defaults are what plain ``SqliteDict(path)`` writes."""
        return cls.from_spec(
            {
                "sqlitedict": {
                    "keyEncoding": key_encoding,
                    "valueCodec": value_codec,
                    "compression": compression,
                    "tables": None if tables is None else list(tables),
                    "sharedReferences": shared_references,
                }
            }
        )

    def to_spec(self) -> dict[str, Any]:
        """The inverse of ``from_spec``; parameters at their default are left out."""
        from format_store.engines import registry

        spec: dict[str, Any] = {self.engine: registry.get(self.engine).spec(self.parameters)}
        part = self.parameters.get(_PART) if self.engine == "sqlite" else None
        if part is not None:
            spec[_PART] = registry.get(_PART).spec(part)
        return spec

    def under(self, engine: str) -> Format | None:
        """The same format as ``engine`` has it; None where it has not.

        A sqlitedict file is a SQLite file about which nothing else is said.
        """
        from format_store.engines import registry

        if engine == self.engine:
            return self
        if (self.engine, engine) != (_PART, "sqlite"):
            return None
        return Format(engine, registry.get(engine).parse({}) | {_PART: self.parameters})

    def same_bytes_as(self, other: Format) -> bool:
        """Whether a database in one is in the other as it lies (conversion options do not count)."""
        from format_store.engines import registry

        found = registry.common(self, other)
        if found is None:
            return False
        engine, one, another = found
        return engine.on_disk(one.parameters) == engine.on_disk(another.parameters)

    def __str__(self) -> str:
        from format_store.engines import registry

        return f"{self.engine}({registry.get(self.engine).describe(self.parameters)})"


@dataclass(frozen=True)
class Marker:
    """What the database says of itself. ``converted_at`` is RFC 3339 in UTC.

    ``previous``: the format before this conversion, which ``undo`` goes back to; None where nothing tells.
    """

    format: Format
    conversion_id: str
    converted_at: str
    tool_version: str
    marker_version: int = MARKER_VERSION
    previous: Format | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "markerVersion": self.marker_version,
            "format": self.format.to_spec(),
            "conversion": self.conversion_id,
            "convertedAt": self.converted_at,
            "tool": self.tool_version,
        } | ({} if self.previous is None else {"previous": self.previous.to_spec()})

    def create_statement(self) -> str:
        """The SQL that puts this marker into a database without one."""
        import json

        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return _PREFIX + text.replace("'", "''") + _SUFFIX


def parse_marker(statement: str, *, path: str) -> Marker:
    """Read a marker from the schema's text. Raises UnreadableMarker, NewerMarker, UnknownMarker."""
    if not statement.startswith(_PREFIX) or not statement.endswith(_SUFFIX):
        raise _unreadable("its definition is not the one that this tool writes", path)
    body = statement[len(_PREFIX) : -len(_SUFFIX)]
    if "'" in body.replace("''", ""):
        raise _unreadable("its text is not one string", path)
    import json

    try:
        document = json.loads(body.replace("''", "'"))
        version = document["markerVersion"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(f"its text is not a marker's ({error})", path) from error
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _unreadable(f"its version is {version!r}", path)
    if version > MARKER_VERSION:
        raise errors.NewerMarker(
            f"the marker has version {version}, this tool knows up to {MARKER_VERSION}",
            operation="read marker",
            path=path,
            hint="Nothing was touched. Use the version of the tool that wrote it, or a newer one "
            f"({document.get('tool', 'unknown')}).",
        )
    try:
        texts = [document["conversion"], document["convertedAt"], document["tool"]]
        spec = document["format"]
    except KeyError as error:
        raise _unreadable(f"it has no {error}", path) from error
    if not all(isinstance(text, str) and text for text in texts):
        raise _unreadable("a field that must be a string is not", path)
    try:
        found = Format.from_spec(spec)
    except errors.InvalidFormat as error:
        raise errors.UnknownMarker(
            f"the marker names a format that this tool does not know: {error.message}",
            operation="read marker",
            path=path,
            hint="Nothing was touched. A plug-in may be missing, or a newer version of the tool wrote it.",
        ) from error
    conversion_id, converted_at, tool_version = texts
    return Marker(found, conversion_id, converted_at, tool_version, version, _previous(document))


def _previous(document: Mapping[str, Any]) -> Format | None:
    """What nobody can read any more cannot be gone back to; the database itself is none the worse for it."""
    try:
        return Format.from_spec(document["previous"])
    except (KeyError, errors.InvalidFormat):
        return None


def _invalid(message: str) -> errors.InvalidFormat:
    return errors.InvalidFormat(
        message,
        operation="parse format",
        path="formats",
        hint="Nothing was touched. Examples: {sqlitedict: {keyEncoding: hierarchical, valueCodec: msgpack}}, "
        "{sqlite: {pageSize: 8192}}",
    )


def _unreadable(why: str, path: str) -> errors.UnreadableMarker:
    return errors.UnreadableMarker(
        f"there is a marker, and {why}",
        operation="read marker",
        path=path,
        hint="Nothing was touched, and the marker is never overwritten. Compare the file with a backup.",
    )
