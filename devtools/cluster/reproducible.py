"""Builds the product's image twice from nothing and compares the two, file by file.

The same commit, base and lock file have to give the same image, whoever builds it and when: only then does a signature say more
than "somebody with the key built something". What has to be given is the time that all files get.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cluster import images, machine

#: Owner, mode, time, and what is in it: a digest, or where a link points to.
Facts = tuple[int, int, int, int, str]
_NAME: Final = "localhost/storageformat-operator-reproducible"
_SHOWN: Final = 20


def main() -> int:
    """Say whether they are the same; 1 where they are not. Raises ClusterError."""
    machine.require()
    tags = [f"{_NAME}:{name}" for name in ("one", "other")]
    try:
        return _compared(*tags)
    finally:
        # Nobody wants them any more, and the storage has a limit beyond which all of it goes.
        for tag in tags:
            with suppress(subprocess.CalledProcessError):
                _buildah("rmi", tag)


def _compared(*tags: str) -> int:
    epoch = _committed_at()
    for tag in tags:
        images.build(tag, "--no-cache", f"--timestamp={epoch}")
    one, other = map(image_id, tags)
    if one == other:
        print(f"reproducible: both are {one}")
        return 0
    different = list(differences(*tags))
    print(f"reproducible: {one} is not {other}; {len(different)} files differ")
    print("\n".join(different[:_SHOWN]))
    return 1


def image_id(tag: str) -> str:
    """The digest of an image's configuration, which holds those of its layers."""
    return str(json.loads(_buildah("inspect", "--type=image", tag))["FromImageID"])


def differences(one: str, other: str) -> Iterator[str]:
    """The files that are not the same in two images, and how."""
    with _mounted(one) as left, _mounted(other) as right:
        mine, theirs = contents(left), contents(right)
    for path in sorted(mine.keys() | theirs.keys()):
        if mine.get(path) != theirs.get(path):
            yield f"{path}: {mine.get(path)} and {theirs.get(path)}"


def contents(root: Path) -> dict[str, Facts]:
    """Every file below ``root`` by its path."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            at = os.lstat(path)
            inside = ""
            if stat.S_ISREG(at.st_mode):
                inside = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(at.st_mode):
                inside = os.readlink(path)
            facts = (at.st_mode, at.st_uid, at.st_gid, int(at.st_mtime), inside)
            found[os.path.relpath(path, root)] = facts
    return found


@contextmanager
def _mounted(tag: str) -> Iterator[Path]:
    container = _buildah("from", tag)
    try:
        yield Path(_buildah("mount", container))
    finally:
        _buildah("rm", container)


def _committed_at() -> int:
    command = ["git", "-C", str(images.ROOT), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _buildah(*arguments: str) -> str:
    command = [*images.buildah(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
