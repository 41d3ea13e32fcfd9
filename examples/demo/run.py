"""``make demo``: a real database in three pods is converted, a sidecar is killed meanwhile, every record compared.

``main`` tells the story; ``tree`` reads the input, ``app_v1`` and ``app_v2`` are the app, ``pod`` stands in for a
kubelet, ``emulator`` and ``real`` are the API servers, ``story`` watches and kills, ``proof`` compares.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

# The modules of this folder are found from wherever the demo is started.
sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.demo import app_v1, report, story, tree
from examples.demo.pod import Pod
from examples.demo.show import Show, readable

MANIFEST = Path(__file__).with_name("storageformat.yaml")
NAMESPACE = "demo"
PODS = 3
VICTIM = 1  # the pod whose sidecar is killed
DEFAULT_ENTRIES = 90_000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 130  # what a shell says of Ctrl-C


class Api(Protocol):
    """The API server, be it an emulator or a real one."""

    @property
    def title(self) -> str: ...
    @property
    def url(self) -> str: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *_: object) -> None: ...
    def add_pod(self, name: str, directory: Path) -> str: ...
    def apply(self, manifest: Path) -> str: ...
    def formatstates(self) -> list[dict[str, Any]]: ...
    def get_formatstates(self) -> str: ...


class Interrupted(BaseException):
    """Somebody wants the demo to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when everything is proved."""
    given = _parse(arguments)
    # Nobody's cluster is any business of the demo's, nor of what it starts.
    os.environ.pop("KUBECONFIG", None)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr] # they are text files
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    show = Show()
    try:
        with ExitStack() as stack:
            try:
                records = _demo(given, show, stack)
            finally:
                _do_not_disturb()
    except Interrupted:
        show.closing("Interrupted; everything is cleaned up.", good=False)
        return _INTERRUPTED
    except (story.Failed, RuntimeError) as error:
        show.closing(f"FAILED: {error}", good=False)
        return 1
    if show.failures:
        show.closing("FAILED: " + "\n        ".join(show.failures), good=False)
        return 1
    show.closing(
        f"{records:,} records in {PODS} databases went from v1 to v2, one sidecar was killed on the way, "
        f"nothing was lost.\nThat took {show.seconds:.0f} s; everything is cleaned up.",
        good=True,
    )
    return 0


def _demo(given: argparse.Namespace, show: Show, stack: ExitStack) -> int:
    """The whole of it; returns the number of records compared. What has to be undone goes to ``stack``."""
    roots = [given.root.absolute()] if given.root else tree.default_roots()
    index = _read(roots, given.min_entries, show)

    place = Path(tempfile.mkdtemp(prefix="storageformat-demo-"))
    stack.callback(shutil.rmtree, place, ignore_errors=True)
    pods = [Pod(f"index-{n}", place / f"index-{n}", one) for n, one in enumerate(index.shards)]
    _write(pods, show)

    api = _api(given.api, place)
    show.event("API", f"starting {api.title}")
    stack.enter_context(api)
    show.event("API", f"answers at {api.url}")
    show.event("API", f"apply -f {MANIFEST.name}: {api.apply(MANIFEST)}")
    show.event("", "v1 (natural keys, pickle) -> v2 (hierarchical keys, msgpack, zstd), OnRestart")

    victim = pods[VICTIM]
    stack.callback(_stop, pods)
    _start(pods, api, show)
    story.until_apps_run(pods, victim, show)
    story.until(lambda: report.is_done(api.formatstates(), pods), "every FormatState says so")
    show.event("API", "every pod has reported: Converted, gate open", "green")

    root = str(roots[0])
    report.states(api.get_formatstates(), show)
    report.sizes(pods, api.formatstates(), show)
    report.metrics(victim, show)
    report.listing(victim, root, show)
    return report.checks(pods, victim, root, show)


def _read(roots: Sequence[Path], wanted: int, show: Show) -> tree.Index:
    show.event("input", f"an index of the files of this machine, from {roots[0]} on: reading only")
    index = tree.read(roots, wanted, PODS)
    show.event(
        "input",
        f"{index.entries:,} entries ({index.files:,} files of {readable(index.bytes)}; content of "
        f"{index.digests:,} sampled, {index.left_out:,} left out)",
    )
    if not all(shard.tables[tree.ENTRIES] for shard in index.shards):
        raise story.Failed(f"{roots[0]} has too few directories for {PODS} databases")
    return index


def _write(pods: Sequence[Pod], show: Show) -> None:
    show.event("app v1", "writes it with plain sqlitedict, pickled, into one database per pod")
    for pod in pods:
        app_v1.write(pod.database, pod.shard.tables)
        pod.size_before = pod.database.stat().st_size
    said = ", ".join(f"{one.name} {one.shard.rows:,}" for one in pods)
    show.event("app v1", f"records: {said}; it stops, v2 is rolled out")


def _start(pods: Sequence[Pod], api: Api, show: Show) -> None:
    for pod in pods:
        token = pod.folder / "token"
        uid = api.add_pod(pod.name, token)
        pod.start_sidecar(
            [
                *("--database", "index=/proc/self/cwd/data/index.db"),
                *("--namespace", NAMESPACE, "--pod-uid", uid),
                *("--kube-api", api.url, "--token-dir", str(token)),
            ]
        )
        pod.start_gate()
    show.event("pods", "sidecars and gates started; the apps wait for their gates")


def _stop(pods: Sequence[Pod]) -> None:
    for pod in pods:
        pod.stop()
    for pod in pods:
        pod.wait_stopped()


def _api(kind: str, place: Path) -> Api:
    # Each needs packages that the other does without.
    if kind == "real":
        from examples.demo.real import Real

        return Real(NAMESPACE, place / "controlplane")
    from examples.demo.emulator import Emulator

    return Emulator(NAMESPACE)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    _do_not_disturb()
    raise Interrupted


def _do_not_disturb() -> None:
    """From here on it is tidied up, and a second Ctrl-C would leave things behind."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--api",
        choices=["emulator", "real"],
        default="emulator",
        help="KMock in this process, or kube-apiserver and etcd (%(default)s)",
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="index this tree, and no other")
    parser.add_argument(
        "--min-entries",
        type=int,
        default=DEFAULT_ENTRIES,
        metavar="N",
        help="index that many entries, if there are (%(default)s)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
