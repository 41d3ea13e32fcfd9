"""What errors at system calls found (``tests/proof/errors.py``), each a test that lied or crashed before it was mended."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from format_store import (
    Format,
    Outcome,
    convert,
    durable,
    errors,
    history,
    recover,
)
from tests.crash.aftermath import HIERARCHICAL, require_intact
from tests.support.databases import format_on_disk, leftovers, records_on_disk, sample, write_plain

RECORDS = sample(12)
TARGET = Format.from_spec(HIERARCHICAL)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders.db"
    write_plain(path, RECORDS)
    return path


def failing(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    when: Callable[..., bool],
    number: int = errno.EIO,
) -> None:
    """Let ``module.name`` raise an OSError for the arguments that ``when`` says, once."""
    real = getattr(module, name)
    done: list[None] = []

    def fail(*arguments: Any, **options: Any) -> Any:
        if not done and when(*arguments):
            done.append(None)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, fail)


def leads_to(descriptor: int, name: str) -> bool:
    return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) == name


@pytest.mark.parametrize("name", ["lock", "orders.db"])
def test_a_lock_or_lease_that_does_not_close(
    database: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its close fails: nothing was written through it, and the conversion is told as done."""
    real = os.close

    def close(descriptor: int) -> None:
        reading = leads_to(descriptor, name)
        real(descriptor)
        if reading:
            raise OSError(errno.EIO, "close failed")

    monkeypatch.setattr("format_store.durable.os.close", close)
    if name == "lock":
        assert convert(database, TARGET).outcome is Outcome.CONVERTED
    else:
        from format_store import lease

        lease.take(database, operation="test").release()
    monkeypatch.undo()
    assert require_intact(database, RECORDS, HIERARCHICAL) == ("new" if name == "lock" else "old")
