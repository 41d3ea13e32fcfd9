"""Requests to the API server, each by a ``kubectl`` of its own: it knows every way into a cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote, urlencode

from format_operator.api.names import API_VERSION, PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS
from format_operator.kubectl.problems import Problem, from_kubectl

Object = dict[str, Any]

_OURS: Final = f"/apis/{API_VERSION}"
_GROUPS: Final[Mapping[str, str]] = {
    PLURAL_STORAGEFORMATS: _OURS,
    PLURAL_FORMATSTATES: _OURS,
    "pods": "/api/v1",
    "events": "/api/v1",
    "deployments": "/apis/apps/v1",
}
_PAGE: Final = 500
_IN_CLUSTER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Done:
    """How a command in a pod, or a kubectl, ended."""

    code: int
    out: str
    err: str


class Stream:
    """Lines of a request that does not end by itself; ``close`` ends it."""

    def __init__(self, process: subprocess.Popen[bytes], what: str) -> None:
        self._process = process
        self._what = what

    def lines(self) -> Iterator[str]:
        """Each line. Raises Problem when the request failed."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.decode(errors="replace").rstrip("\n")
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace")
        # A negative code: it was closed by us.
        if self._process.wait() > 0:
            raise from_kubectl(said, self._what)

    def close(self) -> None:
        """End it; a reader's ``lines`` end, too."""
        if self._process.poll() is None:
            self._process.terminate()


class Kubectl:
    """``flags`` go to every kubectl: context, kubeconfig, user and the like."""

    def __init__(self, flags: Sequence[str] = (), *, namespace: str | None = None) -> None:
        self._flags = tuple(flags)
        self._namespace = namespace
        self._program = os.environ.get("KUBECTL") or "kubectl"
        self._streams: list[Stream] = []
        if shutil.which(self._program) is None:
            raise Problem(
                f"there is no {self._program} on the PATH, and every request goes through it",
                hint="install kubectl, or name it: KUBECTL=/path/to/kubectl",
            )

    @property
    def namespace(self) -> str:
        """The one that was named, or the context's."""
        if self._namespace is None:
            self._namespace = self._default_namespace()
        return self._namespace

    @property
    def words(self) -> list[str]:
        """What a person would have to type before a command of kubectl's, to mean the same cluster."""
        return ["kubectl", *self._flags]

    # --- reading ----------------------------------------------------------------------------------------------

    def raw(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The answer's text. Raises Problem."""
        done = self.run("get", "--raw", _address(path, query))
        if done.code != 0:
            raise from_kubectl(done.err, f"get {path}")
        return done.out

    def items(
        self, plural: str, namespace: str | None, query: Mapping[str, str] | None = None
    ) -> tuple[list[Object], str]:
        """Every object of a kind, and the resource version of the list; ``namespace`` None: of all."""
        found: list[Object] = []
        after = ""
        while True:
            page_query = {**(query or {}), "limit": str(_PAGE)} | (
                {"continue": after} if after else {}
            )
            page = _object(self.raw(path_of(plural, namespace), page_query))
            found += page.get("items") or ()
            metadata = page.get("metadata") or {}
            after = metadata.get("continue") or ""
            if not after:
                return found, str(metadata.get("resourceVersion") or "")

    def get(self, plural: str, namespace: str, name: str) -> Object:
        """One object. Raises Problem, whose kind is NotFound where there is none."""
        return _object(self.raw(path_of(plural, namespace, name)))

    def stream(self, path: str, query: Mapping[str, str]) -> Stream:
        """A watch, or a log that is followed."""
        stream = Stream(self._popen("get", "--raw", _address(path, query)), f"get {path}")
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        """End every stream that still runs."""
        for stream in self._streams:
            stream.close()

    # --- doing ------------------------------------------------------------------------------------------------

    def patch_spec(
        self, namespace: str, name: str, body: Mapping[str, Any], *, dry_run: str = "none"
    ) -> Object:
        """A merge patch of a StorageFormat. Raises Problem."""
        words = ["patch", f"{PLURAL_STORAGEFORMATS}.{API_VERSION.split('/', maxsplit=1)[0]}", name]
        words += ["--namespace", namespace, "--type=merge", "--patch", json.dumps(body)]
        done = self.run(*words, f"--dry-run={dry_run}", "--output=json")
        if done.code != 0:
            raise from_kubectl(done.err, f"patch {name}")
        return _object(done.out)

    def exec(
        self,
        namespace: str,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: str | None = None,
    ) -> Done:
        """A command in a container. Raises Problem where it could not be run; its own failures are its code."""
        words = ["exec", *(("--stdin",) if stdin is not None else ()), "--namespace", namespace]
        done = self.run(*words, pod, "--container", container, "--", *command, stdin=stdin)
        if done.code != 0 and "command terminated with exit code" not in done.err:
            raise from_kubectl(done.err, f"exec in {pod}")
        return done

    def run(self, *words: str, stdin: str | None = None) -> Done:
        """One kubectl."""
        process = self._popen(*words, stdin=stdin is not None)
        out, err = process.communicate(stdin.encode() if stdin is not None else None)
        return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    def _popen(self, *words: str, stdin: bool = False) -> subprocess.Popen[bytes]:
        reads: int | IO[bytes] = subprocess.PIPE if stdin else subprocess.DEVNULL
        return subprocess.Popen(
            [self._program, *self._flags, *words],
            stdin=reads,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _default_namespace(self) -> str:
        done = self.run("config", "view", "--minify", "--output=jsonpath={..namespace}")
        if done.code == 0 and done.out.strip():
            return done.out.split()[0]
        if done.code != 0 and "context" in done.err and "does not exist" in done.err:
            raise from_kubectl(done.err, "config view")
        # As kubectl does in a pod: no kubeconfig, and a ServiceAccount's token.
        if done.code != 0 and _IN_CLUSTER.is_file():
            return _IN_CLUSTER.read_text(encoding="utf-8").strip()
        return "default"


def path_of(plural: str, namespace: str | None, name: str = "", sub: str = "") -> str:
    """The path of a kind, an object, or a subresource."""
    parts = [_GROUPS[plural]]
    parts += ["namespaces", quote(namespace)] if namespace else []
    parts += [plural, *((quote(name),) if name else ()), *((sub,) if sub else ())]
    return "/".join(parts)


def _address(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _object(text: str) -> Object:
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Problem(f"the API server's answer is no object: {text[:80]!r}")
    return body


def say(text: str) -> None:
    """One line for people, beside the data on stdout."""
    print(text, file=sys.stderr)
