"""``python -m pluginarchive DIRECTORY``: the kubectl plugin as one archive, and the manifest by which krew installs it.

The program is a zip file that Python runs (``zipapp``): ``format_operator.kubectl``, the API package and PyYAML, all of
it plain Python, so that one archive serves every Linux and macOS with Python 3.11 or later. There is none for Windows:
krew links an ``.exe`` there, and a zip file is none.

The same sources make the same bytes, so that whoever builds it again can compare (as long as zlib compresses alike).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
NAME: Final = "storageformat"
PROGRAM: Final = f"kubectl-{NAME}"
COMPLETION: Final = f"kubectl_complete-{NAME}"
#: What the plugin imports of us; its import-linter contract says that it is no more.
_PACKAGES: Final = ("format_operator/api", "format_operator/kubectl")
_SHEBANG: Final = b"#!/usr/bin/env python3\n"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MAIN: Final = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("error: kubectl-storageformat needs Python 3.11 or later, and python3 is %d.%d" % sys.version_info[:2])
if "kubectl_complete-" in sys.argv[0]:
    from format_operator.kubectl.complete import main
else:
    from format_operator.kubectl.app import main
sys.exit(main())
"""
_DESCRIPTION: Final = """\
Shows which pods convert the on-disk format of their embedded database, how far they are, what they wait for and why;
pauses, resumes and undoes a rollout; asks running pods what a conversion would do; lists backups; merges logs;
collects a support bundle without data in it. Needs Python 3.11 or later as python3, and storageformat-operator in
the cluster.
"""
_CAVEATS: Final = f"""\
For shell completion, give the program its second name somewhere on your PATH:

  ln -s "$(command -v {PROGRAM})" ~/.local/bin/{COMPLETION}
"""


def program() -> bytes:
    """The zip file that Python runs."""
    content = io.BytesIO(_SHEBANG)
    content.seek(0, io.SEEK_END)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(_files()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    return content.getvalue()


def _files() -> Iterator[tuple[str, bytes]]:
    source = ROOT / "operator"
    yield "__main__.py", _MAIN.encode()
    yield "format_operator/__init__.py", (source / "format_operator/__init__.py").read_bytes()
    for package in _PACKAGES:
        for path in (source / package).glob("*.py"):
            yield f"{package}/{path.name}", path.read_bytes()
    found = util.find_spec("yaml")
    assert found is not None
    assert found.origin is not None
    for path in Path(found.origin).parent.glob("*.py"):
        yield f"yaml/{path.name}", path.read_bytes()
    for file in metadata.files("PyYAML") or ():
        if file.name == "LICENSE":
            yield "yaml/LICENSE", Path(str(file.locate())).read_bytes()


def archive() -> bytes:
    """What krew unpacks: the program, and the licence."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as packed:
        for name, mode, data in (
            ("LICENSE", 0o644, (ROOT / "LICENSE").read_bytes()),
            (PROGRAM, 0o755, program()),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), mode, 0
            packed.addfile(info, io.BytesIO(data))
    return gzip.compress(content.getvalue(), mtime=0)


def manifest(version: str, uri: str, content: bytes) -> dict[str, Any]:
    """krew's manifest (``krew.googlecontainertools.github.com/v1alpha2``) for that archive."""
    systems = {"key": "os", "operator": "In", "values": ["darwin", "linux"]}
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": NAME},
        "spec": {
            "version": f"v{version}",
            "shortDescription": "Look at format conversions of embedded databases, and steer them",
            "description": _DESCRIPTION,
            "caveats": _CAVEATS,
            "platforms": [
                {
                    "selector": {"matchExpressions": [systems]},
                    "uri": uri,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "files": [{"from": PROGRAM, "to": "."}, {"from": "LICENSE", "to": "."}],
                    "bin": PROGRAM,
                }
            ],
        },
    }


def write(directory: Path, uri: str) -> list[Path]:
    """Archive, manifest and the bare program in a directory; ``{file}`` in ``uri`` is the archive's name."""
    sys.path.insert(0, str(ROOT / "operator"))
    from format_operator import __version__

    directory.mkdir(parents=True, exist_ok=True)
    content = archive()
    packed = directory / f"{PROGRAM}-{__version__}.tar.gz"
    packed.write_bytes(content)
    described = directory / f"{NAME}.yaml"
    body = manifest(__version__, uri.replace("{file}", packed.name), content)
    described.write_text(yaml.safe_dump(body, sort_keys=False, width=120), encoding="utf-8")
    bare = directory / PROGRAM
    bare.write_bytes(program())
    bare.chmod(0o755)
    return [packed, described, bare]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pluginarchive", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--uri",
        required=True,
        help="where the archive of the release will be fetched from; {file} stands for its name",
    )
    options = parser.parse_args(arguments)
    for path in write(options.directory, options.uri):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
