"""Other processes that have a database open, or try to write to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("ready", flush=True)
sys.stdin.read()
"""
_TRY = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    sys.exit(75 if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY else 1)
connection.execute("ROLLBACK")
"""
READ_ONCE = "SELECT * FROM unnamed LIMIT 1"


@contextmanager
def opened(database: Path, *statements: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ran the statements on one connection, and keeps that open while the body runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(database), *(statements or (READ_ONCE,))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.communicate()


def kill_writer(database: Path, *statements: str) -> None:
    """A process that ran the statements and was killed: what it left is left."""
    with opened(database, *statements) as process:
        process.kill()


def can_write(database: Path) -> bool:
    """Whether another process gets SQLite's write lock right now."""
    done = subprocess.run([sys.executable, "-c", _TRY, str(database)], check=False)
    assert done.returncode in (0, 75)
    return done.returncode == 0
