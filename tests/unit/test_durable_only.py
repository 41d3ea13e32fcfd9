"""One module owns durability."""

from __future__ import annotations

import ast
import re
from pathlib import Path

STORE = Path(__file__).parents[2] / "store" / "format_store"
OWNED = {
    "fsync", "fdatasync", "sync", "rename", "renames", "replace", "link", "symlink", "unlink",
    "remove", "rmdir", "removedirs", "mkdir", "makedirs", "truncate", "ftruncate", "move", "rmtree",
}  # fmt: skip


def calls_of_os(source: str) -> set[str]:
    return {
        f"{node.func.value.id}.{node.func.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("os", "shutil")
        and node.func.attr in OWNED
    }


def test_only_durable_changes_names_and_syncs() -> None:
    """fsync, rename, link, unlink, mkdir and rmdir are called in durable.py and nowhere else."""
    offenders = {
        str(file.relative_to(STORE)): sorted(calls)
        for file in STORE.rglob("*.py")
        if file.name != "durable.py" and (calls := calls_of_os(file.read_text()))
    }
    assert offenders == {}


def test_absence_is_asked_for_in_one_way() -> None:
    """`os.path.exists` and `lexists` take every error for absence: only `durable.exists` is used."""
    offenders = [
        file.name
        for file in STORE.rglob("*.py")
        if file.name != "durable.py" and re.search(r"os\.path\.l?exists\(", file.read_text())
    ]
    assert offenders == []


def test_the_search_finds_such_calls() -> None:
    """The check can fail: durable.py itself has all of them."""
    found = calls_of_os((STORE / "durable.py").read_text())
    assert {"os.fsync", "os.rename", "os.link", "os.unlink", "os.rmdir", "os.mkdir"} <= found


def test_only_one_function_deletes_a_preimage() -> None:
    """`durable.unlink` is called with a pre-image in backups.delete_preimage only."""
    places = []
    for file in STORE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            places += [
                f"{file.stem}.{node.name}"
                for call in ast.walk(node)
                if isinstance(call, ast.Call)
                and ast.unparse(call.func).endswith("durable.unlink")
                and "preimage" in ast.unparse(call)
            ]
    assert places == ["backups.delete_preimage"]
