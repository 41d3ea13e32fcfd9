"""Pickles that hold plain data, read without running anything that they ask for."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterable
from copyreg import _inverted_registry  # type: ignore[attr-defined]
from importlib import import_module
from types import NoneType
from typing import Any, NoReturn

from format_store.codecs.base import Stored
from format_store.codecs.errors import Forbidden, Undecodable, Unencodable

#: What ``allow`` can name: types whose instances are nothing but data. A type of the standard library
#: is not harmless for being a type (subprocess.Popen, logging.FileHandler, socket.socket are types too).
ALLOWABLE: dict[str, frozenset[str]] = {
    "collections": frozenset({"Counter", "OrderedDict", "deque"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "ipaddress": frozenset(
        {
            "IPv4Address",
            "IPv4Interface",
            "IPv4Network",
            "IPv6Address",
            "IPv6Interface",
            "IPv6Network",
        }
    ),
    "pathlib": frozenset({"PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"}),
    "uuid": frozenset({"UUID"}),
}

#: Names under which other versions of Python have pickled the same things.
_MODULES = {"__builtin__": "builtins", "pathlib._local": "pathlib", "_decimal": "decimal"}

#: The file interface makes the unpickler read opcode by opcode where a pickle has no frames.
_FRAMED = 4


class Pickle:
    """``pickle``, restricted to what builtins can hold, and to what ``allow`` adds.

    Reading: no class is ever looked up in a module that the pickle names. The few globals that pickles
    of plain data use are answered with functions of our own, and what ``allow`` names (exact
    ``module.name`` pairs out of ``ALLOWABLE``) with a sealed stand-in: it makes instances, and a pickle
    cannot change it (the BUILD opcode sets attributes, of classes too). Persistent ids, the extension
    registry, out-of-band buffers and bytes after the end are refused. (Bytes between the end and the end
    of the frame around it are passed over: no reader of pickles has ever seen those.)
    A hostile pickle can still ask for much memory or time: read what you do not trust in a worker.

    Writing: protocol 5, as sqlitedict does on every Python since 3.8, so that a value that was never
    touched and one that was converted back look the same. What could not be read is not written.

    The signature takes in all protocols: 2 and later begin with 0x80, 0 and 1 with an ASCII opcode,
    which "x", the first byte of a zlib stream, is not. Every pickle ends with ".", JSON never does.
    """

    name = "pickle"
    text = False
    protocol = 5
    exact_types: frozenset[type] = frozenset(
        {
            NoneType,
            bool,
            int,
            float,
            complex,
            str,
            bytes,
            bytearray,
            list,
            tuple,
            dict,
            set,
            frozenset,
        }
    )
    exact_key_types: frozenset[type] = frozenset(
        {NoneType, bool, int, float, complex, str, bytes, tuple, frozenset}
    )

    def __init__(self, allow: Iterable[str] = ()) -> None:
        """``allow``: pairs like ``datetime.datetime``. Raises ValueError for what cannot be allowed."""
        self.allow = tuple(allow)
        known = dict(_PLAIN)
        types: list[type] = []
        for pair in self.allow:
            module, _, name = pair.rpartition(".")
            real = _allowable(pair, module, name)
            types.append(real)
            known[module, name] = _stand_in(real)
        self._unpickler = _unpickler(known)
        # C pickles the other built-in types without asking.
        self._pickler = _pickler(frozenset([complex, *types]))

    def decode(self, stored: Stored) -> object:
        if not isinstance(stored, bytes):
            raise Undecodable(f"a pickle is a blob, not {type(stored).__name__}")
        if _inverted_registry and _uses_extensions(stored):
            raise Forbidden("a pickle that uses the extension registry", type_name="extension")
        stream: Any = io.BytesIO(stored)
        if len(stored) > 1 and (stored[0] != 0x80 or stored[1] < _FRAMED):
            stream = io.BufferedReader(stream)
        try:
            value = self._unpickler(stream).load()
        except (Undecodable, MemoryError, RecursionError):
            raise
        except Exception as error:
            # The unpickler raises nearly anything for damaged input: it is all the same to a caller.
            why = str(error) or type(error).__name__
            raise Undecodable(f"not a pickle of plain data ({why})") from error
        if stream.tell() != len(stored):
            raise Undecodable("bytes after the end of the pickle")
        return value

    def encode(self, value: object) -> bytes:
        stream = io.BytesIO()
        try:
            self._pickler(stream, self.protocol).dump(value)
        except (Unencodable, MemoryError, RecursionError):
            raise
        except Exception as error:
            kind = type(value).__name__
            raise Unencodable(f"it cannot be pickled ({error})", type_name=kind) from error
        return stream.getvalue()

    def doubtful(self, _encoded: Stored, /) -> bool:
        return False

    def plausible(self, data: bytes) -> bool:
        if len(data) < 2 or data[-1:] != b".":
            return False
        return data[0] <= 0x80 and data[0] != 0x78 and data[:4] != b"\x28\xb5\x2f\xfd"

    def signature_sql(self, column: str) -> str:
        # First what Python has written since 2.3, protocols 2 and up: two comparisons instead of the rest.
        return (
            f"CASE WHEN {column}>=x'80' AND {column}<x'81' THEN substr({column},-1)=x'2e' ELSE"
            f" (typeof({column})='blob' AND length({column})>1 AND substr({column},-1)=x'2e'"
            f" AND ({column}<x'28b52ffd' OR {column}>=x'28b52ffe')"
            f" AND ({column}<x'78' OR {column}>=x'79' AND {column}<x'81')) END"
        )


# --- reading --------------------------------------------------------------------------------------------


def _unpickler(known: dict[tuple[str, str], Callable[..., object]]) -> Callable[[Any], Any]:
    class Restricted(pickle.Unpickler):
        """One class per set of allowed names: a class attribute costs nothing per value."""

        def find_class(self, module_name: str, global_name: str) -> Any:
            found = known.get((_MODULES.get(module_name, module_name), global_name))
            if found is None:
                raise _forbidden(f"{module_name}.{global_name}")
            return found

        def persistent_load(self, _pid: Any, /) -> NoReturn:
            raise Forbidden("a pickle with a persistent id", type_name="persistent id")

    return Restricted


def _forbidden(name: str) -> Forbidden:
    name = name if len(name) <= 200 else name[:200] + "…"
    return Forbidden(f"a pickle that needs {name!r}, which is not plain data", type_name=name)


def _set(items: object = ()) -> set[Any]:
    return set(_sequence(items, "set"))


def _frozenset(items: object = ()) -> frozenset[Any]:
    return frozenset(_sequence(items, "frozenset"))


def _sequence(items: object, name: str) -> Iterable[Any]:
    if type(items) not in (list, tuple):
        raise _forbidden(f"builtins.{name} of {type(items).__name__}")
    return items  # type: ignore[return-value]


def _complex(real: float, imag: float) -> complex:
    if type(real) is not float or type(imag) is not float:
        raise _forbidden("builtins.complex of something else than two floats")
    return complex(real, imag)


def _bytearray(data: object = b"", encoding: object = "latin-1") -> bytearray:
    return bytearray(_encode(data, encoding) if isinstance(data, str) else _bytes(data))


def _bytes(data: object = b"") -> bytes:
    # A number would make that many zero bytes: a large object out of a small pickle.
    if type(data) is not bytes:
        raise _forbidden(f"builtins.bytes of {type(data).__name__}")
    return data


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _forbidden("_codecs.encode of something else than latin-1 text")
    return text.encode("latin-1")


#: The globals that pickles of plain data use, depending on their protocol.
_PLAIN: dict[tuple[str, str], Callable[..., object]] = {
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _frozenset,
    ("builtins", "complex"): _complex,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "bytes"): _bytes,
    ("_codecs", "encode"): _encode,
}


def _allowable(pair: str, module: str, name: str) -> type:
    if name not in ALLOWABLE.get(module, ()) or module not in sys.stdlib_module_names:
        can = ", ".join(f"{key}.{value}" for key in ALLOWABLE for value in sorted(ALLOWABLE[key]))
        raise ValueError(f"{pair!r} cannot be allowed in pickles; what can is {can}")
    real = getattr(import_module(module), name)
    if not isinstance(real, type):
        raise ValueError(f"{pair!r} cannot be allowed in pickles: it is not a type")
    return real


class _Sealed(type):
    """The type of stand-ins: nothing can be set on them, and calling one makes the real thing."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real(*args, **kwargs)  # type: ignore[attr-defined]

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise _forbidden(f"an attribute {name} of a class")

    __delattr__ = __setattr__  # type: ignore[assignment]


def _stand_in(real: type) -> type:
    def new(_: type, /, *args: Any, **kwargs: Any) -> Any:
        # NEWOBJ calls __new__ of a type, and the unpickler insists on a type.
        return real.__new__(real, *args, **kwargs)

    return _Sealed(
        f"stand-in for {real.__name__}", (), {"_real": real, "__new__": new, "__slots__": ()}
    )


def _uses_extensions(data: bytes) -> bool:
    import pickletools

    try:
        return any(opcode.name.startswith("EXT") for opcode, _, _ in pickletools.genops(data))
    except Exception:
        return True


# --- writing --------------------------------------------------------------------------------------------


def _pickler(types: frozenset[type]) -> Callable[..., Any]:
    class Plain(pickle.Pickler):
        """Never asked about plain data: the C code pickles exact built-in types by itself."""

        def reducer_override(self, value: Any) -> Any:
            # The C code asks about instances, and then about the class that makes each of them.
            kind = value if isinstance(value, type) else type(value)
            if kind in types:
                return NotImplemented
            name = getattr(value, "__qualname__", kind.__qualname__)
            raise Unencodable(f"{name} is not plain data", type_name=str(name))

    return Plain
