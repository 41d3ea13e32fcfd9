"""The pages for developers of applications: their programs run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import format_store
from format_store import Format, Observer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "open-store.md").read_text()
PLUGINS = (ROOT / "docs" / "plugins.md").read_text()

_MARK = "--- end of a block ---"


def programs(text: str) -> list[tuple[str, str]]:
    """Every program of the page, with the output that the page shows below it."""
    found = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, re.DOTALL)
    return [(code, output) for code, output in found]


def test_the_page_runs_as_printed(tmp_path: Path) -> None:
    """From top to bottom in an empty directory, with the output shown below each program."""
    blocks = programs(PAGE)
    assert len(blocks) >= 7
    assert all(output for _, output in blocks)
    whole = "\n".join(f"{code}\nprint({_MARK!r})" for code, _ in blocks)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", whole],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    *shown, rest = done.stdout.split(f"{_MARK}\n")
    assert rest == ""
    assert shown == [output for _, output in blocks]


def test_what_it_names_exists() -> None:
    """Names imported, methods of an observer, and the words of formats in its table are those of the code."""
    imported = re.findall(r"^from format_store import (.*)$", PAGE, re.MULTILINE)
    names = {name.strip() for line in imported for name in line.split(",")}
    assert names <= set(format_store.__all__)
    (listed,) = re.findall(r"An `Observer` has (.*?); override", PAGE)
    assert set(re.findall(r"`(\w+)`", listed)) == {
        name for name in vars(Observer) if not name.startswith("_")
    }
    table = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert {spec for _, spec, _ in table} == set(Format.sqlitedict().parameters)
    for python, spec, words in table:
        if spec != "tables":
            for word in re.findall(r"`([\w-]+)`", words):
                options: dict[str, Any] = {python: word}
                assert Format.sqlitedict(**options).parameters[spec] == word


def test_the_plugins_page_runs(tmp_path: Path) -> None:
    """The few lines that run the suite are a test file that passes, over the example's codec."""
    ((code, _),) = programs(PLUGINS)
    (tmp_path / "test_mine.py").write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    paths = [str(ROOT / "examples" / "plugin" / "src"), str(ROOT / "store")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            "-p",
            "no:kmock",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(paths), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert re.search(r"\d+ passed", done.stdout)


def test_the_plugins_page_names_what_there_is() -> None:
    """Its modules, interfaces and entry point groups exist; its table has every class of the suite."""
    from importlib import import_module

    from format_store import testing
    from format_store.codecs import registry as codecs
    from format_store.engines import registry as engines
    from format_store.keys import ENTRY_POINT_GROUP

    groups = {
        codecs.CODECS_GROUP,
        codecs.COMPRESSIONS_GROUP,
        ENTRY_POINT_GROUP,
        engines.ENTRY_POINT_GROUP,
    }
    assert set(re.findall(r"^\| `(storageformat\.\w+)`", PLUGINS, re.MULTILINE)) == groups
    assert set(re.findall(r"^\| `(\w+Conformance)`", PLUGINS, re.MULTILINE)) == set(testing.__all__)
    for dotted in re.findall(r"`(format_store\.[\w.]+[A-Z]\w+)`", PLUGINS):
        module, _, name = dotted.rpartition(".")
        assert hasattr(import_module(module), name), dotted
    for module, names in re.findall(
        r"^- `(format_store\.\w+(?:\.\w+)?)`: (.*)$", PLUGINS, re.MULTILINE
    ):
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(import_module(module), name) or (module, name) == (
                "format_store.codecs",
                "jobs",
            ), name
