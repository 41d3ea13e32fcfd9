"""PersistentVolumes that are folders of this machine, one per claim."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.machine import program
from cluster.sandbox import Sandbox
from controlplane.client import Client

STORAGE_CLASS = "static"
_PATH = "/api/v1/persistentvolumes"


@dataclass(frozen=True)
class Volume:
    """One PersistentVolume; ``path`` is its content, for this machine's processes."""

    name: str
    path: Path
    client: Client

    def release(self) -> None:
        """Let a new claim of the same name have it, with its content."""
        self.client.patch(f"{_PATH}/{self.name}", {"spec": {"claimRef": {"uid": None}}})

    def delete(self) -> None:
        """Remove the PersistentVolume; its content stays until the cluster goes."""
        self.client.delete(f"{_PATH}/{self.name}")


@dataclass(frozen=True)
class Volumes:
    """The volumes of one cluster; their content is in ``folder``."""

    folder: Path
    sandbox: Sandbox
    client: Client

    def make_class(self) -> None:
        """Make the StorageClass, the default one: claims need not name it. No one provisions."""
        self.client.create(
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "metadata": {
                    "name": STORAGE_CLASS,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/no-provisioner",
                "reclaimPolicy": "Retain",
                # With Immediate the scheduler was seen to miss that a claim had been bound, and
                # left the pod for half a minute.
                "volumeBindingMode": "WaitForFirstConsumer",
            },
        )

    def make(
        self,
        namespace: str,
        claim: str,
        *,
        uid: int,
        gid: int | None = None,
        capacity: str = "1Gi",
        filesystem_mib: int | None = None,
        path: Path | None = None,
    ) -> Volume:
        """A volume for that claim alone, which need not exist yet; ``uid`` owns its top folder.

        With ``filesystem_mib`` it is a file system of its own of that size, so that it can be
        full. With ``path`` it is that folder of this machine, made if missing. Raises ClusterError.
        """
        name = f"{namespace}-{claim}"
        inside = path or self.folder / name
        inside.mkdir(parents=True, exist_ok=True)
        content = inside
        if filesystem_mib is not None:
            self._mount(inside, filesystem_mib)
            content = self.sandbox.path(inside)
        os.chown(content, uid, uid if gid is None else gid)
        self.client.create(_PATH, _volume(name, namespace, claim, inside, capacity))
        return Volume(name, content, self.client)

    def _mount(self, where: Path, size_mib: int) -> None:
        """Mount a new file system inside the sandbox: it goes with the sandbox by itself."""
        image = where.with_name(f"{where.name}.ext4")
        if image.exists():
            raise ClusterError(f"{where} has a file system already")
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        command = [program("mkfs.ext4"), "-q", "-m", "0", str(image)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        self.sandbox.run("mount", "-o", "loop", str(image), str(where))
        shutil.rmtree(self.sandbox.path(where) / "lost+found")


def _volume(name: str, namespace: str, claim: str, folder: Path, capacity: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": capacity},
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": str(folder), "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
        },
    }
