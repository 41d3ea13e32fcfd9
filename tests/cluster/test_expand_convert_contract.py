"""The page on expanding, converting and contracting, typed as it is written, while somebody writes to every pod."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from controlplane import find_kubectl
from tests.cluster.shop import Shop, writing
from tests.cluster.test_app_releases import (
    ORDINALS,
    nobody_met_what_it_cannot_read,
    opened,
    starts,
)

PAGE = Path(__file__).parents[2] / "docs" / "expand-convert-contract.md"


def typed() -> list[tuple[str, str]]:
    """Each command of the page, and what stands below it."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found: list[tuple[str, str]] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), ""))
        else:
            command, said = found[-1]
            found[-1] = (command, said + line)
    return found


def test_the_page_works_as_written(shop: Shop, tmp_path: Path) -> None:
    """Skew is told, both are expanded, converted and contracted, and the databases follow the app's rollback; no
    release meets what it does not read, and nothing that was acknowledged is lost."""
    opened(shop)
    shop.apply(shop.storage_format(spec__target="v1"))
    shop.wait_until_ready()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_bytes(shop.cluster.kubeconfig.read_bytes())
    (tmp_path / "kubectl").symlink_to(find_kubectl())
    environment = shop.cluster.environment() | {"KUBECONFIG": str(kubeconfig)}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    here = f"kubectl config set-context --current --namespace={shop.namespace}"
    with writing(shop):
        for command, expected in [(here, ""), *typed()]:
            done = subprocess.run(
                shlex.split(command),
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=660,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert expected in done.stdout, command
    assert {shop.summary(ordinal)["format"] for ordinal in ORDINALS} == {
        "sqlitedict(natural pickle)"
    }
    nobody_met_what_it_cannot_read(shop)
    for ordinal in ORDINALS:
        met = [(reads, found) for _, reads, found in starts(shop, ordinal)]
        assert met[-3:] == [("v1,v2", "v2"), ("v2", "v2"), ("v1", "v1")], met
