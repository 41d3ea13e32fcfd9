"""Writes the table of values in a chart's README from the comments in its values.yaml.

``python -m chartdocs charts/storageformat-operator`` writes it, ``--check`` says whether it is current. The table stands
between two marks in README.md; what is around them is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

BEGIN = "<!-- values: made from values.yaml by `python -m chartdocs`; change it there -->\n"
END = "<!-- end of values -->\n"
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z][\w.-]*):")


def documented(text: str) -> Iterator[tuple[str, str]]:
    """Path and comment of each key that has one, in the file's order."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
        elif match := _KEY.match(line):
            path = [*path[: len(match["indent"]) // 2], match["key"]]
            if comment:
                yield ".".join(path), " ".join(comment)
            comment = []
        else:
            comment = []


def undocumented(text: str) -> list[str]:
    """Values that no comment explains, nor one of a key above them."""
    known = [path for path, _ in documented(text)]
    return [
        path
        for path in _leaves(yaml.safe_load(text))
        if not any(path == one or path.startswith(f"{one}.") for one in known)
    ]


def table(text: str) -> str:
    """The values as a Markdown table."""
    values = yaml.safe_load(text)
    lines = ["| value | meaning | default |", "|---|---|---|"]
    for path, comment in documented(text):
        default = json.dumps(_at(values, path), ensure_ascii=False).replace("|", "\\|")
        lines.append(f"| `{path}` | {comment.replace('|', chr(92) + '|')} | `{default}` |")
    return "\n".join(lines) + "\n"


def readme(chart: Path) -> str:
    """The README as it should be. Raises ValueError when it has no place for the table."""
    text = (chart / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{chart / 'README.md'} has no place for the values: {BEGIN}…{END}")
    values = (chart / "values.yaml").read_text(encoding="utf-8")
    return f"{before}{begin}\n{table(values)}\n{end}{after}"


def _leaves(value: Any, at: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{at}.{key}" if at else key)
    else:
        yield at


def _at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chartdocs")
    parser.add_argument("chart", type=Path)
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    options = parser.parse_args(arguments)
    path = options.chart / "README.md"
    text = readme(options.chart)
    if path.read_text(encoding="utf-8") == text:
        return 0
    if options.check:
        sys.stderr.write(f"{path} is stale: run python -m chartdocs {options.chart}\n")
        return 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
