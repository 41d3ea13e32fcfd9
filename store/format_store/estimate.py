"""How long a conversion may take, from a few tenths of a second of measuring this volume and this data.

An estimate, and said to be one: what is measured is the reading, hashing and writing of a sample of the
file's bytes, SQLite's handling of a sample of the rows, and the look at every value that a plan takes anyway.
A rehearsal measures the whole.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from format_store import durable, sqlitefile
from format_store.engines.base import Survey
from format_store.run import Run
from format_store.sqlitefile import quote_name

_CHUNK = 1 << 20
_READ_BYTES = 32 << 20
_WRITE_BYTES = 16 << 20
_SAMPLE_ROWS = 20_000
_SAMPLE_PAGES = 8192
#: How often the handling of a row is as dear as putting it into a table in memory: once into the copy, once
#: into its index, once compared. And decoded: once for the copy and once more for its verification.
_TIMES_HANDLED = 3
_TIMES_DECODED = 2
#: What a conversion of one row takes: opening, locking, some fifteen fsyncs of names.
_FIXED_SECONDS = 0.1


@dataclass(frozen=True)
class Estimate:
    """``seconds``: of the whole conversion. The rates are bytes per second, ``write_rate`` None where the
    volume could not be measured without leaving a trace; ``row_seconds`` per row.
    """

    seconds: float
    read_rate: float
    write_rate: float | None
    row_seconds: float
    decode_seconds: float

    @property
    def basis(self) -> str:
        """What it was made of, in words."""
        writing = (
            "writing was not measured"
            if self.write_rate is None
            else f"written at {self.write_rate / 1e6:,.0f} MB/s"
        )
        return (
            f"read and hashed at {self.read_rate / 1e6:,.0f} MB/s, {writing}, "
            f"{self.row_seconds * 1e6:,.1f} µs a row, every key and value looked at in {self.decode_seconds:,.1f} s"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 2),
            "readBytesPerSecond": round(self.read_rate),
            "writeBytesPerSecond": None if self.write_rate is None else round(self.write_rate),
            "secondsPerRow": self.row_seconds,
            "decodeSeconds": round(self.decode_seconds, 3),
            "basis": self.basis,
        }


def estimate(run: Run, survey: Survey, decode_seconds: float) -> Estimate:
    """``decode_seconds``: what decoding every value took just now. Raises OSError, StoreError kinds."""
    row_seconds = _row_seconds(run, survey)
    # After the connection is closed: closing a descriptor of ours would drop its locks.
    size, read_rate, write_rate = _volume(run)
    seconds = (
        _FIXED_SECONDS
        + (size + survey.staging_bytes) / read_rate
        + (0.0 if write_rate is None else survey.staging_bytes / write_rate)
        + survey.rows * row_seconds * _TIMES_HANDLED
        + decode_seconds * _TIMES_DECODED
    )
    return Estimate(seconds, read_rate, write_rate, row_seconds, decode_seconds)


def _row_seconds(run: Run, survey: Survey) -> float:
    """Seconds per row to copy the first rows of each table into a table in memory; 0 if they are too large.

    Where values are that large, a row's own cost is nothing beside its bytes'.
    """
    rows, begun, spent = 0, 0.0, 0.0
    with (
        sqlitefile.sqlite_errors("plan", run.primary),
        closing(sqlitefile.connect(run.primary)) as connection,
        run.abort.connection(connection),
    ):
        connection.execute("ATTACH DATABASE ':memory:' AS sample")
        connection.execute(f"PRAGMA sample.max_page_count = {_SAMPLE_PAGES}")
        for name, count in survey.tables:
            if not count:
                continue
            begun = time.perf_counter()
            rows_of = f"SELECT * FROM main.{quote_name(name)} LIMIT {_SAMPLE_ROWS}"  # noqa: S608 - quoted
            try:
                connection.execute(f"CREATE TABLE sample.rows AS {rows_of}")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
                return 0.0
            spent += time.perf_counter() - begun
            rows += min(count, _SAMPLE_ROWS)
            connection.execute("DROP TABLE sample.rows")
    return spent / rows if rows else 0.0


def _volume(run: Run) -> tuple[int, float, float | None]:
    """The file's size, and how fast it is read (and hashed) and its like written, in bytes per second."""
    descriptor = os.open(run.primary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        step = max(_CHUNK, size // (_READ_BYTES // _CHUNK))
        hasher, taken, sample = hashlib.sha256(), 0, b""
        begun = time.perf_counter()
        for offset in range(0, size, step):
            run.check_abort("plan")
            chunk = os.pread(descriptor, _CHUNK, offset)
            hasher.update(chunk)
            taken += len(chunk)
            sample = sample or chunk
        spent = time.perf_counter() - begun
    finally:
        os.close(descriptor)
    if not taken:
        return size, 1e9, None
    repeats = max(1, min(_WRITE_BYTES, size) // len(sample))
    writing = durable.measure_writing(run.layout.parent, sample, repeats)
    written = len(sample) * repeats
    return size, taken / spent, None if writing is None else written / writing
