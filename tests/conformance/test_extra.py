"""The suite is an extra: what it needs is loaded by those who run it, and missed in words."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("missing", ["hypothesis", "pytest"])
def test_what_is_missing_is_named_with_its_extra(missing: str) -> None:
    """Without the extra, importing the suite says what to install."""
    done = python(f"import sys; sys.modules[{missing!r}] = None; import format_store.testing")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        f"ImportError: format_store.testing needs {missing}, which the extra 'testing' brings: "
        "pip install 'storageformat-operator[testing]'"
    )


def test_the_store_does_not_load_it() -> None:
    """Nothing of the store imports the suite, pytest or hypothesis."""
    done = python(
        "import sys, format_store; [getattr(format_store, name) for name in format_store.__all__]; "
        "print({'pytest', 'hypothesis', 'format_store.testing'} & set(sys.modules))"
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
