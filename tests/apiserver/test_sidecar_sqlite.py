"""Formats with a `sqlite` part on a real API server: real processes run the migrations, and take them back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from controlplane import ControlPlane
from tests.apiserver.sidecars import (
    RECORDS,
    STATE,
    Cluster,
    eventually,
    exit_of,
    hash_of,
    kept_as_it_is,
    wanted,
)
from tests.sidecar.pods import Pod
from tests.support.databases import leftovers, records_on_disk
from tests.support.objects import ABSENT

ORDERS = [(1, "tea"), (2, "coffee"), (5, "milk")]
CUSTOMERS: dict[str, Any] = {
    "number": 1,
    "name": "add-customers",
    "sql": (
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;\n"
        "ALTER TABLE orders ADD COLUMN customer INTEGER REFERENCES customers;\n"
    ),
    "down": "ALTER TABLE orders DROP COLUMN customer;\nDROP TABLE customers;",
    "checks": ["SELECT count(*) = 0 FROM customers", "SELECT count(*) > 0 FROM orders"],
}
V1 = {"name": "v1", "sqlite": {}}
V2 = {"name": "v2", "sqlite": {"pageSize": 8192, "migrations": [CUSTOMERS]}}


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(control_plane, namespace, tmp_path) as cluster:
        yield cluster


def pod_with_orders(cluster: Cluster) -> Pod:
    """A pod whose database sqlitedict has never seen."""
    pod = cluster.pod()
    pod.database.unlink()
    with closing(sqlite3.connect(pod.database)) as connection, connection:
        connection.execute("PRAGMA page_size=4096")
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT)")
        connection.executemany("INSERT INTO orders VALUES (?, ?)", ORDERS)
    return pod


def of_sqlite(pod: Pod, *formats: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A StorageFormat that leaves ``unmarked`` out; the target is the format called v2."""
    defaults: dict[str, Any] = {"spec__formats": [*formats], "spec__unmarked": ABSENT}
    return wanted(pod, **(defaults | changes))


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def columns(path: Path, table: str) -> list[str]:
    return [name for (name,) in ask(path, f"SELECT name FROM pragma_table_info('{table}')")]


def test_there_and_back(cluster: Cluster) -> None:
    """A plain SQLite file gets its table and its pages, and by `down` goes back with what was written since."""
    pod = pod_with_orders(cluster)
    body = of_sqlite(pod, V1, V2)
    arguments = ("apply", "--server-side", "-n", cluster.namespace, "-f", "-")
    cluster.plane.kubectl(*arguments, stdin=json.dumps(body))
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert columns(pod.database, "customers") == ["id", "name"]
    assert ask(pod.database, "PRAGMA page_size") == [(8192,)]
    assert ask(pod.database, "SELECT id, what, customer FROM orders") == [
        (number, what, None) for number, what in ORDERS
    ]
    status = cluster.reports(phase="Converted", gate="Open", currentFormat="v2")
    assert status["targetHash"] == hash_of(body)
    assert (status["lastConversion"]["from"], status["lastConversion"]["to"]) == ("v1", "v2")
    info = 'storageformat_database_format_info{compression="",engine="sqlite",format="v2",key_encoding="",value_codec=""}'
    assert sidecar.metrics()[info] == 1

    eventually(sidecar.is_watching)
    cluster.change(target="v1")
    cluster.reports(phase="RestartRequired", currentFormat="v2", targetFormat="v1")
    with closing(sqlite3.connect(pod.database)) as connection, connection:
        connection.execute("INSERT INTO customers VALUES (1, 'Ada')")
        connection.execute("INSERT INTO orders VALUES (9, 'sugar', 1)")
    assert sidecar.terminate() == 0
    cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert columns(pod.database, "customers") == []
    assert ask(pod.database, "SELECT * FROM orders") == [*ORDERS, (9, "sugar")]
    assert leftovers(pod.database) == []
    status = cluster.reports(phase="Converted", gate="Open", currentFormat="v1")
    assert (status["lastConversion"]["from"], status["lastConversion"]["to"]) == ("v2", "v1")


def test_sixty_four_large_migrations(cluster: Cluster) -> None:
    """As many as one format may have, 4 KB each: applied server-side, run by the sidecar, taken back."""
    pod = pod_with_orders(cluster)
    comment = "-- " + "x" * 4000 + "\n"
    many = [
        {
            "number": number,
            "sql": f"{comment}CREATE TABLE t{number} (id INTEGER PRIMARY KEY)",
            "down": f"DROP TABLE t{number}",
        }
        for number in range(1, 65)
    ]
    body = of_sqlite(pod, V1, {"name": "v2", "sqlite": {"migrations": many}})
    arguments = ("apply", "--server-side", "-n", cluster.namespace, "-f", "-")
    cluster.plane.kubectl(*arguments, stdin=json.dumps(body))
    tables = "SELECT count(*) FROM sqlite_schema WHERE name GLOB 't[0-9]*'"
    for target, expected in (("v2", 64), ("v1", 0)):
        cluster.change(target=target)
        sidecar = cluster.sidecar(pod)
        assert exit_of(pod.gate()) == 0
        assert ask(pod.database, tables) == [(expected,)]
        cluster.reports(phase="Converted", gate="Open", currentFormat=target)
        assert sidecar.terminate() == 0


WRONG = [
    pytest.param({"sql": "INSERT INTO nowhere VALUES (1)"}, "nowhere", id="statement"),
    pytest.param({"checks": ["SELECT count(*) = 7 FROM orders"]}, "count(*) = 7", id="check"),
]


@pytest.mark.parametrize(("mistake", "says"), WRONG)
def test_a_wrong_migration_holds_the_gate(
    cluster: Cluster, mistake: dict[str, Any], says: str
) -> None:
    """The gate stays closed, the state says which migration and why; mended in the object, it goes through."""
    pod = pod_with_orders(cluster)
    before = kept_as_it_is(pod.database)
    wrong = {"name": "v2", "sqlite": {"migrations": [CUSTOMERS | mistake]}}
    cluster.create(of_sqlite(pod, V1, wrong))
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    status = cluster.reports(phase="Refused", reason="MigrationFailed", gate="Closed")
    assert "migration 1 (add-customers)" in status["message"]
    assert says in status["message"]
    assert (status["currentFormat"], status["targetFormat"]) == ("v1", "v2")
    assert status["lastConversion"]["result"] == "refused"
    assert kept_as_it_is(pod.database) == before
    assert leftovers(pod.database) == []
    assert gate.is_running
    eventually(sidecar.is_watching)
    cluster.change(formats=[V1, V2])
    assert exit_of(gate) == 0
    assert columns(pod.database, "customers") == ["id", "name"]
    cluster.reports(phase="Converted", gate="Open", currentFormat="v2")


def test_the_app_starts_without_a_wrong_migration(cluster: Cluster) -> None:
    """With onFailure: StartApp the gate opens on the database as it was, and the state says what failed."""
    pod = pod_with_orders(cluster)
    before = kept_as_it_is(pod.database)
    wrong = {"name": "v2", "sqlite": {"migrations": [CUSTOMERS | {"sql": "DROP TABLE nowhere"}]}}
    cluster.create(of_sqlite(pod, V1, wrong, spec__onFailure="StartApp"))
    cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    status = cluster.reports(phase="Refused", reason="MigrationFailed", gate="Open")
    assert "no such table: nowhere" in status["message"]
    assert status["currentFormat"] == "v1"
    assert kept_as_it_is(pod.database) == before


def test_both_parts_of_one_file(cluster: Cluster) -> None:
    """sqlitedict's records and a table of the app's own are converted by one swap, and told by both labels."""
    pod = cluster.pod()
    migration = {"number": 7, "sql": "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)"}
    target = {
        "name": "v2",
        "sqlitedict": {"keyEncoding": "hierarchical", "valueCodec": "msgpack"},
        "sqlite": {"journalMode": "wal", "migrations": [migration]},
    }
    cluster.create(of_sqlite(pod, {"name": "v1", "sqlitedict": {}}, target))
    sidecar = cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert ask(pod.database, "PRAGMA journal_mode") == [("wal",)]
    assert columns(pod.database, "notes") == ["id", "text"]
    assert records_on_disk(pod.database) == RECORDS
    status = cluster.reports(STATE, phase="Converted", gate="Open", currentFormat="v2")
    assert (status["lastConversion"]["from"], status["lastConversion"]["to"]) == ("v1", "v2")
    labels = (
        'compression="none",engine="sqlite",format="v2",key_encoding="hierarchical",'
        'value_codec="msgpack"'
    )
    assert sidecar.metrics()[f"storageformat_database_format_info{{{labels}}}"] == 1


def mounted(folder: Path, files: dict[str, str]) -> Path:
    """A folder as the kubelet mounts a ConfigMap: links to links to a directory with a time for its name."""
    data = folder / "..2026_01_31_12_00_00.1"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name, text in files.items():
        (data / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def test_migrations_of_a_mounted_configmap(cluster: Cluster) -> None:
    """The folder's migrations are run up to the format's number; without the folder nothing is touched."""
    pod = pod_with_orders(cluster)
    before = kept_as_it_is(pod.database)
    folder = pod.folder / "migrations"
    target = {"name": "v2", "sqlite": {"migrationsFrom": {"folder": str(folder), "upTo": 1}}}
    cluster.create(of_sqlite(pod, V1, target))
    sidecar, gate = cluster.sidecar(pod), pod.gate()
    status = cluster.reports(phase="Refused", reason="InvalidStorageFormat", gate="Closed")
    assert str(folder) in status["message"]
    assert kept_as_it_is(pod.database) == before
    assert sidecar.terminate() == 0
    gate.close()

    files = {"0001_add-customers.sql": CUSTOMERS["sql"], "0002_more.sql": "CREATE TABLE more (x)"}
    mounted(folder, files)
    cluster.sidecar(pod)
    assert exit_of(pod.gate()) == 0
    assert columns(pod.database, "customers") == ["id", "name"]
    assert columns(pod.database, "more") == []
    cluster.reports(phase="Converted", gate="Open", currentFormat="v2")
