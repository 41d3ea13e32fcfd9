"""Runs of the crash tests' driver in one traced process, each announced by a system call.

    traced.py WORDS…

WORDS: the driver's arguments of one run, as JSON. The exit code is the first that is not 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

# Loaded before the first mark: how Python finds its modules is of no interest.
import format_store.recovery  # noqa: F401
from tests.crash import driver

MARK = "/storageformat-test-begins-here"


def main(runs: Sequence[str]) -> int:
    for number, words in enumerate(runs):
        os.access(f"{MARK}/{number}", os.F_OK)
        code = driver.main(json.loads(words))
        if code:
            return code
    os.access(f"{MARK}/{len(runs)}", os.F_OK)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
