"""Pages that are made from the code: the two CRDs, the command line, and the names that the roles go by."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
from unittest import mock

from format_operator import __main__ as entry
from format_operator.api import crds, names
from format_operator.kubectl import app as kubectl
from format_operator.manifests import manifests
from format_store import errors

Schema = Mapping[str, Any]

#: What a process is for, where its own parser does not say it; the supervisor starts this one.
_INTERNAL = {"sidecar-worker"}


def pages() -> dict[str, str]:
    """Every generated page by its path below the site's pages."""
    return {
        "reference/storageformat.md": crd_page(crds.storageformat_crd(), _STORAGEFORMAT),
        "reference/formatstate.md": crd_page(crds.formatstate_crd(), _FORMATSTATE),
        "reference/cli.md": cli_page(),
        "reference/kubectl.md": kubectl_page(),
        "reference/exit-codes.md": exit_codes_page(),
        "reference/names.md": names_page(),
        "reference/permissions.md": permissions_page(),
    }


# --- the CRDs ---------------------------------------------------------------------------------------------

_STORAGEFORMAT = (
    "What people write. The API server checks every rule below and answers with the message beside it; "
    "`storageformat convert --to` checks the same rules without a server. `kubectl explain storageformats.spec` "
    "has the same texts."
)
_FORMATSTATE = (
    "One per pod and StorageFormat, called `<storageformat>.<pod>`, made by the pod's sidecar. `spec` is the "
    "controller's, `status` the sidecar's; nobody writes one by hand. It is a report: what is done to bytes is decided "
    "from the volume and the StorageFormat."
)


def crd_page(crd: Mapping[str, Any], about: str) -> str:
    kind = crd["spec"]["names"]["kind"]
    (short,) = crd["spec"]["names"]["shortNames"]
    (version,) = crd["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    parts = [
        f"# {kind}\n",
        f"`{crd['spec']['group']}/{version['name']}`, namespaced, short name `{short}`.\n",
        f"{about}\n",
    ]
    if rules := list(_rules(schema)):
        parts += ["Of the object as a whole:\n", *rules, ""]
    for top in ("spec", "status"):
        parts += _object(top, schema["properties"][top])
    parts += ["## What `kubectl get` shows\n", "| column | from | meaning |", "|---|---|---|"]
    for one in version["additionalPrinterColumns"]:
        wide = " (with `-o wide`)" if one.get("priority") else ""
        path = _cell(one["jsonPath"])
        parts.append(f"| {one['name']} | `{path}` | {_cell(one['description'])}{wide} |")
    return "\n".join(parts) + "\n"


def _object(path: str, schema: Schema) -> Iterator[str]:
    """A table of an object's fields, then the objects in it."""
    yield f"## `{path}`\n"
    if told := schema.get("description"):
        yield f"{_sentence(told)}\n"
    yield "| field | type | left out | meaning |"
    yield "|---|---|---|---|"
    below = []
    required = schema.get("required", [])
    properties: Mapping[str, Schema] = schema.get("properties", {})
    for name, one in properties.items():
        yield (
            f"| `{name}` | {_type(one)} | {_default(one, required=name in required)} "
            f"| {_cell(one.get('description', ''))} |"
        )
        inner = one.get("items", one)
        if inner.get("properties"):
            below.append((f"{path}.{name}" + ("[]" if "items" in one else ""), inner))
    yield ""
    if rules := list(_rules(schema)) + [
        rule for name, one in properties.items() for rule in _rules_of_field(name, one)
    ]:
        yield "Rules:\n"
        yield from rules
        yield ""
    for inner_path, inner in below:
        yield from _object(inner_path, inner)


def _rules(schema: Schema, field: str = "") -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        name = field or rule.get("fieldPath", "").lstrip(".")
        yield f"- {f'`{name}`: ' if name else ''}{_prose(rule['message'])}"


def _rules_of_field(name: str, schema: Schema) -> Iterator[str]:
    """Of a field that is no object: an object's own rules stand with the object."""
    if not schema.get("properties"):
        yield from _rules(schema, name)
    else:
        # Such as an immutable field: the rule is about the change, not about what is in it.
        yield from (
            f"- `{name}`: {_prose(rule['message'])}"
            for rule in schema.get("x-kubernetes-validations", ())
            if "oldSelf" in rule["rule"]
        )
    items = schema.get("items", {})
    if items and not items.get("properties"):
        yield from _rules(items, f"{name}[]")


def _type(schema: Schema) -> str:
    kind = schema["type"]
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if kind == "array":
        item = {key: value for key, value in schema["items"].items() if key != "maxLength"}
        return f"list of {_type(item)}{_bounds(schema, 'Items')}"
    if kind == "object" and "additionalProperties" in schema:
        return f"map to {_type(schema['additionalProperties'])}"
    if kind == "string" and schema.get("format") == "date-time":
        return "time"
    if kind == "string":
        return f"string{_bounds(schema, 'Length')}"
    if kind in {"integer", "number"}:
        low, high = schema.get("minimum"), schema.get("maximum")
        if high is not None:
            return f"{kind}, {low} to {high}"
        return kind if low is None else f"{kind}, {low} or more"
    return str(kind)


def _bounds(schema: Schema, what: str) -> str:
    high = schema.get(f"max{what}")
    return "" if high is None else f", at most {high}"


def _default(schema: Schema, *, required: bool) -> str:
    if required:
        return "**required**"
    if "default" not in schema:
        return ""
    value = schema["default"]
    if value == {}:
        return "as its fields say"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# --- the command line -------------------------------------------------------------------------------------


class _SeenError(Exception):
    """Carries the parser that a command was about to use."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(main: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    """The parser that a command's ``main`` makes: the very one, whatever it is called there."""

    def see(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _SeenError(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", see):
        try:
            main([])
        except _SeenError as seen:
            return seen.parser
    raise ValueError(f"{main.__module__} has no parser")


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that a person or a manifest can name, with its parser, in the order of ``--help``."""
    yield from _leaves("storageformat", parser_of(_main("format_operator.cli")))
    for name, module in entry._PROCESSES.items():  # noqa: SLF001 # the one list of them
        if name not in _INTERNAL:
            yield from _leaves(f"storageformat {name}", parser_of(_main(module)))


def _main(module: str) -> Callable[[Sequence[str]], int]:
    return cast("Callable[[Sequence[str]], int]", importlib.import_module(module).main)


def _leaves(
    name: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001 # argparse shows its options in no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 # as above
            for word, below in action.choices.items():
                yield from _leaves(f"{name} {word}", below)
            return
    yield name, parser


_COMMAND_LINE = (
    "One program, `storageformat`. The commands for databases need the base install only; those that run in a cluster need "
    "the extra `operator`. What a command ends with is on the page about [exit codes](exit-codes.md).\n"
)


_KUBECTL = (
    "Beside what stands here each command takes kubectl's own options that say which cluster and as whom (`-n`, `--context`, "
    "`--kubeconfig`, `--as` …). What each is for is on [its page](../kubectl.md).\n"
)


def cli_page() -> str:
    return _commands_page("Command line", _COMMAND_LINE, commands())


def kubectl_page() -> str:
    found = _leaves(kubectl.PROGRAM, kubectl.parser())
    return _commands_page(kubectl.PROGRAM, _KUBECTL, found)


def _commands_page(
    title: str, about: str, found: Iterable[tuple[str, argparse.ArgumentParser]]
) -> str:
    parts = [f"# {title}\n", about]
    for name, parser in found:
        parts.append(f"## `{name}`\n")
        if parser.description:
            parts.append(f"{_sentence(parser.description)}\n")
        shown = [action for action in parser._actions if _is_shown(action)]  # noqa: SLF001 # as above
        formatter = argparse.HelpFormatter(parser.prog, width=96)
        formatter.add_usage(parser.usage, shown, ())
        parts.append(f"```text\n{formatter.format_help().strip()}\n```\n")
        parts += ["| option | meaning | default |", "|---|---|---|", *map(_option, shown), ""]
    return "\n".join(parts) + "\n"


def _is_shown(action: argparse.Action) -> bool:
    """Not what every command has: --help, and kubectl's own options."""
    if action.dest.startswith("kubectl_") or action.dest == "insecure_skip_tls_verify":
        return False
    return action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)  # noqa: SLF001 # as above


def _option(action: argparse.Action) -> str:
    if action.option_strings:
        takes = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
        if action.choices is not None and action.metavar is None:
            takes = f" {{{','.join(map(str, action.choices))}}}"
        names = ", ".join(f"`{_cell(text + takes)}`" for text in action.option_strings)
    else:
        names = f"`{action.metavar or action.dest}`"
    default = "" if not action.default or action.default is argparse.SUPPRESS else action.default
    text = (action.help or "").replace("(%(default)s)", "").replace("%(default)s", str(default))
    required = "**required**" if action.required and action.option_strings else ""
    told = f"`{default}`" if default != "" else required
    return f"| {names} | {_cell(' '.join(text.split()))} | {told} |"


# --- exit codes -------------------------------------------------------------------------------------------


def exit_codes_page() -> str:
    by_code: dict[int, list[type[errors.StoreError]]] = {}
    for kind in all_errors():
        by_code.setdefault(kind.exit_code, []).append(kind)
    parts = [
        "# Exit codes\n",
        _EXIT_CODES,
        "| code | means | reasons |",
        "|---|---|---|",
        "| 0 | done, or nothing was to be done | |",
    ]
    for code in sorted(by_code, key=lambda one: (one == errors.TryAgain.exit_code, one)):
        reasons = ", ".join(
            f"[`{kind.__name__}`](../errors.md#{kind.__name__.lower()})"
            for kind in by_code[code]
            if kind is not errors.StoreError
        )
        parts.append(f"| {code} | {_CODES[code]} | {reasons} |")
    return "\n".join(parts) + "\n"


_EXIT_CODES = (
    "Of every command that works on a database. `plan` ends with 3 where something stands in the way, and with the "
    "code of the refusal where there is one; `backups list --verify` with 4 where a backup is not what its manifest "
    "says. `sidecar` ends with 0 when it was told to stop, the gate with 0 when the app may start, and every command "
    "with 2 for arguments that make no sense.\n"
)
_CODES = {
    1: "failed; the database is as it was",
    2: "usage: the call or the declared format makes no sense; nothing was looked at",
    3: "refused; nothing was touched",
    4: "needs a person; both copies are kept",
    75: "try again: locked, in use, told to stop, or something is left to clear up",
}


def all_errors() -> list[type[errors.StoreError]]:
    """Every class of the store's errors, in the order of the module."""
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.StoreError)
    ]


# --- names and permissions --------------------------------------------------------------------------------


def names_page() -> str:
    from format_operator import gate_protocol, settings, snippet
    from format_operator.api import injection

    rows = [
        ("API group and version", names.API_VERSION, "of both kinds"),
        (
            "annotation of a pod",
            names.READS_ANNOTATION,
            "the names of the formats that this release of the app reads, comma separated; without it there is no guard",
        ),
        (
            "annotation of a pod",
            injection.INJECT,
            "which StorageFormats it is about; [the others](../injection.md#annotations) say how",
        ),
        (
            "label of a FormatState",
            names.STORAGEFORMAT_LABEL,
            "the StorageFormat that it belongs to: `kubectl get fs -l`",
        ),
        (
            "name of a FormatState",
            "<storageformat>.<pod>",
            "which is why a StorageFormat's has no dot",
        ),
        ("container", snippet.SIDECAR, "the sidecar"),
        ("container", snippet.GATE, "the gate"),
        (
            "volume",
            snippet.RUN_VOLUME,
            f"holds the gate's socket, `{gate_protocol.DEFAULT_SOCKET}`",
        ),
        ("volume", snippet.TOKEN_VOLUME, "the sidecar's own token"),
        ("volume", snippet.MIGRATIONS_VOLUME, "a ConfigMap of migrations, where there is one"),
        (
            "port",
            snippet.METRICS_PORT_NAME,
            f"{settings.DEFAULT_METRICS_PORT}, the sidecar's metrics",
        ),
    ]
    parts = [
        "# Names\n",
        "What the parts of the product find each other by, and what you can select by.\n",
        "| what | name | meaning |",
        "|---|---|---|",
        *(f"| {what} | `{name}` | {_cell(told)} |" for what, name, told in rows),
        "",
        "## Environment\n",
        "What the snippet sets for the sidecar; each has an option of the same meaning.\n",
        "| variable | meaning |",
        "|---|---|",
    ]
    options = snippet.SnippetOptions(image="image", databases={"orders": "/data/orders.db"})
    for variable in snippet.init_containers(options)[0]["env"]:
        source = variable["valueFrom"]["fieldRef"]["fieldPath"]
        parts.append(f"| `{variable['name']}` | the pod's `{source}` |")
    return "\n".join(parts) + "\n"


_PERMISSIONS = (
    "The roles and the admission policy as they are installed, with the reason beside each verb. The Helm chart makes "
    "the same for the names and namespaces of its release. What they are for is on the page about "
    "[security](../security.md).\n"
)


def permissions_page() -> str:
    texts = manifests()
    return "\n".join(
        [
            "# Permissions\n",
            _PERMISSIONS,
            "## Sidecars\n",
            f"```yaml\n{texts['rbac.yaml']}```\n",
            "## Which FormatStates a pod may write\n",
            f"```yaml\n{texts['admission-policy.yaml']}```\n",
            "## The webhook\n",
            f"```yaml\n{texts['webhook-rbac.yaml']}```\n",
            "## The controller\n",
            f"```yaml\n{texts['controller-rbac.yaml']}```\n",
        ]
    )


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _prose(text: str) -> str:
    """Not to be taken for HTML: <name> is a word of the message."""
    return _sentence(text).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _sentence(text).replace("|", "\\|")
