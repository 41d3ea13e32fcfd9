"""Filesystems of the kernel's on images in memory, by loop devices that are let go of with their last user.

A loop device here has no owner but the mount (LO_FLAGS_AUTOCLEAR): whatever happens to the process, it goes when
the mount does, and the mount goes with its namespace. Needs root, and a mount namespace of one's own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from tests.proof.recorded_device import Entry, entries
from tests.support.interpreter import environment

ROOT = Path(__file__).parents[2]
BLOCK = 4096
MEMORY = Path("/dev/shm")
#: Offset to content; what is not in it is zeroes.
Blocks = dict[int, bytes]
_ZEROES = bytes(BLOCK)

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_AUTOCLEAR = 4
_BTRFS_FORGET = 0x50009405
_TOOLS = ("nbdkit", "nbdfuse", "setpriv", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs")
HOW = (
    "as root, with loop devices and /dev/fuse:"
    " apt-get install nbdkit nbdkit-plugin-python libnbd-bin e2fsprogs xfsprogs btrfs-progs"
)
#: Mounts, processes and memory of its own, that end with it, as it does with whoever started it.
_APART = (
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
    "sh", "-c", f'mount -t tmpfs tmpfs {MEMORY} && exec "$0" "$@"',
)  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


class CannotMount(OSError):
    """The kernel does not take what is on the device for a filesystem."""


@dataclass(frozen=True)
class Kind:
    """A filesystem, how it is made and mounted.

    ``superblocks``: where. They are written in place, with a checksum, and never torn by what is made here: their
    filesystem could not be mounted.
    """

    name: str
    type: str
    make: Sequence[str]
    megabytes: int
    options: str = ""
    superblocks: frozenset[int] = frozenset({0})


_EXT4 = ("mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard")
KINDS = (
    Kind("ext4", "ext4", _EXT4, 64, "data=ordered"),
    # As weak as it gets: no order between data and journal, and no writing out before a rename.
    Kind("ext4 data=writeback", "ext4", _EXT4, 64, "data=writeback,noauto_da_alloc"),
    Kind("xfs", "xfs", ("mkfs.xfs", "-q", "-K"), 300),
    Kind("btrfs", "btrfs", ("mkfs.btrfs", "-q", "-K"), 128, "", frozenset({64 << 10, 64 << 20})),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@cache
def available() -> bool:
    """Whether each of the filesystems can be had here, on a recorded device."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in _TOOLS):
        return False
    try:
        run_apart(__name__)
    except AssertionError:
        return False
    return True


def run_apart(module: str, *arguments: str) -> str:
    """What a module prints that is run as a program, apart from all others."""
    done = subprocess.run(
        [*_APART, sys.executable, "-m", module, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{module} ended with {done.returncode}"
    return done.stdout


# --- images ---------------------------------------------------------------------------------------------------


def blocks_of(image: Path) -> Blocks:
    """All that is not zeroes."""
    found = {}
    with open(image, "rb", buffering=0) as file:
        end, position = image.stat().st_size, 0
        while position < end:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            hole = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            while position < hole:
                block = os.pread(file.fileno(), BLOCK, position)
                if block != _ZEROES:
                    found[position] = block
                position += BLOCK
    return found


def put(image: Path, blocks: Mapping[int, bytes]) -> None:
    """Make the image be that, and keep its size."""
    size = image.stat().st_size
    with open(image, "r+b", buffering=0) as file:
        file.truncate(0)
        file.truncate(size)
        for offset, block in blocks.items():
            os.pwrite(file.fileno(), block, offset)


def apply(blocks: Blocks, offset: int, data: bytes) -> None:
    """One write, wherever it begins and ends."""
    while data:
        start = offset % BLOCK
        part = data[: BLOCK - start]
        whole = part
        if len(part) < BLOCK:
            old = blocks.get(offset - start, _ZEROES)
            whole = old[:start] + part + old[start + len(part) :]
        blocks[offset - start] = whole
        offset, data = offset + len(part), data[len(part) :]


def make(kind: Kind, image: Path) -> None:
    with open(image, "wb") as file:
        file.truncate(kind.megabytes << 20)
    subprocess.run([*kind.make, str(image)], check=True, stdout=subprocess.DEVNULL)


# --- mounts ---------------------------------------------------------------------------------------------------


def _loop(file: int) -> tuple[str, int]:
    """A loop device on an open file, and the descriptor that keeps it until it is mounted."""
    # struct loop_config, with the flags in its struct loop_info64 (linux/loop.h).
    config = struct.pack("=II52xI240x", file, 512, _LO_FLAGS_AUTOCLEAR)
    with open("/dev/loop-control", "rb", buffering=0) as control:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else was quicker
                    raise
            else:
                return path, device


def _checked(result: int, what: str, error: type[OSError] = OSError) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise error(number, f"{what}: {os.strerror(number)}")


@contextmanager
def mounted(kind: Kind, image: Path, where: Path) -> Iterator[Path]:
    """Mounted by a loop device of its own, so that nothing is cached of what was there before."""
    with open(image, "r+b", buffering=0) as file:
        path, device = _loop(file.fileno())
    try:
        if kind.type == "btrfs":
            _forget_btrfs()
        _checked(
            _libc.mount(
                path.encode(), os.fsencode(where), kind.type.encode(), 0, kind.options.encode()
            ),
            f"mount {kind.name}",
            CannotMount,
        )
    finally:
        os.close(device)
    try:
        yield where
    finally:
        _checked(_libc.umount2(os.fsencode(where), 0), f"unmount {kind.name}")


def _forget_btrfs() -> None:
    """It remembers devices, and refuses one that is older than another with the same identity."""
    with open("/dev/btrfs-control", "r+b", buffering=0) as control:
        fcntl.ioctl(control, _BTRFS_FORGET, bytearray(BLOCK))


# --- the recorder ---------------------------------------------------------------------------------------------


class Recorder:
    """Shows an image as the file ``device``, and notes what is done to it. A context manager."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.device = folder / "device"
        self.log = folder / "log"
        self.failure = folder / "failure"
        self._image = image

    def __enter__(self) -> Self:
        self.log.unlink(missing_ok=True)
        self.failure.unlink(missing_ok=True)
        self.device.touch()
        plugin = Path(__file__).with_name("recorded_device.py")
        errors = self.device.with_name("errors")  # also those that it was told to make
        with open(errors, "wb") as stream:
            self._process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "nbdfuse", str(self.device), "--command",
                "nbdkit", "-s", "--exit-with-parent", "python", str(plugin),
                f"image={self._image}", f"log={self.log}", f"failure={self.failure}",
            ], stderr=stream,
        )  # fmt: skip
        while not os.path.ismount(self.device):
            assert self._process.poll() is None, errors.read_text()
            time.sleep(0.002)
        return self

    def __exit__(self, *_: object) -> None:
        _checked(_libc.umount2(os.fsencode(self.device), 0), "unmount the recorder")
        self._process.wait()

    def length(self) -> int:
        """How many entries there are so far."""
        return sum(1 for _ in self.entries())

    def entries(self) -> Iterator[Entry]:
        return entries(self.log)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        image, mount = Path(name, "image"), Path(name, "mount")
        mount.mkdir()
        for kind in KINDS:
            make(kind, image)
            with Recorder(image, Path(name)) as recorder, mounted(kind, recorder.device, mount):
                assert recorder.length() > 0


if __name__ == "__main__":
    main()
