"""The product's image, unpacked: what the tests of this folder run and look into."""

from __future__ import annotations

import json
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster import ClusterUnavailable, images, machine
from tests.support.requirements import unavailable

_RUN_SECONDS = 60


@dataclass(frozen=True)
class Image:
    """An image: ``config`` as its OCI configuration says, ``root`` its files, ``layers`` in order."""

    archive: Path
    root: Path
    config: dict[str, Any]
    layers: list[str]

    @property
    def environment(self) -> dict[str, str]:
        """The environment that a container begins with."""
        return dict(line.split("=", 1) for line in self.config["config"]["Env"])

    def layer_sizes(self) -> list[int]:
        """The size of each layer in bytes, uncompressed."""
        with tarfile.open(self.archive) as archive:
            # Layers of the same content are one file and, in the archive, links to it.
            members = [archive.getmember(layer) for layer in self.layers]
            return [
                archive.getmember(one.linkname).size if one.issym() else one.size for one in members
            ]

    def run(
        self,
        *arguments: str,
        uid: int = 54321,
        entrypoint: Sequence[str] | None = None,
        mounts: dict[Path, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a container by runc: read-only root, no capability, that user, no network.

        ``mounts`` are folders of this machine → where the container has them, writable.
        """
        command = [*(entrypoint or self.config["config"]["Entrypoint"]), *arguments]
        spec = _specification(self.root, command, self.environment, uid, mounts or {})
        name = f"storageformat-test-{uuid.uuid4().hex[:10]}"
        bundle = self.root.parent / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(spec))
        state = f"--root={self.root.parent / 'runc'}"
        return subprocess.run(
            [machine.program("runc"), state, "run", f"--bundle={bundle}", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_SECONDS,
        )


def _specification(
    root: Path,
    command: list[str],
    environment: dict[str, str],
    uid: int,
    mounts: dict[Path, str],
) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid, "gid": uid},
            "args": command,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            *(
                {
                    "destination": inside,
                    "type": "bind",
                    "source": str(outside),
                    "options": ["rbind", "rw"],
                }
                for outside, inside in mounts.items()
            ),
        ],
        "linux": {"namespaces": [{"type": one} for one in ("pid", "ipc", "mount", "network")]},
    }


@pytest.fixture(scope="session")
def image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Image]:
    """The image that the Dockerfile makes of this checkout, built if it has changed."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            archive = images.product()
    except ClusterUnavailable as error:
        unavailable(f"needs an image built: {error}")
        raise
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    manifest, config = _manifest(archive)
    root = folder / "root"
    root.mkdir()
    with tarfile.open(archive) as packed:
        for layer in manifest["Layers"]:
            member = packed.extractfile(layer)
            assert member is not None
            with tarfile.open(fileobj=member) as files:
                files.extractall(root, filter="fully_trusted")  # noqa: S202 - an image of our own
    yield Image(archive, root, config, manifest["Layers"])
    subprocess.run(["rm", "-rf", str(root)], check=True)


def _manifest(archive: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with tarfile.open(archive) as packed:

        def read(name: str) -> Any:
            member = packed.extractfile(name)
            assert member is not None
            return json.load(member)

        (manifest,) = read("manifest.json")
        return manifest, read(manifest["Config"])
