"""Bytecode for the image: of the standard library and of all that is installed in the environment.

Images of Python come without the standard library's bytecode, or with that of another optimisation
level, and a container with a read-only root can never write it: each start would compile anew, which
takes three times as long as the start itself. It is put below PYTHONPYCACHEPREFIX, where neither the
base's folders nor the environment's are touched. Run under the interpreter and the optimisation level
of the image: ``PYTHONOPTIMIZE=1 PYTHONPYCACHEPREFIX=… python precompile.py PACKAGE…``. The packages
are imported first, ours with all their modules: that shows that the image has what they need.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import py_compile
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: Not for servers: teaching, windows, packaging; and test suites, wherever they are.
_LEFT_OUT = {
    *("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tests", "tkinter", "turtledemo"),
    *("dist-packages", "site-packages"),
}
#: A client class and a model for each kind of Kubernetes, loaded when asked for: 50 MB of bytecode.
#: Of these packages, what has been loaded by now is compiled.
_AS_LOADED = {"kubernetes"}


def main(packages: list[str]) -> int:
    sys.dont_write_bytecode = True  # an import would write it too, but with a check of times
    for package in packages:
        for name in _modules_of(package):
            importlib.import_module(name)
    for source in sorted(set(_sources())):
        if Path(importlib.util.cache_from_source(str(source))).exists():
            continue  # of an earlier layer
        # The image's files never change, and its builder may give them any time: no check of that.
        py_compile.compile(
            str(source),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    return 0


def _sources() -> Iterator[Path]:
    yield from _below(Path(sysconfig.get_path("stdlib")), _LEFT_OUT)
    yield from _below(Path(sysconfig.get_path("purelib")), _AS_LOADED | {"test", "tests"})
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _AS_LOADED and (file := getattr(module, "__file__", None)):
            yield Path(file)


def _below(folder: Path, left_out: set[str]) -> Iterator[Path]:
    for path in folder.rglob("*.py"):
        if not left_out.intersection(path.relative_to(folder).parts):
            yield path


def _modules_of(package: str) -> Iterator[str]:
    yield package
    found = importlib.import_module(package)
    if package.partition(".")[0] in _AS_LOADED:
        return
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        # The conformance suite is for authors of plug-ins, who have what it needs.
        if not module.name.endswith("__main__") and ".testing" not in module.name:
            yield module.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
