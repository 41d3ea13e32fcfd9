"""``python -m dashboard FILE``: write the dashboard; with ``--check`` only say whether it is current."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dashboard import dashboard


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboard")
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    options = parser.parse_args(arguments)
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if options.file.exists() and options.file.read_text(encoding="utf-8") == text:
        return 0
    if options.check:
        sys.stderr.write(f"{options.file} is stale: run python -m dashboard {options.file}\n")
        return 1
    options.file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
