"""What the tests of the sidecar share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlitedict import SqliteDict

from tests.sidecar.fake_api import FakeApi
from tests.sidecar.pods import Pod

RECORDS = {f"/index/{number:04}": {"size": number, "tags": ["a", "b"]} for number in range(500)}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    server = FakeApi()
    yield server
    server.close()


@pytest.fixture
def pod(api: FakeApi, tmp_path: Path) -> Iterator[Pod]:
    """A pod with a plain sqlitedict database, as an ordinary app leaves it."""
    made = Pod(tmp_path, api.url)
    fill(made.database)
    yield made
    made.close()


def fill(path: Path) -> None:
    with SqliteDict(os.fspath(path), outer_stack=False) as database:
        database.update(RECORDS)
        database.commit()
