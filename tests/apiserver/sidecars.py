"""Pods on the real API server: sidecar (supervisor and worker) and gate as processes, with a pod's own token."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from unittest.mock import patch

from controlplane import ApiError, ControlPlane
from controlplane.client import Object, wait_until
from format_operator.api.models import StorageFormat
from format_operator.api.names import API_VERSION, KIND_FORMATSTATE
from format_store.layout import Layout
from tests.sidecar.pods import Pod, Process, health, metrics, python
from tests.support.databases import (
    Records,
    format_on_disk,
    leftovers,
    records_on_disk,
    sample,
    write_plain,
)
from tests.support.objects import storageformat

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
RECORDS: Final[Records] = sample(400)
#: Long enough for a machine that does other things meanwhile; a condition that holds is seen at once.
PATIENCE_SECONDS: Final = 40.0

ON_RESTART: Final = {"strategy": "OnRestart"}
ROLLING: Final = {"strategy": "RollingRestart"}
FORMATS: Final[list[dict[str, Any]]] = [
    *storageformat()["spec"]["formats"],
    {"name": "v3", "sqlitedict": {"valueCodec": "json", "compression": "zlib"}},
]
STATE: Final = "orders.orders-0"


def eventually(what: Callable[[], T], text: str = "") -> T:
    """The first true value of ``what``."""
    value: T = wait_until(what, timeout=PATIENCE_SECONDS, every=0.03, what=text)
    return value


def name_of(pod: Pod) -> str:
    """Its StorageFormat's: pods with folders of their own need one each, for one path is one database's."""
    return "orders" if pod.name == "orders-0" else pod.name


def state_of(pod: Pod) -> str:
    return f"{name_of(pod)}.{pod.name}"


def wanted(pod: Pod, name: str = "", **changes: Any) -> dict[str, Any]:
    """A StorageFormat for the pod's database: formats v1 to v3, target v2, any restart converts."""
    defaults = {
        "spec__database__path": str(pod.database),
        "spec__formats": FORMATS,
        "spec__rollout": ON_RESTART,
    }
    return storageformat(name or name_of(pod), **(defaults | changes))


def hash_of(body: Mapping[str, Any]) -> str:
    """What a permit for this StorageFormat has to name."""
    return StorageFormat.from_object(body).spec.target_hash()


def assert_holds(path: Path, name: str, records: Records = RECORDS) -> None:
    """The database is in that format, with every record in the order of writing, and nothing lies beside it."""
    if name == "v1" and not format_on_disk(path):
        expected: dict[str, Any] = {}
    else:
        expected = next(one["sqlitedict"] for one in FORMATS if one["name"] == name)
    found = format_on_disk(path)
    assert {key: found.get(key) for key in expected} == expected, f"{path} is in {found}"
    assert records_on_disk(path) == records
    assert leftovers(path) == []
    assert path.stat().st_nlink == 1


def kept_as_it_is(path: Path) -> tuple[int, int, int, bytes]:
    """Inode, time of modification, number of links, bytes: equal before and after means untouched."""
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_nlink, path.read_bytes()


def pending(path: Path) -> list[str]:
    """The conversions that are not finished; opens nothing: a lease may be held on the database."""
    return [work.conversion_id for work in Layout.of(path).pending()]


class Sidecar:
    """One container: the supervisor and what it started."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def text(self) -> str:
        return self.process.text()

    def says(self, pattern: str) -> re.Match[str]:
        return self.process.says(pattern, within=PATIENCE_SECONDS)

    def exit_code(self) -> int:
        return self.process.ends(within=PATIENCE_SECONDS)

    @property
    def worker(self) -> int:
        """The newest worker's process id."""
        self.says(r"worker started pid=\d+")
        return int(re.findall(r"worker started pid=(\d+)", self.text())[-1])

    @property
    def port(self) -> int:
        """Where the newest worker serves /metrics."""

        def announced() -> int | None:
            _, _, newest = self.text().rpartition("worker started pid=")
            found = re.search(r"serving metrics address=\S+ port=(\d+)", newest)
            return int(found[1]) if found else None

        return eventually(announced, "the newest worker serves metrics") or 0

    def metrics(self) -> dict[str, float]:
        return metrics(self.port)

    def health(self) -> dict[str, Any]:
        return health(self.port)

    def shows(self, name: str, value: float) -> dict[str, float]:
        """All samples, as soon as that one has the value."""

        def sampled() -> dict[str, float] | None:
            with suppress(
                OSError
            ):  # a worker that was just killed is named until the next one starts
                seen = self.metrics()
                return seen if seen.get(name) == value else None
            return None

        return eventually(sampled, f"{name} is {value}") or {}

    def is_watching(self) -> bool:
        """Whether each watch has brought something: what happens from now on is noticed by it."""
        watchers = self.health()["watchers"].values()
        return all(one["lastEventSecondsAgo"] is not None for one in watchers)

    def kill_worker(self) -> None:
        """SIGKILL to the worker; the supervisor notices."""
        worker = self.worker
        os.kill(worker, signal.SIGKILL)
        self.says(rf"worker ended pid={worker} signal=SIGKILL")

    def kill_container(self) -> None:
        """SIGKILL to all processes at once, as when PID 1 of a container is killed."""
        processes = _tree(self.process.pid)
        for number in (signal.SIGSTOP, signal.SIGKILL):  # nobody sees another one die
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.exit_code()
        for pid in processes[1:]:
            eventually(lambda pid=pid: not _runs(pid), f"process {pid} is gone")  # type: ignore[misc]

    def terminate(self) -> int:
        """SIGTERM, as the kubelet sends it; the exit code."""
        self.process.send(signal.SIGTERM)
        return self.exit_code()


def _tree(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, ()))
    return found


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@dataclass
class Cluster:
    """One test's namespace and its pods; everything that was started ends with the ``with`` statement."""

    plane: ControlPlane
    namespace: str
    folder: Path
    server: str = ""
    pods: list[Pod] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.plane.create_service_account(self.namespace, "orders")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pod in self.pods:
            for process in pod.processes:
                for child in _tree(process.pid)[1:] if process.is_running else ():
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
            pod.close()
            for log in sorted(pod.folder.glob("*.log")):  # pytest shows it where a test failed
                print(f"--- {pod.name} {log.name}\n{log.read_text()}")

    # --- pods -------------------------------------------------------------------------------------

    def pod(self, name: str = "orders-0", *, records: Records | None = None, **options: str) -> Pod:
        """A pod with a plain sqlitedict database, as an ordinary app leaves it, and a token of its own.

        ``options`` are the sidecar's, such as ``permit_wait="1"``.
        """
        folder = self.folder / name
        (folder / "secrets").mkdir(parents=True)
        pod = Pod(folder, self.server or self.plane.server, name)
        pod.options = {
            "--namespace": self.namespace,
            "--token-dir": str(folder / "secrets"),
            "--gate-grace": "0.3",
        } | {f"--{key.replace('_', '-')}": value for key, value in options.items()}
        (folder / "secrets" / "ca.crt").write_bytes(self.plane.ca_file.read_bytes())
        self.give_token(pod)
        write_plain(pod.database, RECORDS if records is None else records)
        pod.databases = [f"{name_of(pod)}={pod.database}"]
        self.pods.append(pod)
        return pod

    def give_token(self, pod: Pod) -> None:
        """Make the pod's object and put a token that is bound to it in place, as the kubelet does."""
        made = self.plane.create_pod(self.namespace, pod.name, service_account="orders")
        pod.options["--pod-uid"] = made["metadata"]["uid"]
        directory = Path(pod.options["--token-dir"])
        token = self.plane.token(self.namespace, "orders", pod=made)
        (directory / "next").write_text(token)
        (directory / "next").rename(directory / "token")

    def sidecar(self, pod: Pod, *, program: str = "", **failpoints: str) -> Sidecar:
        """Start a container; ``failpoints`` are the driver's, such as ``pause_at="swap.after-rename"``.

        ``program``: another module (and words) before the sidecar's arguments.
        """
        usual = "tests.apiserver.supervised" if failpoints else "format_operator sidecar"
        module = (program or usual).split()
        log = f"sidecar-{len(pod.processes)}.log"
        with patch.dict(os.environ, {key.upper(): value for key, value in failpoints.items()}):
            return Sidecar(pod.start([*python("-m"), *module, *pod.arguments()], log))

    # --- objects ----------------------------------------------------------------------------------

    def path(self, plural: str, *rest: str) -> str:
        parts = ["apis", API_VERSION, "namespaces", self.namespace, plural, *rest]
        return "/" + "/".join(parts)

    def create(self, body: Mapping[str, Any]) -> Object:
        return self.plane.admin.create(self.path("storageformats"), dict(body))

    def change(self, name: str = "orders", **spec: Any) -> Object:
        return self.plane.admin.patch(self.path("storageformats", name), {"spec": spec})

    def delete(self, name: str = "orders") -> None:
        self.plane.admin.delete(self.path("storageformats", name))

    def state(self, name: str = STATE) -> Object:
        """The FormatState, or an empty object."""
        try:
            return self.plane.admin.get(self.path("formatstates", name))
        except ApiError as error:
            if error.status == 404:
                return {}
            raise

    def status(self, name: str = STATE) -> dict[str, Any]:
        status: dict[str, Any] = self.state(name).get("status", {})
        return status

    def reports(self, name: str = STATE, **expected: Any) -> dict[str, Any]:
        """The status as soon as it says all that is expected."""
        found: dict[str, Any] = {}

        def said() -> bool:
            found.clear()
            found.update(self.status(name))
            return all(found.get(key) == value for key, value in expected.items())

        try:
            eventually(said)
        except TimeoutError as error:
            raise AssertionError(f"never said {expected}; last: {found}") from error
        return found

    def permit(self, target_hash: str, *, minutes: float = 10, name: str = STATE) -> None:
        """What the controller does; makes the FormatState where the sidecar has not done so yet."""
        if not self.state(name):
            body = {"apiVersion": API_VERSION, "kind": KIND_FORMATSTATE, "metadata": {"name": name}}
            self.plane.admin.create(self.path("formatstates"), body)
        expires = datetime.now(UTC) + timedelta(minutes=minutes)
        permit = {"targetHash": target_hash, "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.plane.admin.patch(self.path("formatstates", name), {"spec": {"permit": permit}})

    def withdraw(self, name: str = STATE) -> None:
        self.plane.admin.patch(self.path("formatstates", name), {"spec": {"permit": None}})


def exit_of(gate: Process) -> int:
    """The gate's exit code, as soon as it ends."""
    return gate.ends(within=PATIENCE_SECONDS)


def says(gate: Process, pattern: str) -> re.Match[str]:
    return gate.says(pattern, within=PATIENCE_SECONDS)


def paused(pod: Pod) -> None:
    """Wait until the worker is at its failpoint."""
    eventually((pod.folder / "paused").exists, "the worker reached its failpoint")


def go_on(pod: Pod) -> None:
    """Let it go on; a later worker does not stop there any more."""
    (pod.folder / "go").touch()
