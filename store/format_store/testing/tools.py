"""What the checks have in common: properties, values of types, damage, and a limit on time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, NoneType
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_T = TypeVar("_T")
Stored = bytes | str
Values = st.SearchStrategy[Any]

#: Processor time for one call on hostile input; an honest one takes less than a thousandth of it.
SECONDS = 10.0


def for_all(check: Callable[..., None], /, **strategies: Values) -> None:
    """Run ``check`` over examples. A function of its own for each class: it may use what the class has."""
    quiet = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    quiet(given(**strategies)(check))()


# --- values ----------------------------------------------------------------------------------------------

_LEAVES: dict[type, Values] = {
    NoneType: st.none(),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1) | st.integers(),
    float: st.floats(),
    complex: st.complex_numbers(),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    bytearray: st.binary(max_size=20).map(bytearray),
}


def values_of(types: frozenset[type], key_types: frozenset[type]) -> Values | None:
    """Values made of these built-in types; other types are left out. None where no type is left."""
    leaves = [strategy for kind, strategy in _LEAVES.items() if kind in types]
    if not leaves:
        return None
    keys = [
        strategy
        for kind, strategy in _LEAVES.items()
        if kind in key_types and kind is not bytearray
    ]
    hashable = st.one_of(
        *(strategy for kind, strategy in _LEAVES.items() if kind in types and kind is not bytearray)
    )

    def containing(inner: Values) -> Values:
        known: list[Values] = [inner]
        if list in types:
            known.append(st.lists(inner, max_size=4))
        if tuple in types:
            known.append(st.tuples(inner, inner))
        if dict in types and keys:
            known.append(st.dictionaries(st.one_of(*keys), inner, max_size=4))
        if set in types:
            known.append(st.sets(hashable, max_size=3))
        if frozenset in types:
            known.append(st.frozensets(hashable, max_size=3))
        return st.one_of(*known)

    return st.recursive(st.one_of(*leaves), containing, max_leaves=8)


#: A value of every built-in type and of every length that a format tells apart.
SAMPLES: tuple[Any, ...] = (
    None, True, False, 0, 7, 53, -1, 300, 2**40, 2**70, 1.5, -0.0, float("inf"), "", "a", "ü😀", "text " * 60,
    b"", b"b", b"bytes " * 60, [], [1], [1, "x", None], list(range(40)), {}, {"a": 1}, {"b": {"c": [2.5]}},
    {str(number): number for number in range(40)},
)  # fmt: skip


# --- damage ----------------------------------------------------------------------------------------------


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes cut short, with a bit flipped, with bytes put in, taken out or appended, or of nothing at all."""
    position = st.integers(0, max(len(data) - 1, 0))
    some = st.binary(min_size=1, max_size=8)

    def flipped(at: int, bit: int) -> bytes:
        changed = bytearray(data or b"\0")
        changed[at] ^= 1 << bit
        return bytes(changed)

    return st.one_of(
        position.map(lambda at: data[:at]),
        st.builds(flipped, position, st.integers(0, 7)),
        st.builds(lambda at, new: data[:at] + new + data[at:], position, some),
        st.builds(lambda at, new: data[:at] + new + data[at + len(new) :], position, some),
        position.map(lambda at: data[:at] + data[at + 1 :]),
        some.map(lambda new: data + new),
        st.binary(max_size=40),
    )


def raw(stored: Stored) -> bytes:
    return stored.encode("utf-8") if isinstance(stored, str) else stored


# --- time ------------------------------------------------------------------------------------------------


class _TookTooLong(BaseException):
    """Not an Exception: what is tested may catch all of these."""


def in_time(what: str, call: Callable[[], _T]) -> _T:
    """The call's result. Fails when it takes more processor time than ``SECONDS``; only while it runs Python."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _TookTooLong

    # Not the alarm that plug-ins of pytest use for their own limits.
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        return call()
    except _TookTooLong:
        pass
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    # Out here it has no context, which would tell where the loop was: another place, another failure.
    raise AssertionError(f"{what} took more than {SECONDS:g} s of processor time")
