"""Conversions that fail on a real cluster: what people are told, what goes on, and what mending it brings."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from format_operator.api.names import API_VERSION
from tests.cluster.shop import UID, Shop, Writer, eventually, in_parallel

NEW: Final = "sqlitedict(hierarchical msgpack zstd)"
OLD: Final = "sqlitedict(natural pickle)"
#: The StatefulSet's order begins with the highest ordinal: of two, this one fails, and ordinal 0 waits.
FAILING: Final = 1
SEEDED: Final = "/eu/berlin/0"

# What an older release of the app might have left: rows that `v2` cannot hold. Run in the app's container.
_ODD_ROWS: Final = """
import pickle, sqlite3, sys
from types import ModuleType
class Basket: pass
sys.modules |= {"shop": ModuleType("shop"), "shop.models": ModuleType("shop.models")}
sys.modules["shop.models"].Basket = Basket
Basket.__module__ = "shop.models"
odd = {"/odd/tags": {"new", "paid"}, "/odd/basket": Basket()}
with sqlite3.connect("/data/orders.db", timeout=30) as database:
    for key, value in odd.items():
        row = (key, pickle.dumps(value, protocol=4))
        database.execute("INSERT INTO unnamed (key, value) VALUES (?, ?)", row)
"""
_MENDED_ROW: Final = """
import pickle, sqlite3
with sqlite3.connect("/data/orders.db", timeout=30) as database:
    row = (pickle.dumps(["new", "paid"], protocol=4), "/odd/tags")
    database.execute("UPDATE unnamed SET value = ? WHERE key = ?", row)
"""


def opened(shop: Shop, **volume: Any) -> None:
    """Two pods, of which one will fail; both have records."""
    shop.replicas = 2
    shop.volume(FAILING, **volume)
    shop.open(in_parallel, seed=200)


@contextmanager
def others_untouched(shop: Shop) -> Iterator[Writer]:
    """Pod 0 is written to all the time; as long as this lasts it is neither restarted nor converted."""
    writer = Writer(shop, 0)
    writer.start()
    eventually(lambda: len(writer.acknowledged) >= 5, "pod 0 is written to")
    uid = shop.uid(0)
    try:
        yield writer
        written = len(writer.acknowledged)
        eventually(lambda: len(writer.acknowledged) > written, "pod 0 is still written to")
        assert shop.uid(0) == uid
        assert shop.ask(0, "GET", "/healthz") == (200, {"format": OLD})
    finally:
        writer.stop()
    assert writer.lost() == []


def degraded(shop: Shop, reason: str, *says: str) -> Mapping[str, Any]:
    """Wait until StorageFormat and FormatState tell it, in words that a person understands."""

    def told() -> Mapping[str, Any] | None:
        condition = shop.condition("Degraded")
        if condition.get("status") != "True" or f"orders-1: {reason}: " not in condition["message"]:
            return None
        return condition if all(one in condition["message"] for one in says) else None

    condition: Mapping[str, Any] = eventually(told, f"Degraded because of {reason}, says {says}")
    assert condition["reason"] == "FailureBudgetSpent"
    state = shop.state(FAILING)
    assert state["reason"] == reason
    assert all(one in state["message"] for one in says)
    assert shop.status()["failed"] == 1
    assert shop.condition("Ready")["status"] == "False"
    assert shop.condition("Ready")["reason"] == "Failed"
    return condition


def told_as_event(shop: Shop, *says: str) -> bool:
    """Whether ``kubectl describe sf orders`` says it."""
    events = shop.cluster.client.list(shop.path("api/v1", "events"))
    ours = [one["message"] for one in events if one["involvedObject"]["kind"] == "StorageFormat"]
    return any(all(word in message for word in says) for message in ours)


def restarted(shop: Shop) -> str:
    """Restart the failing pod as somebody would; its new UID."""
    before = shop.uid(FAILING)
    shop.cluster.delete_pod(shop.namespace, f"orders-{FAILING}", grace_seconds=1)
    return str(
        eventually(lambda: shop.uid(FAILING) not in {"", before} and shop.uid(FAILING), "a new pod")
    )


def gate_closed(shop: Shop) -> bool:
    """Whether the failing pod waits: its sidecar says so, and its app has not been started."""
    return shop.state(FAILING).get("gate") == "Closed" and not shop.app_started(FAILING)


def converted(shop: Shop, before: list[dict[str, Any]]) -> None:
    """Everybody is ready in the new format, with the records of before."""
    shop.wait_until_ready()
    assert shop.condition("Degraded")["status"] == "False"
    after = [shop.summary(ordinal) for ordinal in range(2)]
    assert {one["format"] for one in after} == {NEW}
    assert after[FAILING] == before[FAILING] | {"format": NEW}
    assert after[0]["count"] >= before[0]["count"]


def fill(where: Path, leave: int) -> Path:
    """Fill the file system, and leave that many bytes of it."""
    filler = where / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while file.write(bytes(size)):
                    os.fsync(file.fileno())
        file.truncate(max(0, file.tell() - leave))
        os.fsync(file.fileno())
    return filler


def test_full_volume(shop: Shop) -> None:
    """A volume without a free byte does not even take the permit, and that is told before any pod is touched.
    With a little room the pod is restarted, fails, and the app goes on with the old data (`StartApp`) or waits
    (`Block`). Once there is room, the rollout goes on by itself."""
    opened(shop, filesystem_mib=20)
    before = [shop.summary(ordinal) for ordinal in range(2)]
    volume = shop.volumes[FAILING].path
    uid = shop.uid(FAILING)
    with others_untouched(shop):
        fill(volume, leave=0)
        shop.apply(shop.storage_format(spec__onFailure="StartApp"))
        degraded(shop, "OutOfSpace", "the permit", "No space left on device", "Free space")
        assert shop.uid(FAILING) == uid
        assert shop.summary(FAILING) == before[FAILING]

        # Room for the permit, and nothing else is done by anybody: the pod is armed, restarted, and refuses.
        fill(volume, leave=100_000)
        degraded(shop, "InsufficientSpace", "MB are free on its volume", "Free or add")
        assert shop.uid(FAILING) != uid
        assert shop.summary(FAILING) == before[FAILING]  # StartApp: the old data is served

        shop.patch({"onFailure": "Block"})
        restarted(shop)
        eventually(lambda: gate_closed(shop), "the gate is closed")
        degraded(shop, "InsufficientSpace", "MB are free on its volume", "Free or add")
        assert gate_closed(shop)
    uid = shop.uid(FAILING)
    fill(volume, leave=100_000).unlink()
    converted(shop, before)
    assert shop.uid(FAILING) == uid  # it went on where it waited


def test_rows_that_the_target_cannot_hold(shop: Shop) -> None:
    """A set and an object of the app's own class: the row is named, the app goes on with the old data. Under
    `StartApp` a row that is mended is seen at the next restart, which names the next one; with `Block` the pod
    goes on by itself when the last one is mended."""
    opened(shop)
    cluster = shop.cluster
    in_app = (shop.namespace, f"orders-{FAILING}", "app", "python", "-c")
    cluster.exec(*in_app, _ODD_ROWS)
    with others_untouched(shop):
        shop.apply(shop.storage_format(spec__onFailure="StartApp"))
        degraded(shop, "UnconvertibleValue", "/odd/")
        assert shop.order(FAILING, SEEDED)[0] == 200
        assert shop.ask(FAILING, "GET", "/healthz") == (200, {"format": OLD})
        assert shop.ask(FAILING, "PUT", "/orders/later", {"id": 1})[0] == 201

        cluster.exec(*in_app, _MENDED_ROW)
        shop.patch({"onFailure": "Block"})
        restarted(shop)
        eventually(lambda: gate_closed(shop), "the gate is closed")
        degraded(shop, "UnconvertibleValue", "/odd/basket", "shop.models")
        assert gate_closed(shop)
    # The row is mended while its pod waits: by somebody who has the volume.
    path = shop.volumes[FAILING].path / "orders.db"
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM unnamed WHERE key = '/odd/basket'")
    database.close()
    shop.wait_until_ready()
    assert shop.order(FAILING, "/odd/tags") == (200, ["new", "paid"])
    assert shop.order(FAILING, "/later") == (200, {"id": 1})
    assert shop.order(FAILING, "/odd/basket")[0] == 404
    after = [shop.summary(ordinal) for ordinal in range(2)]
    assert {one["format"] for one in after} == {NEW}
    assert after[FAILING]["count"] == 202


def test_file_of_another_user(shop: Shop) -> None:
    """A database that somebody copied back as another user: refused before a byte is written, with what to set.
    The app, which may write to it, goes on; with `Block` it waits until the file has its owner again."""
    opened(shop)
    before = [shop.summary(ordinal) for ordinal in range(2)]
    database = shop.volumes[FAILING].path / "orders.db"
    os.chown(database, 4321, 4321)
    database.chmod(0o666)
    content = database.read_bytes()
    with others_untouched(shop):
        shop.apply(shop.storage_format(spec__onFailure="StartApp"))
        says = ("owned by 4321", "runs as 10001", "Set runAsUser: 4321 on the sidecar")
        degraded(shop, "WrongUser", *says)
        eventually(lambda: told_as_event(shop, "WrongUser", *says), "an event tells it")
        described = ("describe", "pod", f"orders-{FAILING}", "-n", shop.namespace)
        told = shop.cluster.kubectl(*described).stdout
        assert "ConversionRefused" in told
        assert "WrongUser" in told
        assert shop.summary(FAILING) == before[FAILING]
        assert database.read_bytes() == content

        shop.patch({"onFailure": "Block"})
        restarted(shop)
        eventually(lambda: gate_closed(shop), "the gate is closed")
        degraded(shop, "WrongUser", *says)
        assert gate_closed(shop)
        assert database.read_bytes() == content
    os.chown(database, UID, UID)
    converted(shop, before)


def test_mended_under_start_app(shop: Shop) -> None:
    """With `StartApp` nobody restarts an app that works: once it is mended, the next restart of the pod converts
    it, and with it the rollout goes on. A failure budget lets the others go on before."""
    opened(shop)
    before = [shop.summary(ordinal) for ordinal in range(2)]
    database = shop.volumes[FAILING].path / "orders.db"
    os.link(
        database, database.with_name("copy.db")
    )  # two names of one file: a swap would part them
    shop.apply(shop.storage_format(spec__onFailure="StartApp", spec__rollout={"failureBudget": 1}))
    shop.wait_for_phase(0, "Converted")
    eventually(lambda: shop.summary(0)["format"] == NEW, "pod 0 is in the new format")
    condition = eventually(
        lambda: (
            shop.condition("Degraded").get("reason") == "WithinFailureBudget"
            and shop.condition("Degraded")
        ),
        "one may fail",
    )
    assert "ExtraHardLinks" in condition["message"]
    assert condition["status"] == "False"
    assert shop.condition("Ready")["status"] == "False"
    assert shop.summary(FAILING) == before[FAILING]
    database.with_name("copy.db").unlink()
    restarted(shop)
    converted(shop, before)
    states = shop.cluster.client.list(shop.path(f"apis/{API_VERSION}", "formatstates"))
    assert {one["status"]["phase"] for one in states} == {"Converted"}
