"""examples/orders: its manifests, and its app as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import pytest
import yaml

from format_operator.api.models import StorageFormat
from format_operator.api.names import READS_ANNOTATION
from format_operator.snippet import SnippetOptions, snippet
from format_store import Format, convert, inspect
from format_store.layout import Layout
from tests.chart.helm import ROOT

EXAMPLE = ROOT / "examples" / "orders"
V1 = Format.sqlitedict()
V2 = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
PATIENCE_SECONDS = 60


class App:
    """The app on a port of its own."""

    def __init__(self, database: Path, *arguments: str) -> None:
        paths = [str(ROOT / "store"), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-O", str(EXAMPLE / "app.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "DATABASE": str(database),
                "PORT": "0",
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            },
        )
        self.said: list[str] = []
        self.port = self._wait_until_it_serves()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def put(self, key: str, value: Any) -> int:
        return self.ask("PUT", f"/orders{key}", json.dumps(value).encode())[0]

    def get(self, key: str) -> tuple[int, Any]:
        return self.ask("GET", f"/orders{key}")

    @property
    def summary(self) -> dict[str, Any]:
        status, summary = self.ask("GET", "/orders")
        assert status == 200
        return {key: summary[key] for key in ("count", "digest")}

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert err == ""
        self.said += out.splitlines()
        return self.process.returncode

    def _wait_until_it_serves(self) -> int:
        out: IO[str] | None = self.process.stdout
        assert out is not None
        for line in out:
            self.said.append(line.rstrip())
            if match := re.match(r"serving on port (\d+)", line):
                return int(match[1])
        raise AssertionError(self.process.communicate()[1])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


def manifests() -> Iterator[dict[str, Any]]:
    for name in ("service.yaml", "statefulset.yaml", "storageformat.yaml"):
        yield from yaml.safe_load_all((EXAMPLE / name).read_text())


def statefulset() -> dict[str, Any]:
    (found,) = (one for one in manifests() if one["kind"] == "StatefulSet")
    return found


def test_the_snippet_is_what_render_prints() -> None:
    """The StatefulSet has the two containers and volumes of the command that its first lines name."""
    spec = statefulset()["spec"]["template"]["spec"]
    expected = snippet(
        SnippetOptions(
            spec["containers"][0]["image"], {"orders": "/data/orders.db"}, run_as_user=10001
        )
    )
    assert spec["initContainers"] == expected["initContainers"]
    assert spec["volumes"][:2] == expected["volumes"]


def test_the_manifests_fit_together() -> None:
    """Labels, path, formats, uid, version: each says the same wherever it stands."""
    workload = statefulset()
    template = workload["spec"]["template"]
    (wanted,) = (
        StorageFormat.from_object(one, strict=True)
        for one in manifests()
        if one["kind"] == "StorageFormat"
    )
    assert wanted.spec.selector.match_labels == template["metadata"]["labels"]
    names = template["metadata"]["annotations"][READS_ANNOTATION].split(",")
    assert names == [one.name for one in wanted.spec.formats]
    app = template["spec"]["containers"][0]
    environment = {one["name"]: one["value"] for one in app["env"]}
    assert environment["DATABASE"] == wanted.spec.database.path
    assert Format.from_spec(wanted.spec.target_format.to_spec()) == V2
    assert template["spec"]["securityContext"]["runAsUser"] == 10001
    assert template["spec"]["automountServiceAccountToken"] is False
    (images,) = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())["images"]
    assert app["image"] == f"{images['name']}:{images['newTag']}"
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{images["newTag"]}"' in project


def test_orders_are_put_and_got(database: Path) -> None:
    """What was put is got, by key and by range, and a new process has it."""
    with App(database) as app:
        assert app.ask("GET", "/healthz")[0] == 200
        assert app.summary["count"] == 0
        assert app.put("/eu/berlin/17", {"amount": 12, "name": "Ä"}) == 201
        assert app.put("/eu/berlin/18", [1, None, 2.5]) == 201
        assert app.put("/us/reno/1", "text") == 201
        assert app.put("/eu/berlin/17", {"amount": 13}) == 201
        assert app.get("/eu/berlin/17") == (200, {"amount": 13})
        assert app.get("/eu/berlin/19")[0] == 404
        _, listed = app.ask("GET", "/orders?start=/eu/berlin/18&end=/eu/berlin/19")
        assert listed == {"orders": [["/eu/berlin/18", [1, None, 2.5]]]}
        assert app.ask("GET", "/orders?start=/eu&limit=1")[1]["orders"][0][0] == "/eu/berlin/17"
        before = app.summary
        assert before["count"] == 3
        assert app.end() == 0
        assert app.said[-1] == "closed"
    with App(database) as app:
        assert app.summary == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/orders/x", b"{", 400),
        ("PUT", "/orders/x", b"NaN", 400),
        ("PUT", "/orders/x", b"[" * 100_000, 400),
        ("PUT", "/orders", b"1", 404),
        ("PUT", "/elsewhere/x", b"1", 404),
        ("GET", "/elsewhere", None, 404),
        ("GET", "/orders?limit=x", None, 400),
    ],
)
def test_nonsense_is_refused(
    database: Path, method: str, path: str, body: bytes | None, status: int
) -> None:
    """A request that makes no sense changes nothing, and the app goes on."""
    with App(database) as app:
        assert app.ask(method, path, body)[0] == status
        assert app.put("/a", 1) == 201
        assert app.summary["count"] == 1
        assert app.end() == 0


def test_a_body_that_is_too_long_is_not_read(database: Path) -> None:
    """The length that is announced is enough to refuse it."""
    with App(database) as app:
        connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=PATIENCE_SECONDS)
        connection.putrequest("PUT", "/orders/x")
        connection.putheader("Content-Length", str((1 << 20) + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
        assert app.end() == 0


def test_what_cannot_be_stored_is_not_acknowledged(database: Path) -> None:
    """A value that the format has no bytes for is refused, and the next one is stored."""
    database.touch()
    convert(database, V2)
    with App(database) as app:
        status, answer = app.ask("PUT", "/orders/x", b"18446744073709551616000")
        assert (status, "not stored" in answer["error"]) == (503, True)
        assert app.get("/x")[0] == 404
        assert app.put("/x", 1) == 201


def test_acknowledged_orders_survive_sigkill(database: Path) -> None:
    """Four clients write until the process is killed: whatever was answered 201 is there afterwards."""
    acknowledged: list[list[int]] = [[] for _ in range(4)]
    enough = threading.Event()

    def write(app: App, client: int) -> None:
        for number in range(100_000):
            try:
                if app.put(f"/c{client}/{number}", {"n": number}) == 201:
                    acknowledged[client].append(number)
            except (OSError, http.client.HTTPException, ValueError):
                return
            if len(acknowledged[client]) >= 20:
                enough.set()

    with App(database) as app:
        threads = [
            threading.Thread(target=write, args=(app, client), daemon=True) for client in range(4)
        ]
        for thread in threads:
            thread.start()
        assert enough.wait(PATIENCE_SECONDS)
        app.process.kill()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()
    assert sum(map(len, acknowledged)) >= 20
    with App(database) as app:
        for client, numbers in enumerate(acknowledged):
            for number in numbers:
                assert app.get(f"/c{client}/{number}") == (200, {"n": number})


def test_it_runs_before_and_after_a_conversion(database: Path) -> None:
    """The same app reads and writes both formats; the digest is of the records, not of their bytes."""
    with App(database, "--fill", "500") as app:
        assert app.put("/extra", {"a": [1, 2]}) == 201
        before = app.summary
        assert app.end() == 0
    assert before["count"] == 501
    convert(database, V2)
    with App(database) as app:
        assert app.ask("GET", "/healthz")[1]["format"] == str(V2)
        assert app.summary == before
        assert app.put("/eu/berlin/new", 1) == 201
        _, listed = app.ask("GET", "/orders?start=/eu/berlin/new&end=/eu/berlin/nex")
        assert listed == {"orders": [["/eu/berlin/new", 1]]}
        assert app.end() == 0
    convert(database, V1)
    with App(database) as app:
        assert app.summary["count"] == 502
        assert app.get("/eu/berlin/new") == (200, 1)
        assert app.end() == 0
    assert inspect(database).format == V1
    assert not list(Layout.of(database).state.glob("work/*"))


def test_a_database_is_filled_once_and_the_same_everywhere(database: Path, tmp_path: Path) -> None:
    """Two volumes get the same records; one that has any is left alone."""
    summaries = []
    for path in (database, tmp_path / "other.db"):
        with App(path, "--fill", "300") as app:
            summaries.append(app.summary)
            assert app.said[0] == "filled with 300 records"
            assert app.end() == 0
    assert summaries[0] == summaries[1]
    assert summaries[0]["count"] == 300
    with App(database, "--fill", "400") as app:
        assert app.summary == summaries[0]
        assert app.said[0].startswith("serving")
