"""``kubectl storageformat`` on a real cluster: what it asks of running sidecars, whose logs it reads, what it takes home."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from cluster import Cluster
from controlplane.client import Object
from tests.cluster.shop import Shop, eventually, in_parallel
from tests.support.plugin import Plugin, environment

#: In a key, a value, SQL, a variable and an annotation; none of it may leave the cluster in a bundle.
CANARY: Final = "wren-9f31"
BROKEN: Final = {
    "name": "broken",
    "sqlitedict": {"valueCodec": "json"},
    "sqlite": {
        "migrations": [{"number": 1, "sql": f"INSERT INTO \"{CANARY}\" VALUES ('{CANARY}');"}]
    },
}


def secretive(body: Object) -> None:
    """A change of the StatefulSet: an app with a password, and an annotation of somebody's."""
    template = body["spec"]["template"]
    # Without the word on what the app reads: the format that is to fail would not even be tried.
    template["metadata"]["annotations"] = {"example.com/token": CANARY}
    template["spec"]["containers"][0]["env"].append({"name": "PASSWORD", "value": CANARY})


def user(shop: Shop, cluster: Cluster, role: str, folder: Path) -> Plugin:
    """Somebody with one of Kubernetes' own roles in the namespace."""
    cluster.kubectl("create", "serviceaccount", role, "-n", shop.namespace)
    cluster.kubectl(
        *("create", "rolebinding", role, f"--clusterrole={role}", "-n", shop.namespace),
        f"--serviceaccount={shop.namespace}:{role}",
    )
    token = cluster.kubectl("create", "token", role, "-n", shop.namespace).stdout.strip()
    config = json.loads(
        cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout
    )
    for one in config["users"]:
        one["user"] = {"token": token}
    path = folder / f"{role}.kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return Plugin(path, shop.namespace)


@contextmanager
def following(plugin: Plugin, output: Path) -> Iterator[None]:
    """``logs -f``, with what it says in a file."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            plugin.command("logs", "orders", "-f"),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(plugin.kubeconfig),
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def test_from_the_plan_to_the_bundle(cluster: Cluster, shop: Shop, tmp_path: Path) -> None:
    """People with Kubernetes' own roles look and steer; plans, backups and logs come from the running pods; a bundle
    of a failure has no data in it."""
    shop.replicas = 2
    shop.open(in_parallel, secretive, seed=200)
    assert shop.ask(1, "PUT", f"/orders/{CANARY}", {"name": CANARY})[0] == 201
    paused = {"suspended": True}
    shop.apply(shop.storage_format(spec__backup={"retainFor": "1h"}, spec__rollout=paused))
    viewer, editor = (user(shop, cluster, role, tmp_path) for role in ("view", "edit"))
    eventually(lambda: viewer.run("status").returncode == 0, "the roles are put together")
    eventually(lambda: "Suspended" in viewer.says("status"), "the controller has seen it")
    assert "cannot patch" in viewer.says("resume", "orders", code=1)

    plan(editor)
    log = tmp_path / "follow.log"
    with following(editor, log):
        assert "2 of 2 pods are still to be converted" in editor.says("resume", "orders")
        shop.wait_until_ready()
        for ordinal in range(2):
            eventually(
                partial(done, log, ordinal),
                f"the conversion of orders-{ordinal}, in a pod that came later",
            )
    backups(editor)
    logs(editor)

    body = shop.storage_format(spec__target="broken")
    body["spec"]["formats"].append(BROKEN)
    shop.apply(body)
    state = shop.wait_for_phase(1, "Failed", "Refused")
    assert CANARY in state["message"], state
    eventually(lambda: CANARY in shop.condition("Degraded").get("message", ""), "it is told")
    bundle(Plugin(cluster.kubeconfig, shop.namespace), tmp_path)


def done(log: Path, ordinal: int) -> bool:
    """Whether the log that is followed has the end of that pod's conversion."""
    line = rf"^\[orders-{ordinal}/storageformat\] .* conversion ended .*outcome=converted"
    return re.search(line, log.read_text(encoding="utf-8"), re.MULTILINE) is not None


def plan(editor: Plugin) -> None:
    """Beside the running app: what would be done in each pod, and that a rehearsal has to wait."""
    shown = editor.says("plan", "orders")
    assert len(re.findall(r"orders-\d +convert +20\d ", shown)) == 2
    plans = editor.document("plan", "orders", "--pod", "orders-1")["plans"]
    assert [one["pod"] for one in plans] == ["orders-1"]
    assert plans[0]["plan"]["inUse"] is True
    assert plans[0]["plan"]["steps"]
    assert editor.says("plan", "orders", "--format", "v1").startswith("orders: to v1, as 2 running")
    in_use = editor.run("plan", "orders", "--rehearse")
    assert in_use.returncode == 75
    assert in_use.stdout.count("InUse: ") == 2
    assert "has no format 'v9'" in editor.says("plan", "orders", "--format", "v9", code=3)


def backups(editor: Plugin) -> None:
    """Those of all pods; one is pinned and unpinned, and restoring is explained with a command that is one."""
    volumes = editor.document("backups", "orders", "--verify")["volumes"]
    assert [one["pod"] for one in volumes] == ["orders-0", "orders-1"]
    identity = volumes[1]["backups"][0]["conversionID"]
    assert volumes[1]["backups"][0]["sound"] is True
    assert "pinned: " in editor.says("backups", "pin", "orders-1", identity)
    shown = editor.says("backups", "orders")
    assert re.search(rf"orders-1 +{identity} .* pinned", shown)
    assert (
        f"-- storageformat backups restore /data/orders.db {volumes[0]['backups'][0]['conversionID']}"
        in shown
    )
    assert "unpinned: " in editor.says("backups", "unpin", "orders-1", identity)
    assert "pinned" not in editor.says("backups", "orders")
    assert "has no backup 'x'" in editor.says("backups", "pin", "orders-1", "x", code=3)


def logs(editor: Plugin) -> None:
    """Sidecars and gates of all pods, in the order of time, each line with where it is from."""
    lines = editor.says("logs", "orders").splitlines()
    parsed = [re.match(r"\[(orders-\d)/(storageformat(?:-gate)?)\] (\S+Z)", line) for line in lines]
    found = [one for one in parsed if one is not None]
    assert {one[1] for one in found} == {"orders-0", "orders-1"}
    assert {one[2] for one in found} == {"storageformat", "storageformat-gate"}
    # What a line says of itself is a moment before the kubelet's time, by which they are sorted.
    seconds = [one[3][:19] for one in found]
    swapped = sum(a > b for a, b in itertools.pairwise(seconds))
    assert swapped <= len(seconds) // 10
    only = editor.says("logs", "orders", "--pod", "orders-0", "--tail", "2").splitlines()
    assert 1 <= len(only) <= 4
    assert all(line.startswith("[orders-0/") for line in only)


def bundle(admin: Plugin, folder: Path) -> None:
    """Objects, logs, inspections, metrics and versions are in it; the canary is nowhere."""
    target = folder / "bundle.tar.gz"
    said = admin.says("support-bundle", "orders", "-o", str(target))
    assert "Look at README.txt" in said
    assert target.stat().st_mode & 0o777 == 0o600
    assert "is there already" in admin.says("support-bundle", "orders", "-o", str(target), code=3)
    with tarfile.open(target) as archive:
        files: dict[str, str] = {}
        for member in archive.getmembers():
            content: Any = archive.extractfile(member)
            files[member.name.partition("/")[2]] = content.read().decode()
    for name, text in files.items():
        assert CANARY not in text, name
        assert CANARY.partition("-")[0] not in text, name
    wanted = {"README.txt", "status.txt", "storageformat.json", "formatstates.json", "pods.json"}
    wanted |= {
        "events.json",
        "versions.json",
        "controller/pods.json",
        "logs/orders-1/storageformat.log",
    }
    wanted |= {f"{kind}/orders-0.{end}" for kind, end in (("inspect", "json"), ("metrics", "txt"))}
    assert wanted <= files.keys()
    assert "nothing is missing" in files["README.txt"]
    assert "conversion ended" in files["logs/orders-1/storageformat.log"]
    assert "Stopped" in files["status.txt"]
    (inspected,) = json.loads(files["inspect/orders-0.json"])
    assert inspected["state"] == "marked"
    assert (
        'storageformat_conversions_total{database="/data/orders.db"'
        in files["metrics/orders-0.txt"]
    )
    reasons = {one["status"]["reason"] for one in json.loads(files["formatstates.json"])}
    assert reasons & {"InvalidMigration", "MigrationFailed", "Failed"} or len(reasons) == 2
