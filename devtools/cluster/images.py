"""The images that go into a cluster, as archives in the user's cache.

There is no registry here, so nothing is pulled: the base is a small Debian made by debootstrap, the
product's image is built from the Dockerfile on top of that, and the pause image is one C program.
An archive is named for a hash of all that went into it, so what has not changed is not made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import folders, machine
from cluster.components import PAUSE
from cluster.errors import ClusterError

ROOT = Path(__file__).parents[2]
#: What the product's image is called in a cluster. The tag does not say which: the archive does.
PRODUCT = "localhost/storageformat-operator:dev"

_RELEASE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
_BASE_NAME = f"localhost/python-{_RELEASE}"
#: All that the Dockerfile copies, and what decides what that is.
_INPUTS = (
    *("Dockerfile", ".dockerignore", "pyproject.toml", "uv.lock", "README.md", "LICENSE"),
    *("operator", "store", "devtools/image"),
)
#: What the Dockerfile takes from the environment of whoever builds: see there.
_PASSED_ON = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_CERT"),
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INSECURE_HOST", "SSL_CERT_FILE"),
)
#: Configuration and certificates of this machine that a build step needs to find a package index.
_MOUNTED = (
    *("/etc/ssl/certs", "/etc/pip.conf", "/etc/uv/uv.toml"),
    *("/usr/local/share/ca-certificates", "/etc/pki/ca-trust"),
)
_KEPT_ARCHIVES = 4
_STORAGE_LIMIT_GIB = 6


def pause() -> Path:
    """The archive of the image that holds a pod's namespaces. Raises ClusterError."""
    source = Path(__file__).with_name("pause.c")
    target = _archive("pause", [source.read_bytes()])
    with _making(target) as needed:
        if needed:
            _make_pause(source, target)
    return target


def product() -> Path:
    """The archive of the image that the Dockerfile makes of this checkout. Raises ClusterError."""
    parts = [_base_recipe().encode()]
    for path in _files():
        parts += [str(path.relative_to(ROOT)).encode(), path.read_bytes()]
    target = _archive("storageformat-operator", parts)
    with _making(target) as needed:
        if needed:
            _make_product(target)
    return target


def base() -> str:
    """The name of the base image in our storage, made if it is not there. Raises ClusterError."""
    name = f"{_BASE_NAME}:{hashlib.sha256(_base_recipe().encode()).hexdigest()[:12]}"
    if _buildah("inspect", "--type=image", name, check=False) is None:
        _make_base(name)
    return name


def buildah() -> list[str]:
    """buildah with our own storage: what to write before its arguments."""
    storage = folders.images() / "storage"
    return [machine.program("buildah"), f"--root={storage}/root", f"--runroot={storage}/run"]


# --- making -------------------------------------------------------------------------------------


def _make_base(name: str) -> None:
    # Without one, debootstrap takes Debian's own.
    mirror = os.environ.get("STORAGEFORMAT_DEBIAN_MIRROR")
    _say(f"making a base image of Debian {_RELEASE} once for this machine (a minute or two)")
    with tempfile.TemporaryDirectory(prefix="storageformat-base-", dir=folders.images()) as work:
        root = Path(work) / "root"
        packages = f"--include={','.join(_PACKAGES)}"
        debootstrap = [machine.program("debootstrap"), "--variant=minbase", packages]
        _run([*debootstrap, _RELEASE, str(root), *([mirror] if mirror else [])])
        for left_over in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
            shutil.rmtree(root / left_over)
            (root / left_over).mkdir()
        with _container("scratch") as container:
            _buildah("add", "--quiet", container, str(root), "/")
            _buildah("commit", "--quiet", container, name)


def build(tag: str, *options: str) -> None:
    """Build the Dockerfile on our base, and call it ``tag`` in our storage. Raises ClusterError."""
    name = base()
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    # chroot: a build step needs no container of its own, and many machines would not allow it one.
    command = ["bud", "--isolation=chroot", "--quiet", f"--tag={tag}", *options]
    command += [f"--build-arg=BASE={name}", f"--build-arg=VERSION={version}"]
    command += [f"--build-arg={one}={os.environ[one]}" for one in _PASSED_ON if one in os.environ]
    command += [f"--volume={one}:{one}:ro" for one in _MOUNTED if Path(one).exists()]
    _buildah(*command, str(ROOT))


def _make_product(target: Path) -> None:
    _limit_storage()
    _say("building the image of this checkout")
    build(PRODUCT, "--layers")
    _push(PRODUCT, target, PRODUCT)


def _make_pause(source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="storageformat-pause-") as work:
        program = Path(work) / "pause"
        _run([machine.program("gcc"), "-Os", "-static", "-s", "-o", str(program), str(source)])
        with _container("scratch") as container:
            _buildah("add", "--quiet", container, str(program), "/pause")
            _buildah("config", '--entrypoint=["/pause"]', "--user=65535:65535", container)
            _buildah("commit", "--quiet", container, PAUSE)
    _push(PAUSE, target, PAUSE)


def _push(image: str, target: Path, name: str) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _buildah("push", "--quiet", image, f"docker-archive:{temporary}:{name}")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _container(image: str) -> Iterator[str]:
    name = (_buildah("from", image) or "").strip()
    try:
        yield name
    finally:
        _buildah("rm", name)


# --- keeping ------------------------------------------------------------------------------------


def _files() -> list[Path]:
    found: list[Path] = []
    for name in _INPUTS:
        path = ROOT / name
        found += [path] if path.is_file() else path.rglob("*")
    return sorted(
        path
        for path in found
        if path.is_file() and path.suffix not in {".pyc", ".pyo"} and not path.is_symlink()
    )


def _base_recipe() -> str:
    return f"{_RELEASE} {' '.join(_PACKAGES)}"


def _archive(name: str, parts: list[bytes]) -> Path:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return folders.images() / f"{name}-{digest.hexdigest()[:16]}.tar"


@contextmanager
def _making(target: Path) -> Iterator[bool]:
    """Whether that archive has to be made; nobody else makes one meanwhile."""
    machine.require()
    folders.images().mkdir(parents=True, exist_ok=True)
    with (folders.images() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        needed = not target.is_file()
        yield needed
        os.utime(target)  # the oldest are those that nobody asked for lately
        if needed:
            _say(f"{target.name} is ready after {time.monotonic() - began:.0f} s")
        _prune(target)


def _prune(target: Path) -> None:
    kind = target.name.rpartition("-")[0]
    archives = sorted(
        folders.images().glob(f"{kind}-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for old in archives[_KEPT_ARCHIVES:]:
        old.unlink()


def _limit_storage() -> None:
    """Builds leave their steps behind for the next one; from some size on, begin anew."""
    storage = folders.images() / "storage"
    size = 0
    for folder, _, names in os.walk(storage):
        size += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in names)
    if size > _STORAGE_LIMIT_GIB << 30:
        _buildah("rmi", "--all", "--force")


def _buildah(*arguments: str, check: bool = True) -> str | None:
    """buildah's output; None when it failed. Raises ClusterError when ``check``."""
    return _run([*buildah(), *arguments], check=check)


def _run(command: list[str], *, check: bool = True) -> str | None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    if check:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise ClusterError(f"{' '.join(command)} failed:\n{tail}")
    return None


def _say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)
