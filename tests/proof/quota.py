"""Quotas: conversions on a btrfs subvolume that may hold so many bytes (EDQUOT, where a full volume says ENOSPC).

Of the filesystems with quotas it is the one whose quotas are in every kernel that has it. As root, in a mount
namespace of its own; what is judged, and how, is that of ``disk_full``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

from format_store import Format, convert, preflight
from tests.proof.disk_full import SPECS, Case, apart, content, forked, lost, pristine

#: Bytes between two quotas that are tried: btrfs gives space by the 4 KiB, and takes 16 for what it notes.
STEP: Final = 2048
#: Where, of ``everything``, the copy just fits and the files that SQLite needs to read it do not.
EDGE: Final = range(479232, 491520, 512)
_IMAGE_BYTES: Final = 256 << 20


def available() -> bool:
    """Whether a btrfs can be made and mounted here."""
    if os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None:
        return False
    filesystems = Path("/proc/filesystems").read_text()
    return "btrfs" in filesystems and Path("/dev/loop-control").exists()


def play(step: int) -> tuple[Counter[str], list[str]]:
    """Every quota from where the file itself just fits to where everything does: what was said, and what was lost."""
    return _played(step)


def at_the_edge() -> tuple[Counter[str], list[str]]:
    """The same for the quotas of ``EDGE``."""
    return _played(EDGE.step, "everything", EDGE.start, EDGE.stop)


def _played(*arguments: object) -> tuple[Counter[str], list[str]]:
    said: Counter[str] = Counter()
    problems = []
    for one in map(json.loads, apart("tests.proof.quota", *arguments).splitlines()):
        said[one["said"]] += 1
        if one["lost"]:
            problems.append(
                f"{one['spec']} with {one['quota']} bytes: {one['said']}: {one['lost']}"
            )
    return said, problems


def main(folder: str, step: int, only: str = "", start: int = 0, stop: int = 0) -> None:
    image, volume = Path(folder, "image"), Path(folder, "volume")
    with open(image, "wb") as file:
        file.truncate(_IMAGE_BYTES)
    volume.mkdir()
    source = pristine(Path(folder))
    before = content(source)
    preflight.require_space = lambda *_: None
    _do("mkfs.btrfs", "--quiet", image)
    _do("mount", "-o", "loop", image, volume)
    try:
        _do("btrfs", "quota", "enable", volume)
        size = source.stat().st_size
        for spec in [only] if only else SPECS:
            for quota in range(start or size + 16384, stop or 4 * size, step):
                subvolume = volume / f"{spec}-{quota}"
                _do("btrfs", "subvolume", "create", subvolume)
                path = subvolume / source.name
                shutil.copyfile(source, path)
                _do("btrfs", "filesystem", "sync", volume)  # what waits to be written counts, too
                # By number and from without: at its limit, a subvolume may not even note another limit.
                group = f"0/{_do('btrfs', 'inspect-internal', 'rootid', subvolume).strip()}"
                _do("btrfs", "qgroup", "limit", str(quota), group, volume)
                target = Format.from_spec(SPECS[spec])
                said = forked(partial(_converted, path, target))
                _do("btrfs", "qgroup", "limit", "none", group, volume)
                problem = lost(Case(spec, ""), path, said, target, before)
                found = {"spec": spec, "quota": quota, "said": said, "lost": problem}
                print(json.dumps(found), flush=True)
                _do("btrfs", "subvolume", "delete", subvolume)
    finally:
        _do("umount", volume)


def _converted(path: Path, target: Format) -> str:
    return str(convert(path, target).outcome)


def _do(*command: str | Path) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:4]), *map(int, sys.argv[4:]))
