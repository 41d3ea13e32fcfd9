"""The app's next release: opens its database in whatever format it is, and lists directories from it.

Reads the path of a directory per line, answers with a line of JSON, ends with its input.
"""

from __future__ import annotations

import json
import sys

from format_store import open_store


def main(path: str) -> None:
    with open_store(path, "entries") as entries, open_store(path, "directories") as directories:
        for line in sys.stdin:
            directory = line.rstrip("\n")
            answer = {
                "format": str(entries.format),
                "directory": directories[directory],
                "children": [
                    [key, record["kind"], record["size"]]
                    for key, record in entries.children(directory)
                ],
            }
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
