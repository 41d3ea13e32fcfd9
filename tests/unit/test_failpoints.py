"""Failpoints exist in tests and in no release build."""

from __future__ import annotations

import ast
import dis
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = [
    file
    for root in ("store/format_store", "operator/format_operator")
    for file in sorted((Path(__file__).parents[2] / root).rglob("*.py"))
]


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def loaded(source: str, optimize: int) -> tuple[set[str], set[str]]:
    """The string constants and the attribute names that some instruction loads.

    Instructions, not ``co_names``: the compiler leaves unused names there when it drops a branch.
    """
    strings: set[str] = set()
    names: set[str] = set()
    for code in code_objects(compile(source, "m.py", "exec", optimize=optimize, dont_inherit=True)):
        for instruction in dis.get_instructions(code):
            if not isinstance(instruction.argval, str):
                continue
            if instruction.opname.startswith("LOAD_CONST"):
                strings.add(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                names.add(instruction.argval)
    return strings, names


def failpoint_names(source: str) -> set[str]:
    """The literal beginnings of the names given to ``hit``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "hit"
        ):
            (argument,) = node.args
            if isinstance(argument, ast.JoinedStr):
                argument = argument.values[0]
            assert isinstance(argument, ast.Constant)
            found.add(str(argument.value))
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_optimised_bytecode_has_no_failpoint(file: Path) -> None:
    """Compiled as `python -O` does, no module calls `hit`, and no failpoint's name is left in it."""
    source = file.read_text()
    strings, names = loaded(source, optimize=1)
    assert "hit" not in names
    assert not failpoint_names(source) & strings


def test_plain_bytecode_has_them() -> None:
    """The check can fail: without -O the names are there, in every step of the protocol."""
    found: set[str] = set()
    for file in SOURCES:
        source = file.read_text()
        strings, _ = loaded(source, optimize=0)
        found |= failpoint_names(source) & strings
    assert {"swap.before-rename", "swap.after-rename", "cleanup.before-delete-preimage"} <= found
    assert len(found) >= 20
