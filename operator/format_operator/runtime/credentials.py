"""Where the API server is and how this process proves who it is.

The kubelet replaces a projected token before it expires, so the file is read for every request and never kept.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from format_operator.settings import ApiServer


class NoApiServer(Exception):
    """The arguments and the environment do not say where the API server is."""


@dataclass(frozen=True)
class Access:
    """An address and the files that prove identity on both sides."""

    url: str
    ca_file: str | None = None
    token_file: str | None = None
    static_token: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    insecure: bool = False

    def token(self) -> str | None:
        """The token as it is now. Raises OSError."""
        if self.token_file is None:
            return self.static_token
        return Path(self.token_file).read_text(encoding="ascii").strip()

    def trust_changed_at(self) -> float:
        """When the CA's file last changed; the TLS context is made anew then."""
        return os.stat(self.ca_file).st_mtime if self.ca_file is not None else 0.0

    def tls(self) -> ssl.SSLContext | None:
        """None for plain http. Raises OSError, ssl.SSLError."""
        if not self.url.startswith("https:"):
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context


def access(server: ApiServer, environ: Mapping[str, str] = os.environ) -> Access:
    """How to reach the API server. Raises NoApiServer."""
    if server.kubeconfig is not None:
        return _from_kubeconfig(Path(server.kubeconfig))
    directory = Path(server.token_directory)
    token_file = server.token_file or _if_exists(directory / "token")
    ca_file = server.ca_file or _if_exists(directory / "ca.crt")
    url = server.url
    if url is None:
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise NoApiServer("not in a cluster: name the API server by --kube-api or --kubeconfig")
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        # In a cluster there is a token; that it is not there (yet) must be an error of each request.
        token_file = token_file or str(directory / "token")
    return Access(url.rstrip("/"), ca_file, token_file)


def _if_exists(path: Path) -> str | None:
    return str(path) if path.exists() else None


def _from_kubeconfig(path: Path) -> Access:
    import yaml  # noqa: PLC0415 # only here, and never in a pod

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise NoApiServer(f"cannot understand the kubeconfig {path}: {error!r}") from error
    return Access(
        url=str(cluster["server"]).rstrip("/"),
        ca_file=_file(path, cluster, "certificate-authority"),
        token_file=_file(path, user, "tokenFile"),
        static_token=user.get("token"),
        certificate_file=_file(path, user, "client-certificate"),
        key_file=_file(path, user, "client-key"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
    )


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)


def _file(kubeconfig: Path, section: Mapping[str, Any], key: str) -> str | None:
    """The file named by ``key``, or one made of ``key-data`` (ssl reads certificates from files only)."""
    if key in section:
        return str(kubeconfig.parent / str(section[key]))
    data = section.get(f"{key}-data")
    if data is None:
        return None
    descriptor, name = tempfile.mkstemp(prefix="storageformat-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64decode(data))
    return name
