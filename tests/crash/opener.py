"""An application that opens its database, writes one record and says whether that was acknowledged.

    opener.py PATH [--hold] [--either] [--read] [--journal=MODE]

Prints ``acknowledged`` after its COMMIT, or ``refused: …``. With ``--hold`` it prints ``open`` first and waits
for a line on its standard input before it writes. ``--either``: it knows both key encodings, as an application does that is
made for the change. ``--read``: it writes nothing; ``acknowledged`` has the number of records behind it.
"""

from __future__ import annotations

import pickle
import sqlite3
import sys
from contextlib import closing

KEY = "/opener"
STORED = b"\0\1\xffopener"
VALUE = {"written": "by the opener"}


def main() -> None:
    path, *flags = sys.argv[1:]
    try:
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            for flag in flags:
                if flag.startswith("--journal="):
                    connection.execute(f"PRAGMA journal_mode={flag.partition('=')[2]}").fetchall()
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if "--hold" in flags:
                print("open", flush=True)
                sys.stdin.readline()
            if "--read" in flags:
                count = len(connection.execute("SELECT * FROM unnamed").fetchall())
                print(f"acknowledged {count}", flush=True)
                return
            try:
                write(connection, KEY)
            except sqlite3.IntegrityError:
                if "--either" not in flags:
                    raise
                write(connection, STORED)
            print("acknowledged", flush=True)
    except sqlite3.Error as error:
        print(f"refused: {error}", flush=True)


def write(connection: sqlite3.Connection, key: str | bytes) -> None:
    with connection:
        connection.execute(
            "INSERT INTO unnamed (key, value) VALUES (?, ?)", (key, pickle.dumps(VALUE))
        )


if __name__ == "__main__":
    main()
