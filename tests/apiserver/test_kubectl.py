"""``kubectl storageformat`` on the real API server: what it shows, what it changes, and what it says when it cannot."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from controlplane import ControlPlane
from controlplane.client import wait_until
from format_operator.api.names import GROUP
from tests.apiserver.conftest import DEPLOY
from tests.apiserver.controllers import Rollout
from tests.support.plugin import Plugin, environment

PROGRESS: Final = {"percent": 48, "done": 48, "total": 100, "phase": "building"}


@pytest.fixture
def rollout(control_plane: ControlPlane, namespace: str) -> Rollout:
    """Three pods: one converted, one converting, one that waits for its turn."""
    made = Rollout(control_plane, namespace)
    made.make()
    last = {"at": "2026-03-01T11:00:00Z", "result": "succeeded", "from": "v1", "to": "v2"}
    made.report(2, "Converted", reason="InTargetFormat", lastConversion=last)
    made.report(1, "Converting", reason="Converting", gate="Closed", progress=PROGRESS)
    made.report(0, "RestartRequired", reason="AppRunning", message="v2 needs a restart")
    return made


@pytest.fixture
def plugin(control_plane: ControlPlane, rollout: Rollout, tmp_path: Path) -> Plugin:
    return Plugin(control_plane.write_kubeconfig(tmp_path / "admin.kubeconfig"), rollout.namespace)


@pytest.fixture
def user(control_plane: ControlPlane, rollout: Rollout, tmp_path: Path) -> Callable[..., Plugin]:
    """Somebody who may do just so much: (group, resources, verbs) each."""

    def made(*rules: tuple[str, list[str], list[str]]) -> Plugin:
        ns, admin = rollout.namespace, control_plane.admin
        control_plane.create_service_account(ns, "somebody")
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}"
        listed = [
            {"apiGroups": [group], "resources": resources, "verbs": verbs}
            for group, resources, verbs in rules
        ]
        admin.create(f"{rbac}/roles", {"metadata": {"name": "somebody"}, "rules": listed})
        account = {"kind": "ServiceAccount", "name": "somebody", "namespace": ns}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "somebody"}
        binding = {"metadata": {"name": "somebody"}, "subjects": [account], "roleRef": role}
        admin.create(f"{rbac}/rolebindings", binding)
        token = control_plane.token(ns, "somebody")
        return Plugin(control_plane.write_kubeconfig(tmp_path / "somebody.kubeconfig", token), ns)

    return made


def suspended(rollout: Rollout) -> bool:
    return bool((rollout.storageformat()["spec"].get("rollout") or {}).get("suspended"))


def target(rollout: Rollout) -> str:
    return str(rollout.storageformat()["spec"]["target"])


# --- looking ------------------------------------------------------------------------------------------------


def test_status(plugin: Plugin, rollout: Rollout) -> None:
    """One screen: each pod with its format, phase and progress; why one waits. The same as a document."""
    shown = plugin.says("status")
    assert re.search(r"orders-0 +v1 → v2 +RestartRequired +open", shown)
    assert "AppRunning: v2 needs a restart" in shown
    assert re.search(r"orders-1 +v1 → v2 +Converting +█+░+ +48% building +closed", shown)
    assert re.search(r"orders-2 +v2 +Converted +open", shown)
    assert "1 of 3 pods in v2" in shown
    (one,) = plugin.document("status", "orders")["storageformats"]
    assert [pod["phase"] for pod in one["pods"]] == ["RestartRequired", "Converting", "Converted"]
    assert one["pods"][1]["progress"] == PROGRESS
    everywhere = plugin.document("status", "-A")["storageformats"]
    assert rollout.namespace in {found["namespace"] for found in everywhere}
    assert "status" in plugin.says("--help")


class Watch:
    """``status --watch``, with its output in a file."""

    def __init__(self, plugin: Plugin, output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                plugin.command("status", "orders", "--watch"),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(plugin.kubeconfig),
                start_new_session=True,
            )

    def text(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def says(self, pattern: str) -> None:
        wait_until(lambda: re.search(pattern, self.text()), what=pattern)

    def end(self) -> int:
        """As Ctrl-C does: to all of them."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture
def watch(plugin: Plugin, tmp_path: Path) -> Iterator[Watch]:
    made = Watch(plugin, tmp_path / "watch.log")
    yield made
    if made.process.poll() is None:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()


def test_watch_tells_each_change_once(watch: Watch, rollout: Rollout) -> None:
    """Without a terminal: a line for each state at first, then one per change, until it is interrupted."""
    watch.says(r"orders-1 Converting in v1 building 40%")
    rollout.report(1, "Converting", reason="Converting", progress=PROGRESS | {"percent": 49})
    rollout.report(0, "Armed", reason="Permitted", message="converts at the next start")
    watch.says(r"orders-0 Armed in v1 Permitted: converts at the next start")
    rollout.report(1, "Converted", reason="InTargetFormat", progress=None)
    watch.says(r"orders-1 Converted in v2")
    rollout.plane.admin.delete(
        f"/api/v1/namespaces/{rollout.namespace}/pods/orders-1", gracePeriodSeconds=0
    )
    watch.says(r"orders-1 no pod in v2")
    assert watch.end() == 0
    assert watch.text().count("building 40%") == 1
    assert "Traceback" not in watch.text()


def test_before_the_operator_and_without_a_server(
    bare_control_plane: ControlPlane, tmp_path: Path
) -> None:
    """Without the CustomResourceDefinitions that is said, and what to do. Later, while the API server is away, a watch
    says so, once; when it is back, so are the changes."""
    plane = bare_control_plane
    early = Plugin(plane.write_kubeconfig(tmp_path / "admin.kubeconfig"), "default")
    said = early.says("status", code=1)
    assert "the CustomResourceDefinitions are not installed" in said
    assert "docs/install.md" in said
    plane.install(DEPLOY)
    made = Rollout(plane, plane.create_namespace("shop"), replicas=1)
    made.make()
    made.report(0, "RestartRequired", reason="AppRunning", message="needs a restart")
    plugin = Plugin(plane.write_kubeconfig(tmp_path / "admin.kubeconfig"), "shop")
    watch = Watch(plugin, tmp_path / "watch.log")
    try:
        watch.says("orders-0 RestartRequired")
        plane.stop_apiserver()
        watch.says("watch the API server does not answer")
        plane.start_apiserver()
        made.report(0, "Armed", reason="Permitted", message="converts at the next start")
        watch.says("orders-0 Armed")
        assert watch.end() == 0
    finally:
        if watch.process.poll() is None:
            os.killpg(watch.process.pid, signal.SIGKILL)
            watch.process.wait()


def test_watch_redraws_a_terminal_and_gives_it_back(plugin: Plugin, rollout: Rollout) -> None:
    """On a terminal the screen is drawn anew at each change; Ctrl-C leaves the last one and the cursor."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        plugin.command("status", "orders", "--watch"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment(plugin.kubeconfig, TERM="xterm", COLUMNS="100", LINES="40"),
        start_new_session=True,
    )
    os.close(follower)
    os.set_blocking(leader, False)
    seen = b""

    def reads(text: str) -> Callable[[], bool]:
        def found() -> bool:
            nonlocal seen
            with suppress(OSError):  # nothing new, or all of it was read
                seen += os.read(leader, 65536)
            return text in seen.decode(errors="replace")

        return found

    try:
        wait_until(reads("48%"), what="the first drawing")
        assert b"\x1b[?1049h" in seen
        rollout.report(1, "Converting", reason="Converting", progress=PROGRESS | {"percent": 77})
        wait_until(reads("77%"), what="it is drawn anew")
        os.killpg(process.pid, signal.SIGINT)
        wait_until(reads("\x1b[?1049l"), what="the terminal is given back")
        wait_until(lambda: process.poll() is not None, what="it ends")
        reads("")()
        assert b"\x1b[?25h" in seen
        assert process.returncode == 0
        assert "Converting" in seen.decode(errors="replace").rpartition("\x1b[?1049l")[2]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(leader)


# --- steering -----------------------------------------------------------------------------------------------


def test_pause_and_resume(plugin: Plugin, rollout: Rollout) -> None:
    """Each says what it did; done twice it says so and writes nothing; a dry run changes nothing."""
    assert "dry run" in plugin.says("pause", "orders", "--dry-run=client")
    assert "dry run" in plugin.says("pause", "orders", "--dry-run=server")
    assert not suspended(rollout)
    said = plugin.says("pause", "orders")
    assert f"storageformat {rollout.namespace}/orders paused" in said
    assert "orders-1: the conversion under way is finished" in said
    assert suspended(rollout)
    version = rollout.storageformat()["metadata"]["resourceVersion"]
    assert "is paused already" in plugin.says("pause", "orders")
    assert rollout.storageformat()["metadata"]["resourceVersion"] == version
    assert "suspended" in plugin.says("status")
    assert "2 of 3 pods are still to be converted to v2" in plugin.says("resume", "orders")
    assert not suspended(rollout)
    assert "is not paused already" in plugin.says("resume", "orders")


def test_undo(plugin: Plugin, rollout: Rollout) -> None:
    """Back to where the volumes came from: shown first, asked for, tried without effect, then done."""
    said = plugin.says("undo", "orders", code=2)
    assert "nobody is there to be asked; nothing was changed" in said
    tried = plugin.says("undo", "orders", "--dry-run=server")
    assert "target v2 becomes v1" in tried
    assert "would convert back, with everything written since: orders-2" in tried
    assert "in v1 already: orders-0, orders-1" in tried
    assert target(rollout) == "v2"
    assert "target set to v1\n" in plugin.says("undo", "orders", "--yes")
    assert target(rollout) == "v1"
    # Everything is where it shall be again, but for what says it came from elsewhere.
    refused = plugin.says("undo", "orders", "--to", "v1", "--yes", code=3)
    assert "v1 is the target already; nothing was changed" in refused


def test_undo_refuses_where_volumes_disagree(plugin: Plugin, rollout: Rollout) -> None:
    """Two origins: neither is guessed at; ``--to`` says it."""
    rollout.report(0, "RestartRequired", currentFormat="sqlitedict(natural json)")
    refused = plugin.says("undo", "orders", "--yes", code=3)
    assert "did not all come from one format" in refused
    assert "sqlitedict(natural json): orders-0" in refused
    assert "--to v1" in refused
    assert target(rollout) == "v2"
    assert "target set to v1" in plugin.says("undo", "orders", "--yes", "--to", "v1")


def test_undo_asks_on_a_terminal(plugin: Plugin, rollout: Rollout) -> None:
    """On a terminal it asks, and takes anything but a yes for a no."""
    for answer, code, left in ((b"n\n", 3, "v2"), (b"yes\n", 0, "v1")):
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            plugin.command("undo", "orders"),
            stdin=follower,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(plugin.kubeconfig),
        )
        os.close(follower)
        os.write(leader, answer)
        said, _ = process.communicate(timeout=60)
        os.close(leader)
        assert process.returncode == code, said
        assert b"Set it back? [y/N]" in said
        assert target(rollout) == left


def test_a_bundle_names_what_it_lacks(plugin: Plugin, tmp_path: Path) -> None:
    """Pods that nothing runs give no log and no answer: each is named, and the rest is collected all the same."""
    target_file = tmp_path / "bundle.tar.gz"
    said = plugin.says("support-bundle", "orders", "-o", str(target_file))
    with tarfile.open(target_file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        (readme,) = [name for name in archive.getnames() if name.endswith("README.txt")]
        content = archive.extractfile(readme)
        assert content is not None
        text = content.read().decode()
    assert {"storageformat.json", "formatstates.json", "pods.json", "events.json"} <= names
    assert {"status.txt", "versions.json"} <= names
    for missing in ("metrics of orders-0", "inspect of orders-1", "controller and webhook"):
        assert missing in text
        assert missing in said


# --- what cannot be done ------------------------------------------------------------------------------------


def test_no_such_storageformat(plugin: Plugin) -> None:
    """Similar names are named; in a namespace without any that is said."""
    said = plugin.says("status", "oders", code=3)
    assert "there is no StorageFormat 'oders'" in said
    assert "did you mean orders" in said
    assert "there is no StorageFormat" in Plugin(plugin.kubeconfig, "default").says(
        "status", "orders", code=3
    )
    assert "no StorageFormat in namespace default" in Plugin(plugin.kubeconfig, "default").says(
        "status"
    )


def test_forbidden_names_verb_and_resource(user: Callable[..., Plugin], rollout: Rollout) -> None:
    """Who may not list is told what; who may look but not change as well, and nothing was changed."""
    nobody = user()
    said = nobody.says("status", code=1)
    # StorageFormats every ServiceAccount may read, because sidecars do.
    assert 'cannot list resource "pods"' in said
    assert "docs/kubectl.md" in said
    assert len(said.strip().splitlines()) == 2
    assert not suspended(rollout)


def test_forbidden_to_change(user: Callable[..., Plugin], rollout: Rollout) -> None:
    """What the role `view` brings is enough to look; not to pause."""
    viewer = user(
        (GROUP, ["storageformats", "formatstates"], ["get", "list", "watch"]),
        ("", ["pods"], ["get", "list", "watch"]),
    )
    assert "orders-1" in viewer.says("status")
    said = viewer.says("pause", "orders", code=1)
    assert 'cannot patch resource "storageformats"' in said
    assert not suspended(rollout)


def test_nobody_answers(plugin: Plugin) -> None:
    """An API server that is away, a context that does not exist, no kubectl: a line or two each."""
    away = Plugin(plugin.kubeconfig, "default", ("--server", "https://127.0.0.1:1"))
    assert "the API server does not answer" in away.says("status", code=1)
    nowhere = Plugin(plugin.kubeconfig, "default", ("--context", "nowhere"))
    assert "nowhere" in nowhere.says("status", code=1)
    done = subprocess.run(
        plugin.command("status"),
        env=environment(plugin.kubeconfig, KUBECTL="/no/such/kubectl"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no /no/such/kubectl" in done.stderr


def test_usage(plugin: Plugin) -> None:
    """Nonsense is answered in two lines, with code 2."""
    for words in (
        ("statu",),
        ("status", "a", "b"),
        ("pause",),
        ("status", "-w", "-o", "json"),
        ("plan", "orders", "--parallel", "0"),
    ):
        assert plugin.says(*words, code=2).startswith("error: ")


# --- completion ---------------------------------------------------------------------------------------------


def test_completion(plugin: Plugin) -> None:
    """kubectl itself asks, and is told commands, names, pods, formats, options and their values; no file names."""
    asked: list[tuple[tuple[str, ...], set[str]]] = [
        (("st",), {"status"}),
        (("backups", ""), {"pin", "unpin", "orders"}),
        (("backups", "pin", ""), {"orders-0", "orders-1", "orders-2"}),
        (("status", ""), {"orders"}),
        (("status", "orders", ""), set()),
        (("undo", "orders", "--to", ""), {"v1", "v2"}),
        (("undo", "orders", "--to=v1"), {"--to=v1"}),
        (("logs", "orders", "--pod", "orders-1"), {"orders-1"}),
        (("status", "-o", ""), {"json", "yaml"}),
        (("pause", "orders", "--dry-run", ""), {"none", "client", "server"}),
        (("status", "--contex"), {"--context"}),
    ]
    for words, expected in asked:
        found, directive = plugin.completes(*words)
        assert (set(found), directive) == (expected, 4), words
    assert plugin.completes("support-bundle", "orders", "-o", "")[1] == 0
    everything, _ = plugin.completes("")
    assert {
        "status",
        "plan",
        "pause",
        "resume",
        "undo",
        "backups",
        "logs",
        "support-bundle",
    } == set(everything)


def test_completion_never_disturbs(plugin: Plugin) -> None:
    """Where no cluster answers, or half a line makes no sense, there is nothing to offer, and no error on the prompt."""
    away = "--server=https://127.0.0.1:1"
    for words in (("status",), ("status", "--token", "-n"), ("undo", "orders", "--to")):
        done = subprocess.run(
            ["kubectl_complete-storageformat", away, *words, ""],
            env=environment(plugin.kubeconfig),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, ":4\n", "")


def test_completion_knows_contexts(plugin: Plugin) -> None:
    """What kubectl itself leaves to its plugins: contexts of the kubeconfig."""
    done = subprocess.run(
        ["kubectl_complete-storageformat", "status", "--context", ""],
        env=environment(plugin.kubeconfig),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plane\n:4\n"
