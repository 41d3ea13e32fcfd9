"""Everything that the store loads on first use, loaded now: before a process becomes somebody who cannot read it.

The interpreter and the checkout may lie where only root reaches them.
"""

from __future__ import annotations

import importlib
import pkgutil

import format_store

_OF_THE_STANDARD_LIBRARY = (
    "encodings.ascii",
    "encodings.idna",
    "hashlib",
    "json",
    "shutil",
    "stringprep",
)


def everything() -> None:
    for name in _OF_THE_STANDARD_LIBRARY:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(format_store.__path__, "format_store."):
        if not module.name.startswith("format_store.testing"):  # programs are among them
            importlib.import_module(module.name)
