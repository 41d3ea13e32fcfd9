"""What every refusal has in common: its error, its words, and that nothing was touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from format_store import Format, plan
from format_store.errors import StoreError
from tests.support.trees import unchanged

DRIVER = Path(__file__).parents[1] / "crash" / "driver.py"
HIERARCHICAL = Format.sqlitedict(key_encoding="hierarchical")


def traces(database: Path, *, built: bool = False) -> set[str]:
    """What a refusal may leave beside the database: the lock, and no more than its directories.

    ``built``: it came to light while the staging copy was being written, which is gone again.
    """
    state = f".{database.name}.storageformat"
    return {state, f"{state}/lock"} | ({f"{state}/work"} if built else set())


@contextmanager
def refused(
    database: Path,
    kind: type[StoreError],
    *says: str,
    code: int = 3,
    built: bool = False,
    besides: Collection[str] = (),
) -> Iterator[None]:
    """The body raises exactly ``kind``; its message holds all of ``says``; the directory is as it was."""
    allowed = traces(database, built=built) | set(besides)
    with unchanged(database.parent, besides=allowed), pytest.raises(StoreError) as caught:
        yield
    error = caught.value
    assert type(error) is kind, error
    assert error.exit_code == code
    assert error.hint
    for words in says:
        assert words in str(error)


def require_plan_refuses(
    database: Path,
    kind: type[StoreError],
    *,
    target: Format = HIERARCHICAL,
    besides: Collection[str] = (),
    **options: Any,
) -> None:
    """``plan`` foretells the refusal and leaves no trace at all, not even a lock."""
    with unchanged(database.parent, besides=besides):
        planned = plan(database, target, **options)
    assert planned.action == "refuse"
    assert planned.refusal is not None
    assert type(planned.refusal) is kind
    assert planned.refusal.hint


def require_process_refuses(
    arguments: Sequence[str],
    kind: type[StoreError],
    *says: str,
    code: int = 3,
    prefix: Sequence[str] = (),
    program: Sequence[str] = (str(DRIVER),),
) -> None:
    """The same of a process: its exit code, and the error that it prints."""
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", *program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    assert printed["reason"] == kind.__name__, printed
    assert printed["hint"]
    for words in says:
        assert words in printed["message"]
