"""An application that opens its database, writes one record and says whether that was acknowledged.

    opener.py PATH [--wal] [--hold]

Prints ``acknowledged`` after its COMMIT, or ``refused: …``. With ``--hold`` it prints ``open`` first and waits
for a line on its standard input before it writes.
"""

from __future__ import annotations

import pickle
import sqlite3
import sys
from contextlib import closing

KEY = "/opener"
VALUE = {"written": "by the opener"}


def main() -> None:
    path, *flags = sys.argv[1:]
    try:
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if "--hold" in flags:
                print("open", flush=True)
                sys.stdin.readline()
            with connection:
                connection.execute(
                    "INSERT INTO unnamed (key, value) VALUES (?, ?)", (KEY, pickle.dumps(VALUE))
                )
            print("acknowledged", flush=True)
    except sqlite3.Error as error:
        print(f"refused: {error}", flush=True)


if __name__ == "__main__":
    main()
