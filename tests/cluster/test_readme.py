"""What the tutorial and the README tell a person to type, typed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cluster import Cluster
from cluster.images import PRODUCT
from controlplane import find_kubectl
from tests.cluster.shop import UID
from tests.support.shown import Command, consoles, differs

ROOT = Path(__file__).parents[2]
#: What the `docker build` of both calls the image, as a node's runtime has it.
IMAGE = "docker.io/library/storageformat-operator:0.1.0"


def tutorial() -> list[Command]:
    """The tutorial's commands, each with what is shown below it."""
    return consoles((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))


def test_the_tutorial_begins_with_the_readmes_commands() -> None:
    """Whatever stands below "Install on your cluster" in the README is typed in the tutorial, in the same order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Install on your cluster") :]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[:1]
    readme = [line.removeprefix("$ ") for line in block.splitlines()]
    typed = iter(one.line for one in tutorial())
    assert readme
    for line in readme:
        assert line in typed, f"the tutorial does not type it, or not here: {line}"


class Terminal:
    """A shell in the repository's root, with kubectl and helm, whose default cluster is this one."""

    def __init__(self, cluster: Cluster, programs: Path) -> None:
        self._cluster = cluster
        (programs / "kubectl").symlink_to(find_kubectl())
        (programs / "helm").symlink_to(cluster.binaries.path("helm"))
        self._environment = cluster.environment()
        self._environment["PATH"] = f"{programs}{os.pathsep}{self._environment['PATH']}"

    def type(self, command: Command) -> None:
        """It prints what is shown, and fails exactly if that is the API server's refusal."""
        done = subprocess.run(
            ["/bin/bash", "-c", command.line],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        said = done.stdout + done.stderr
        wrong = differs(command.shown, said)
        if (done.returncode != 0) is not (" is invalid: " in command.shown) or wrong is not None:
            state = self._cluster.describe("default")
            raise AssertionError(f"{command.line}: {done.returncode}\n{wrong}\n{said}{state}")


def troubleshooting() -> list[Command]:
    """The commands of that page; what would change something is asked of the server only."""
    page = consoles((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    return [
        Command(one.line + (" --dry-run=server" if " patch " in one.line else ""), one.shown)
        for one in page
        if "--previous" not in one.line  # nothing has crashed
    ]


# Two rollouts of three pods, an installation and its end, on a machine that has other things to do.
@pytest.mark.timeout(900)
def test_the_tutorial_works_as_written(another_cluster: Cluster, tmp_path: Path) -> None:
    """Its commands, one after the other, in an empty cluster, print what the page shows.

    Before it is cleaned up, every command of the page about troubleshooting works, too.
    """
    another_cluster.runtime.tag(PRODUCT, IMAGE)
    for ordinal in range(3):
        another_cluster.volume("default", f"data-orders-{ordinal}", uid=UID)
    terminal = Terminal(another_cluster, tmp_path)
    typed, others = tutorial(), troubleshooting()
    assert len(typed) > 15
    assert len(others) > 15
    clean_up = next(at for at, one in enumerate(typed) if one.line.startswith("kubectl delete"))
    for one in (*typed[:clean_up], *others, *typed[clean_up:]):
        terminal.type(one)
