"""``kubectl_complete-storageformat``: what kubectl's shell completion asks for.

kubectl runs it with the words behind ``kubectl storageformat``, the last of which is unfinished (or empty), and reads
one candidate per line, with a description behind a tab, and a directive of Cobra's as the last line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

from format_operator.api.names import PLURAL_STORAGEFORMATS
from format_operator.kubectl import app
from format_operator.kubectl.kube import Kubectl
from format_operator.kubectl.problems import Problem

_FILES: Final = 0  # the shell completes names of files
_NO_FILES: Final = 4
#: Somebody waits with a finger on the key.
_PATIENCE: Final = "--request-timeout=3s"
_VERBS: Final = (
    ("pin", "keep a backup until it is unpinned"),
    ("unpin", "let a backup's time run, from now on"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints candidates. Whatever goes wrong, there are none, and nothing disturbs the prompt."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        candidates, directive = complete(words)
    except Problem:
        candidates, directive = [], _NO_FILES
    for word, text in candidates:
        print(f"{word}\t{text}" if text else word)
    print(f":{directive}")
    return 0


def complete(words: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """Candidates for the last word, each with its description, and the directive."""
    *before, last = words or [""]
    parser = app.parser()
    commands: dict[str, argparse.ArgumentParser] = _subparsers(parser)
    name = _command(before, parser, commands)
    one = commands[name] if name else parser
    options = _options(one)
    pending = _pending(before, options)
    if pending is None and last.startswith("--") and "=" in last:
        option, _, part = last.partition("=")
        action = options.get(option)
        values, directive = _values(action, words, name, part) if action else ([], _NO_FILES)
        return [(f"{option}={value}", text) for value, text in values], directive
    if pending is not None:
        return _values(pending, words, name, last)
    if last.startswith("-"):
        found = [(key, str(action.help or "")) for key, action in options.items()]
        return _matching(last, (one for one in found if one[0].startswith("--"))), _NO_FILES
    if name is None:
        return _matching(last, ((known, text) for known, _, text in app.COMMANDS)), _NO_FILES
    return _matching(last, _names(before, name, options)), _NO_FILES


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("there are commands")


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {
        option: action
        for action in parser._actions
        for option in action.option_strings
        if action.help != argparse.SUPPRESS
    }


def _command(
    before: Sequence[str],
    parser: argparse.ArgumentParser,
    commands: dict[str, argparse.ArgumentParser],
) -> str | None:
    positionals = _positionals(before, _options(parser))
    return next((word for word in positionals if word in commands), None)


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _pending(before: Sequence[str], options: dict[str, argparse.Action]) -> argparse.Action | None:
    """The option that still wants its value."""
    action = options.get(before[-1]) if before else None
    return action if action is not None and _takes_value(action) else None


def _positionals(before: Sequence[str], options: dict[str, argparse.Action]) -> list[str]:
    found, skip = [], False
    for word in before:
        if skip:
            skip = False
        elif word.startswith("-"):
            action = options.get(word)
            skip = action is not None and _takes_value(action)
        else:
            found.append(word)
    return found


def _names(
    before: Sequence[str], name: str, options: dict[str, argparse.Action]
) -> Iterable[tuple[str, str]]:
    """What stands behind a command: the StorageFormat, or what to do with a backup of which pod."""
    given = _positionals(before, options)[1:]
    if name == "backups" and given[:1] in (["pin"], ["unpin"]):
        return _pods(before) if len(given) == 1 else ()
    if given:
        return ()
    more = _VERBS if name == "backups" else ()
    return [*more, *_storageformats(before)]


def _values(
    action: argparse.Action | None, words: Sequence[str], name: str | None, part: str
) -> tuple[list[tuple[str, str]], int]:
    if action is None:
        return [], _NO_FILES
    if action.choices:
        return _matching(part, ((str(one), "") for one in action.choices)), _NO_FILES
    option = action.option_strings[-1]
    if option in {
        "--kubeconfig",
        "--certificate-authority",
        "--client-certificate",
        "--client-key",
    }:
        return [], _FILES
    if option == "--output" and name == "support-bundle":
        return [], _FILES
    before = words[:-1]
    found: Iterable[tuple[str, str]] = ()
    if option == "--pod":
        found = _pods(before)
    elif option in {"--to", "--format"}:
        found = _formats(before)
    elif option in {"--namespace", "--controller-namespace"}:
        found = _listed(before, "get", "namespaces", "--output=name")
    elif option in {"--context", "--cluster", "--user"}:
        found = _listed(before, "config", f"get-{option.strip('-')}s", *_NAME_ONLY.get(option, ()))
    return _matching(part, found), _NO_FILES


_NAME_ONLY: Final = {"--context": ("--output=name",)}


def _matching(part: str, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(word, " ".join(text.split())) for word, text in found if word.startswith(part)]


class _Quiet(argparse.ArgumentParser):
    """Half a line may make no sense yet."""

    def error(self, message: str) -> NoReturn:
        raise Problem(message)


# --- of the cluster -----------------------------------------------------------------------------------------


def _kube(before: Sequence[str]) -> Kubectl:
    """With the cluster that the line so far means."""
    words = list(before)
    if words and words[-1].startswith("-"):
        words.pop()  # it is this one's value that is asked for
    parser = _Quiet(add_help=False, allow_abbrev=False)
    app.cluster_options(parser)
    given, _ = parser.parse_known_args(words)
    flags = [*app.connection(given), _PATIENCE]
    return Kubectl(flags, namespace=getattr(given, "namespace", None))


def _bodies(before: Sequence[str]) -> list[dict[str, Any]]:
    kube = _kube(before)
    return kube.items(PLURAL_STORAGEFORMATS, kube.namespace)[0]


def _storageformats(before: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (
            one["metadata"]["name"],
            f"{one['spec']['database']['path']}, target {one['spec']['target']}",
        )
        for one in _bodies(before)
    ]


def _formats(before: Sequence[str]) -> list[tuple[str, str]]:
    named = set(before)
    return [
        (each["name"], "")
        for one in _bodies(before)
        if one["metadata"]["name"] in named
        for each in one["spec"]["formats"]
    ]


def _pods(before: Sequence[str]) -> list[tuple[str, str]]:
    from format_operator.kubectl.overview import overview

    kube = _kube(before)
    pods, _ = kube.items("pods", kube.namespace)
    named = set(before)
    bodies = _bodies(before)
    chosen = [one for one in bodies if one["metadata"]["name"] in named] or bodies
    return [
        (place.pod, one["metadata"]["name"])
        for one in chosen
        for place in overview(one, (), pods).served
    ]


def _listed(before: Sequence[str], *words: str) -> list[tuple[str, str]]:
    done = _kube(before).run(*words)
    lines = done.out.split() if done.code == 0 else []
    return [(line.rpartition("/")[2], "") for line in lines if line != "NAME"]


if __name__ == "__main__":
    sys.exit(main())
