"""What the README tells a person to type, typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from cluster import Cluster
from cluster.images import PRODUCT
from controlplane import find_kubectl
from tests.cluster.shop import UID

ROOT = Path(__file__).parents[2]
#: What the README's `docker build` calls the image, as a node's runtime has it.
IMAGE = "docker.io/library/storageformat-operator:0.1.0"


def commands() -> list[str]:
    """The lines of "Install on your cluster"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Install on your cluster") :]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[:1]
    return [line.removeprefix("$ ") for line in block.splitlines()]


def test_the_readme_works_as_written(another_cluster: Cluster, tmp_path: Path) -> None:
    """Its lines, one after the other, in an empty cluster: at the end everything is converted."""
    cluster = another_cluster
    cluster.runtime.tag(PRODUCT, IMAGE)
    for ordinal in range(3):
        cluster.volume("default", f"data-orders-{ordinal}", uid=UID)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").symlink_to(find_kubectl())
    (programs / "helm").symlink_to(cluster.binaries.path("helm"))
    environment = cluster.environment()
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    said = ""
    for command in commands():
        done = subprocess.run(
            shlex.split(command),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, (
            f"{command}\n{done.stdout}{done.stderr}{cluster.describe('default')}"
        )
        said = done.stdout
    assert len(re.findall(r"orders\.orders-\d +Converted +v2 +v2", said)) == 3, said
