"""What the tests of a whole worker set up, and what they look at."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import format_store
from format_operator.api.models import StorageFormat
from format_store import Format
from tests.sidecar.conftest import RECORDS
from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod, Process, eventually
from tests.support.objects import storageformat

V2 = Format.sqlitedict(key_encoding="hierarchical", value_codec="msgpack", compression="zstd")
STATE = "orders.orders-0"
ON_RESTART = {"strategy": "OnRestart"}


def wanted(pod: Pod, **changes: Any) -> dict[str, Any]:
    defaults = {"spec__database__path": str(pod.database), "spec__rollout": ON_RESTART}
    return storageformat(**(defaults | changes))


def rolling(pod: Pod, **changes: Any) -> dict[str, Any]:
    return wanted(pod, **({"spec__rollout": {"strategy": "RollingRestart"}} | changes))


def hash_of(body: dict[str, Any]) -> str:
    return StorageFormat.from_object(body).spec.target_hash()


def in_minutes(minutes: float) -> str:
    moment = datetime.now(UTC) + timedelta(minutes=minutes)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def format_of(path: Path) -> Format | None:
    return format_store.inspect(path).format


def assert_converted(path: Path) -> None:
    """In the target format, with every record, in the order in which the app wrote them."""
    assert format_of(path) == V2
    with format_store.open_store(path, flag="r") as store:
        assert dict(store.items()) == RECORDS
        assert list(store.keys()) == list(RECORDS)


def assert_untouched(path: Path) -> None:
    assert format_of(path) is None
    with closing(sqlite3.connect(path)) as connection:
        count = connection.execute("SELECT count(*) FROM unnamed").fetchone()[0]
    assert count == len(RECORDS)


def phase(api: FakeApi, expected: str, name: str = STATE) -> dict[str, Any]:
    """The status once it says that phase."""
    eventually(lambda: api.status(name).get("phase") == expected)
    return api.status(name)


@contextmanager
def environ(**variables: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def paused_worker(pod: Pod, place: str) -> Process:
    with environ(PAUSE_AT=place):
        return pod.worker(driver="tests.sidecar.driver")


def go_on(pod: Pod) -> None:
    (pod.folder / "go").touch()
