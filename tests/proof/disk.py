"""A state of the model put into a real directory, so that the real recovery can run on it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.proof.filesystem import State
from tests.proof.recording import Recording


def materialise(state: State, recording: Recording, root: Path) -> None:
    """Build the state below ``root``, which is empty.

    Inode numbers cannot be chosen, and manifests tell files by them: they are rewritten to what the same
    file's number is here. Times of modification are put as they were noted.
    """
    root.chmod(0o755)
    made: dict[int, Path] = {}
    manifests = []
    for name, inode in state.names:
        path = root / name
        if inode not in state.contents:
            path.mkdir(mode=0o700)
        elif inode in made:
            os.link(made[inode], path)
        else:
            made[inode] = path
            path.write_bytes(state.contents[inode])
            known, time = recording.after.times.get(inode, (None, 0))
            if known == state.contents[inode]:
                os.utime(path, ns=(time, time))
            if name.endswith("/manifest.json"):
                manifests.append(path)
    before = {number: inode for inode, number in recording.before.numbers.items()}
    after = {number: inode for inode, number in recording.after.numbers.items()}
    for path in manifests:
        _renumber(path, made, {"source": after | before, "staging": before | after})


def _renumber(path: Path, made: Mapping[int, Path], known: Mapping[str, Mapping[int, int]]) -> None:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        return  # torn: recovery has to say so
    for field, inodes in known.items():
        noted = document.get(field)
        if noted is None:
            continue
        inode = inodes.get(noted["inode"], 0)
        # A file that has no name in this state has no number either.
        noted["inode"] = made[inode].stat().st_ino if inode in made else 0
    facts = path.stat()
    path.write_text(json.dumps(document))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
