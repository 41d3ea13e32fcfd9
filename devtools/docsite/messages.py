"""Every text that tells a person of an error, found in the sources, so that a page can be held against them.

``texts`` is all of them: those of the code, the rules and policies that the API server answers with, and the charts' refusals.
A text of the code is found where it is handed to an error: to one of our exception classes, to a function that passes it on to one
(found by following parameters, until no more are found), to ``parser.error``, to a log line of level warning or above, to what
carries a refusal instead of raising it (``CARRIERS``), or stands beside a reason in a tuple. What a message is made of at run time is ``…`` in it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from docsite.stage import ROOT
from format_operator.api import crds
from format_operator.manifests import manifests

#: Where each of them is told, with cause and cure.
PAGES: Final = ("docs/errors.md", "docs/errors-cluster.md")
PACKAGES: Final = ("store/format_store", "operator/format_operator")
#: Where the message stands in what carries one without being an exception: its position and its name.
CARRIERS: Final[Mapping[str, tuple[int, str]]] = {
    "kind": (0, "message"),
    "Obstacle": (4, "what"),
    "Judged": (4, "message"),
    "_NoWish": (2, "message"),
    "Word": (2, "message"),
    "Eviction": (2, "message"),
    "Event": (2, "message"),
    "Refusal": (0, "message"),
}
_LOG_LEVELS: Final = {"warning", "error", "failure"}
#: Programming errors and what Python itself raises: they have no reader but us.
_OURS_ALONE: Final = {"AssertionError", "RuntimeError", "AttributeError", "KeyError"}
_NOT_OURS: Final = {
    "LookupError",
    "ValueError",
    "InterruptedError",
    "NotADirectoryError",
    "IsADirectoryError",
}
#: Packages and modules that no user's program runs: the conformance suite, the generator of manifests.
_SKIPPED: Final = ("store/format_store/testing/", "operator/format_operator/manifests.py")


_WORD: Final = re.compile(r"[A-Za-z']{2,}")
_CHART_FAILS: Final = re.compile(r'fail (?:\(printf )?"([^"]*)"')
_REASON: Final = re.compile(r"[A-Z][a-z]+\w*")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Node = TypeVar("_Node", bound=ast.AST)
#: By the name of a class or a function: the places at which it may take a message.
_Carriers = dict[str, set[tuple[int, str]]]


@dataclass(frozen=True)
class Message:
    """A text with ``…`` for what is filled in, and the module that it stands in."""

    text: str
    module: str
    line: int = field(compare=False)


@dataclass(frozen=True)
class _Module:
    path: str
    tree: ast.Module


def collect(root: Path = ROOT) -> list[Message]:
    """The messages of both packages, in the order of modules and lines."""
    modules = _modules(root)
    carriers = _exceptions(modules) | {name: {place} for name, place in CARRIERS.items()}
    _follow_parameters(modules, carriers)
    found = (
        {
            message
            for module in modules
            for function, call in _calls(module.tree)
            for message in _of_call(module, function, call, carriers)
        }
        | {
            message
            for module in modules
            for function, pair in _nodes(module.tree, ast.Tuple)
            for message in _beside_a_reason(module, function, pair)
        }
        | {
            message
            for module in modules
            for function, node in _nodes(module.tree, ast.Return)
            for message in _returned(module, function, node)
        }
    )
    return sorted(found, key=lambda one: (one.module, one.line, one.text))


def _modules(root: Path) -> list[_Module]:
    return [
        _Module(str(file.relative_to(root)), ast.parse(file.read_text(encoding="utf-8")))
        for package in PACKAGES
        for file in sorted((root / package).rglob("*.py"))
        if not str(file.relative_to(root)).startswith(_SKIPPED)
    ]


def texts(root: Path = ROOT) -> dict[str, str]:
    """Every text with a place where it stands."""
    found = {one.text: f"{one.module}:{one.line}" for one in collect(root)}
    for crd in (crds.storageformat_crd(), crds.formatstate_crd()):
        (version,) = crd["spec"]["versions"]
        for rule in _rules(version["schema"]["openAPIV3Schema"]):
            found[rule] = f"a rule of {crd['spec']['names']['kind']}"
    for name, text in manifests().items():
        for document in yaml.safe_load_all(text):
            for validation in document.get("spec", {}).get("validations", ()):
                found[" ".join(validation["message"].split())] = f"deploy/{name}"
    for file in sorted((root / "charts").rglob("*.tpl")):
        for match in _CHART_FAILS.finditer(file.read_text(encoding="utf-8")):
            found[re.sub(r"%[a-z]", "…", match[1])] = str(file.relative_to(root))
    return found


def kinds_of(root: Path = ROOT) -> dict[str, set[str]]:
    """The store's error classes that each text is given to where it is made, ``errors.InUse("…")``."""
    found: dict[str, set[str]] = {}
    for module in _modules(root):
        for _, call in _calls(module.tree):
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "errors":
                for text in map(_text, call.args[:1]):
                    if text is not None:
                        found.setdefault(" ".join(text.split()), set()).add(call.func.attr)
    return found


def reasons(root: Path = ROOT) -> set[str]:
    """CamelCase words of sidecar, controller and gate: reasons, phases, and what Kubernetes calls its own."""
    package = root / "operator/format_operator"
    files = [
        *(package / "sidecar").glob("*.py"),
        *(package / "controller").glob("*.py"),
        package / "gate.py",
    ]
    return {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"(?:[A-Z][a-z]+|API)(?:[A-Z][a-zA-Z]*)*", node.value)
    }


def documented(page: str) -> list[str]:
    """The first cells of a page's tables below ``message``, as far as they are nothing but code."""
    found = []
    for table in re.findall(r"^\| message \|.*\n\|[-|]+\n((?:\|.*\n)*)", page, re.MULTILINE):
        found += [
            " ".join(code.strip().split())
            for _, code in re.findall(r"^\| (`+)(.*?)\1 \|", table, re.MULTILINE)
        ]
    return found


def _rules(schema: Mapping[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["message"]
    for below in (
        *schema.get("properties", {}).values(),
        *([schema["items"]] if "items" in schema else []),
    ):
        yield from _rules(below)


def _exceptions(modules: Iterable[_Module]) -> _Carriers:
    """Our exception classes, and those of Python's that a person gets to read from us, with the places of their messages.

    Two classes of one name in two packages share theirs: of the arguments only one is a text.
    """
    classes = [
        node
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    ]
    known = {name: {(0, "")} for name in ("Exception", "RuntimeError", *_NOT_OURS)}
    while True:
        before = len(known)
        for one in classes:
            above = [known[name] for name in map(_name, one.bases) if name in known]
            if above:
                known.setdefault(one.name, set()).update(_places_of_init(one) or above[0])
        if len(known) == before:
            return {
                name: places
                for name, places in known.items()
                if name not in {"Exception", *_OURS_ALONE}
            }


def _places_of_init(one: ast.ClassDef) -> set[tuple[int, str]]:
    """Which of the parameters of an exception's own ``__init__`` it hands on as its text."""
    for init in one.body:
        if isinstance(init, ast.FunctionDef) and init.name == "__init__":
            parameters = [parameter.arg for parameter in init.args.args[1:]]
            for call in ast.walk(init):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    told = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
                    return {
                        (parameters.index(name), name)
                        for name in parameters
                        if name in told & _WORDS
                    }
    return set()


def _follow_parameters(modules: Iterable[_Module], carriers: _Carriers) -> None:
    """Add the functions that pass a parameter on as a message, and those that pass one on to them."""
    while True:
        before = len(carriers)
        for module in modules:
            for function, call in _calls(module.tree):
                if function is None or function.name in carriers:
                    continue
                parameters = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
                keywords = [one.arg for one in function.args.kwonlyargs]
                names = {
                    node.id
                    for told in _arguments(call, carriers)
                    for node in ast.walk(told)
                    if isinstance(node, ast.Name)
                }
                for name in (*parameters, *keywords):
                    if name in names and name in _WORDS:
                        at = parameters.index(name) if name in parameters else -1
                        bound = parameters[:1] in (["self"], ["cls"])
                        carriers[function.name] = {(at - bound if at >= 0 else -1, name)}
                        break
        if len(carriers) == before:
            return


#: What a parameter is called that is a message, or a part of one.
_WORDS: Final = {
    "message",
    "what",
    "why",
    "text",
    "problem",
    "reason_text",
    "detail",
    "told",
    "obstacle",
}


def _nodes(tree: ast.AST, kind: type[_Node]) -> Iterator[tuple[_Function | None, _Node]]:
    """Every node of that kind with the innermost function that it stands in."""

    def walk(node: ast.AST, function: _Function | None) -> Iterator[tuple[_Function | None, _Node]]:
        for below in ast.iter_child_nodes(node):
            inner = below if isinstance(below, _Function) else function
            if isinstance(below, kind):
                yield function, below
            yield from walk(below, inner)

    yield from walk(tree, None)


def _calls(tree: ast.AST) -> Iterator[tuple[_Function | None, ast.Call]]:
    return _nodes(tree, ast.Call)


def _beside_a_reason(
    module: _Module, function: _Function | None, pair: ast.Tuple
) -> Iterator[Message]:
    """What stands in a tuple behind a reason, such as ``"SkewBlocked", "its app reads …"``, or behind a phase."""
    for before, after in pairwise(pair.elts):
        if (isinstance(before, ast.Constant) and _REASON.fullmatch(str(before.value))) or (
            isinstance(before, ast.Attribute) and _name(before.value).endswith("Phase")
        ):
            yield from _messages(module, function, after)


def _returned(module: _Module, function: _Function | None, node: ast.Return) -> Iterator[Message]:
    """What is returned behind a reason that only the run knows."""
    if not isinstance(node.value, ast.Tuple) or function is None or function.returns is None:
        return
    if "tuple[str, str" in ast.unparse(function.returns) and "reason" in ast.unparse(function):
        for element in node.value.elts[1:]:
            yield from _messages(module, function, element)


def _arguments(call: ast.Call, carriers: _Carriers) -> Iterator[ast.expr]:
    """The expressions that may be the call's message."""
    name = _name(call.func)
    of = ast.unparse(call.func.value).lower() if isinstance(call.func, ast.Attribute) else ""
    if (name == "error" and "parser" in of) or (name in _LOG_LEVELS and "log" in of):
        yield call.args[0]
        return
    for at, keyword in carriers.get(name, ()):
        named = [one.value for one in call.keywords if one.arg == keyword]
        yield from named or call.args[at : at + 1] if at >= 0 else named


def _of_call(
    module: _Module, function: _Function | None, call: ast.Call, carriers: _Carriers
) -> Iterator[Message]:
    for told in _arguments(call, carriers):
        yield from _messages(module, function, told)


def _messages(module: _Module, function: _Function | None, told: ast.expr) -> Iterator[Message]:
    for text in _texts(told, function, module):
        # One word beside what is filled in says nothing by itself: "pod …: …" passes on what another text says.
        if len(_WORD.findall(text)) > 1:
            yield Message(" ".join(text.split()), module.path, told.lineno)


def _texts(told: ast.expr, function: _Function | None, module: _Module) -> Iterator[str]:
    """What the expression may say; nothing where it is only passed on."""
    if isinstance(told, ast.IfExp):
        yield from _texts(told.body, function, module)
        yield from _texts(told.orelse, function, module)
    elif isinstance(told, ast.Name) and function is not None:
        for value in _assigned(told.id, function):
            yield from _texts(value, None, module)
    elif isinstance(told, ast.Call):
        for one in ast.walk(module.tree):
            if isinstance(one, _Function) and one.name == _name(told.func):
                for node in ast.walk(one):
                    if isinstance(node, ast.Return) and node.value is not None:
                        yield from _texts(node.value, one, module)
    elif (text := _text(told)) is not None:
        yield text


def _assigned(name: str, function: _Function) -> Iterator[ast.expr]:
    """What is assigned to a name in a function, by itself or in a tuple."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=False):
                    if isinstance(one, ast.Name) and one.id == name:
                        yield value


def _text(told: ast.expr) -> str | None:
    if isinstance(told, ast.Constant):
        return told.value if isinstance(told.value, str) else None
    if isinstance(told, ast.JoinedStr):
        return "".join(
            one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else "…"
            for one in told.values
        )
    if isinstance(told, ast.BinOp) and isinstance(told.op, ast.Add):
        left, right = _text(told.left), _text(told.right)
        return None if left is None and right is None else f"{left or '…'}{right or '…'}"
    return None


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
