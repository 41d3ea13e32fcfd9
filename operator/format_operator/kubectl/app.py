"""Arguments, and which command they mean. The command's module is imported when it is the one that was asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, cast

from format_operator import __version__
from format_operator.kubectl.problems import FAILED, Problem

PROGRAM: Final = "kubectl storageformat"

#: kubectl's own options that say which cluster, and as whom. Each is handed on to every kubectl.
CONNECTION: Final = (
    ("--kubeconfig", "FILE", "path to the kubeconfig file"),
    ("--context", "NAME", "the kubeconfig context to use"),
    ("--cluster", "NAME", "the kubeconfig cluster to use"),
    ("--user", "NAME", "the kubeconfig user to use"),
    ("--as", "USER", "username to impersonate"),
    ("--as-group", "GROUP", "group to impersonate; repeatable"),
    ("--server", "URL", "address of the API server"),
    ("--token", "TOKEN", "bearer token"),
    ("--certificate-authority", "FILE", "certificate authority of the API server"),
    ("--client-certificate", "FILE", "client certificate"),
    ("--client-key", "FILE", "client key"),
    ("--tls-server-name", "NAME", "server name that the API server's certificate is checked for"),
    ("--request-timeout", "TIME", "how long a single request may take, such as 30s"),
)
#: command, module, one line.
COMMANDS: Final = (
    ("status", "status", "pods, formats, progress, backups; what is waited for, and why"),
    ("plan", "plan", "what a conversion would do, asked of each running pod"),
    ("pause", "rollout", "permit and restart nothing until it is resumed"),
    ("resume", "rollout", "let a paused rollout go on"),
    ("undo", "rollout", "set the target back to the format before"),
    ("backups", "backups", "the backups on all volumes; pin and unpin one"),
    ("logs", "logs", "logs of sidecars and gates, merged by time"),
    ("support-bundle", "bundle", "collect what helps to find a fault; no data is in it"),
)
_EPILOG: Final = (
    "Exit codes: 0 done, 1 the cluster did not do it, 2 usage, 3 refused (nothing was changed), "
    "4 a pod needs a person, 75 try again. More: docs/kubectl.md"
)


class Parser(argparse.ArgumentParser):
    """Errors say what is wrong in one line, as kubectl's do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nSee '{self.prog} --help' for usage.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. What goes wrong is told in a line or two."""
    from format_operator.kubectl import terminal

    terminal.utf8()
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        arguments = parser().parse_args(argv)
        module = importlib.import_module(f"format_operator.kubectl.{arguments.module}")
        from format_operator.kubectl.kube import Kubectl

        kube = Kubectl(connection(arguments), namespace=getattr(arguments, "namespace", None))
        run = cast("Callable[[argparse.Namespace, Kubectl], int]", module.run)
        try:
            return run(arguments, kube)
        finally:
            kube.close()
    except Problem as problem:
        print(f"error: {problem.message}", file=sys.stderr)
        if problem.hint:
            print(f"  {problem.hint}", file=sys.stderr)
        return problem.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Such as `| head`: whoever read has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _interrupted(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def connection(arguments: argparse.Namespace) -> list[str]:
    """The flags of kubectl that were given."""
    flags: list[str] = []
    for option, _, _ in CONNECTION:
        given = getattr(arguments, _destination(option), None)
        values = given if isinstance(given, list) else [given]
        flags += [f"{option}={value}" for value in values if value is not None]
    if getattr(arguments, "insecure_skip_tls_verify", False):
        flags.append("--insecure-skip-tls-verify=true")
    return flags


def _destination(option: str) -> str:
    return "kubectl_" + option.strip("-").replace("-", "_")


def parser() -> Parser:
    """The whole command line. kubectl's options may stand before the command and behind it."""
    main_parser = Parser(
        prog=PROGRAM,
        description="Looks at format conversions of embedded databases, and steers them.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    main_parser.add_argument(
        "--version", action="version", version=f"kubectl-storageformat {__version__}"
    )
    cluster_options(main_parser)
    commands = main_parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module, text in COMMANDS:
        one = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
        )
        one.set_defaults(command=name, module=module)
        _ADD[name](one)
        cluster_options(one)
    return main_parser


def cluster_options(one: argparse.ArgumentParser) -> None:
    group = one.add_argument_group("kubectl's options")
    suppress: Any = argparse.SUPPRESS  # or a command's default would hide what stood before it
    group.add_argument("-n", "--namespace", metavar="NAME", default=suppress)
    for option, metavar, text in CONNECTION:
        names = ("-s", option) if option == "--server" else (option,)
        action = "append" if option == "--as-group" else "store"
        group.add_argument(
            *names,
            dest=_destination(option),
            metavar=metavar,
            action=action,
            default=suppress,
            help=text,
        )
    group.add_argument("--insecure-skip-tls-verify", action="store_true", default=suppress)


# --- what each command takes ---------------------------------------------------------------------------------


def _name(one: argparse.ArgumentParser, *, optional: bool = False) -> None:
    one.add_argument(
        "name", metavar="NAME", nargs="?" if optional else None, help="a StorageFormat"
    )


def _output(one: argparse.ArgumentParser) -> None:
    one.add_argument("-o", "--output", choices=("json", "yaml"), help="a document for programs")


def _every(one: argparse.ArgumentParser) -> None:
    one.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")


def _pods(one: argparse.ArgumentParser) -> None:
    one.add_argument("--pod", action="append", metavar="POD", help="of this pod alone; repeatable")


def _dry_run(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--dry-run",
        choices=("none", "client", "server"),
        default="none",
        help="client: only say what would be done; server: have the API server try it",
    )


def _status(one: argparse.ArgumentParser) -> None:
    _name(one, optional=True)
    _every(one)
    _output(one)
    one.add_argument("-w", "--watch", action="store_true", help="go on as things change")


def _plan(one: argparse.ArgumentParser) -> None:
    _name(one)
    _pods(one)
    _output(one)
    one.add_argument("--format", metavar="NAME", help="another of its formats than the target")
    one.add_argument(
        "--rehearse",
        action="store_true",
        help="do all of it on a throw-away copy; needs the application to have the file closed",
    )
    _parallel(one)


def _parallel(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--parallel", type=_positive, default=4, metavar="N", help="pods at a time (%(default)s)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 64")
    return int(text)


def _suspend(one: argparse.ArgumentParser) -> None:
    _name(one)
    _dry_run(one)


def _undo(one: argparse.ArgumentParser) -> None:
    _name(one)
    one.add_argument(
        "--to", metavar="FORMAT", help="this format; default: what the volumes came from"
    )
    one.add_argument("-y", "--yes", action="store_true", help="do not ask")
    _dry_run(one)


def _backups(one: argparse.ArgumentParser) -> None:
    one.description = (
        "NAME lists the backups on all volumes of a StorageFormat; pin POD ID and unpin POD ID keep one, or "
        "let its time run again. Restoring and deleting is done in the pod; the list says with which command."
    )
    one.add_argument("words", metavar="NAME | pin POD ID | unpin POD ID", nargs="+")
    one.add_argument(
        "--verify", action="store_true", help="read each one, and compare it with its manifest"
    )
    _pods(one)
    _output(one)
    _parallel(one)


def _logs(one: argparse.ArgumentParser) -> None:
    _name(one)
    _pods(one)
    one.add_argument(
        "-f", "--follow", action="store_true", help="go on, with pods that come later, too"
    )
    one.add_argument("--since", metavar="TIME", help="only newer ones, such as 10m")
    one.add_argument("--tail", type=int, metavar="N", help="the last lines of each container")
    one.add_argument("-p", "--previous", action="store_true", help="of containers that ended, too")


def _bundle(one: argparse.ArgumentParser) -> None:
    _name(one)
    one.add_argument(
        "-o", "--output", metavar="FILE", help="default: storageformat-NAME-TIME.tar.gz"
    )
    one.add_argument(
        "--controller-namespace",
        metavar="NAME",
        default="storageformat-system",
        help="where the controller runs (%(default)s)",
    )
    _parallel(one)


_ADD: Final[dict[str, Callable[[argparse.ArgumentParser], None]]] = {
    "status": _status,
    "plan": _plan,
    "pause": _suspend,
    "resume": _suspend,
    "undo": _undo,
    "backups": _backups,
    "logs": _logs,
    "support-bundle": _bundle,
}

if __name__ == "__main__":
    sys.exit(main())
