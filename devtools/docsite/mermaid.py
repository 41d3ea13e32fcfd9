"""The library that draws the diagrams: one file of one npm package, checked against its digest, kept in the user's cache.

Material for MkDocs has a reader's browser fetch it from a CDN. A cluster's documentation is read where there is no way out,
and whom somebody reads about is nobody else's business: it lies beside the pages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "11.17.2"
#: Of ``package/dist/mermaid.min.js``. Another version: `npm pack mermaid@VERSION`, and sha256sum.
SHA256 = "581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8"
_MEMBER = "package/dist/mermaid.min.js"


class MermaidUnavailableError(Exception):
    """The library is not in the cache, and could not be had."""


def script() -> Path:
    """The library, from the cache or from the npm registry. Raises MermaidUnavailableError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = cache / "storageformat-operator" / "mermaid" / f"mermaid-{VERSION}.min.js"
    if kept.is_file() and _digest(kept.read_bytes()) == SHA256:
        return kept
    data = _packed()
    if _digest(data) != SHA256:
        raise MermaidUnavailableError(
            f"mermaid {VERSION} of the npm registry is not the one that is expected: sha256 {_digest(data)}"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as fresh:
        fresh.write(data)
    Path(fresh.name).replace(kept)
    return kept


def _packed() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise MermaidUnavailableError(
            f"the site's diagrams take mermaid {VERSION}, which npm fetches once: apt-get install npm"
        )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", f"mermaid@{VERSION}", "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            raise MermaidUnavailableError(
                f"npm did not bring mermaid {VERSION}: {done.stderr.strip() or done.stdout.strip()}"
            )
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(_MEMBER)
            if member is None:
                raise MermaidUnavailableError(f"mermaid {VERSION} has no {_MEMBER}")
            return member.read()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
